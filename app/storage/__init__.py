"""Storages of checkpoint files, found by the scheme of a URL.

`base.py` is the contract, with the steps to add a storage; `directory.py` the storage in the data
directory, whose identity is in `data_dir.py`; `readers.py` has the threads that read, `streams.py`
connects them with the event loop. `artifacts.py` keeps the other files of runs, `event_files.py`
follows the TensorBoard files that a trainer writes, and `files.py` opens files that a trainer can
access, for every package that reads a run's directory.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from app.domain.stores import StoreTable
from app.storage.base import CheckpointStorage

GROUP = "llm_train.storage"
_BUCKET = "app.storage.buckets:open_storage"
STORAGES = {
    "directory": "app.storage.directory:DirectoryStorage",
    **dict.fromkeys(("s3", "gs", "az", "abfs", "abfss"), _BUCKET),
}
"""The built-in ones; those of other packages are found by entry point."""


def get_storage(
    wanted: str, data_dir: Path, stores: Mapping[str, StoreTable] | None = None
) -> CheckpointStorage:
    """Open the storage of a URL, such as "directory:", or of one of the configured `stores`.

    One without a `location` gets the data directory before it (staged.py).
    Raises ValueError for an unknown one, and for one that cannot be opened.
    """
    table = (stores or {}).get(wanted)
    url, options = (wanted, {}) if table is None else (table.url, dict(table.options))
    scheme, colon, _ = url.partition(":")
    opener: Any = None
    if scheme in STORAGES and colon:
        opener = _load(STORAGES[scheme])
    for entry_point in () if opener else entry_points(group=GROUP, name=scheme):
        opener = entry_point.load()
    if opener is None:
        known = sorted({*STORAGES, *entry_points(group=GROUP).names})
        names = "".join(f", [stores.{name}]" for name in stores or ())
        raise ValueError(
            f"LLM_TRAIN_STORAGE: {wanted!r} begins with none of {', '.join(known)}{names}"
        )
    return _with_location(cast(CheckpointStorage, opener(url, data_dir, **options)), data_dir)


def _with_location(storage: CheckpointStorage, data_dir: Path) -> CheckpointStorage:
    """Put the data directory before a storage that trainers of this machine cannot save in."""
    if storage.location("exp", "run") is not None:
        return storage
    from app.storage.staged import StagedStorage  # most services need it never

    return StagedStorage(storage, data_dir)


def _load(place: str) -> Any:
    module, _, attribute = place.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except ModuleNotFoundError as missing:
        if missing.name != "obstore":
            raise
        raise ValueError(
            "LLM_TRAIN_STORAGE: object stores need a package: pip install 'llm-train-api[s3]'"
        ) from None
