"""Where the files of checkpoints are kept, found by the scheme of a URL.

`base.py` is the contract, with the steps to add a storage; `directory.py` the one of the data
directory, whose own identity is in `data_dir.py`; `readers.py` the threads that read, `streams.py`
what is between them and the event loop. `artifacts.py` keeps the other files of runs, `files.py`
opens what a trainer can reach, for every room that reads a directory of a run.
"""

from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from app.storage.base import CheckpointStorage

GROUP = "llm_train.storage"
STORAGES = {"directory": "app.storage.directory:DirectoryStorage"}
"""The built-in ones; those of other packages are found by entry point."""


def get_storage(url: str, data_dir: Path) -> CheckpointStorage:
    """Open the storage of a URL, such as "directory:". Raises ValueError for an unknown one."""
    scheme = url.partition(":")[0]
    opener: Any = None
    if scheme in STORAGES:
        module, _, attribute = STORAGES[scheme].partition(":")
        opener = getattr(import_module(module), attribute)
    for found in () if opener else entry_points(group=GROUP, name=scheme):
        opener = found.load()
    if opener is None:
        known = sorted({*STORAGES, *entry_points(group=GROUP).names})
        raise ValueError(f"LLM_TRAIN_STORAGE: {url!r} begins with none of {', '.join(known)}")
    return cast(CheckpointStorage, opener(url, data_dir))
