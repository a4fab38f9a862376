"""Services whose checkpoints are in a bucket of a real server (`tests/clusters`)."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.storage.buckets import StagedBucket, open_storage
from tests.support.buckets import NAME
from tests.support.service import Home, home


def store_table(url: str, prefix: str, **options: str) -> str:
    """The table `[stores.main]` of a prefix of the bucket."""
    table = {"url": f"s3://{NAME}/{prefix}", "endpoint": url, **options}
    return "\n[stores.main]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in table.items())


@contextmanager
def home_in(
    tmp_path: Path, url: str, store: dict[str, str] | None = None, **recipes: str
) -> Iterator[Home]:
    """A place for services whose checkpoints are in the bucket."""
    with home(tmp_path, **recipes) as place:
        place.settings["STORAGE"] = "main"
        with Path(place.settings["RECIPES"]).open("a") as file:
            file.write(store_table(url, tmp_path.name, **store or {}))
        yield place


def storage_of(place: Home, url: str) -> StagedBucket:
    """The same storage, of another process."""
    return open_storage(f"s3://{NAME}/{place.path.name}", place.path / "data", endpoint=url)
