"""Opens the storage of a bucket's URL: a store, with the data directory before it.

    s3://bucket/prefix     gs://bucket/prefix     az://container/prefix, abfs(s)://…

What `[stores.NAME]` says beside the URL comes as keyword arguments.
"""

from pathlib import Path
from urllib.parse import urlsplit

from app.storage.objects import Bucket
from app.storage.s3 import S3Storage
from app.storage.staged import StagedStorage

MARK = "store-id"


class StagedBucket(StagedStorage):
    """A bucket with the data directory before it."""

    store: S3Storage

    def __init__(self, store: S3Storage, data_dir: Path, *, has_urls: bool = True) -> None:
        """`has_urls`: trainers elsewhere get URLs of the store; else they send to the service."""
        super().__init__(store, data_dir)
        self.has_urls = has_urls

    @property
    def bucket(self) -> Bucket:
        """The bucket, which keeps other files of runs as well (artifacts.py)."""
        return self.store.bucket


def open_bucket(url: str, endpoint: str = "", region: str = "") -> Bucket:
    """Return the bucket of a URL; nothing is sent yet. Raises ValueError."""
    parts = urlsplit(url)
    if not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"LLM_TRAIN_STORAGE: {url!r:.200} is not a URL like s3://bucket/prefix")
    options = {"endpoint": endpoint, "region": region}
    return Bucket.open(url.rstrip("/"), {name: value for name, value in options.items() if value})


def open_storage(
    url: str,
    data_dir: Path,
    *,
    endpoint: str = "",
    region: str = "",
    trainers: str = "signed",
    verify: str = "bytes",
) -> StagedBucket:
    """Return the storage of a bucket. Raises ValueError for a URL that is none."""
    bucket = open_bucket(url, endpoint, region)
    store = S3Storage(bucket, data_dir / MARK, attested=verify == "attested")
    return StagedBucket(store, data_dir, has_urls=trainers == "signed")
