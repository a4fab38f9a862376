"""The library for training code: reports, checkpoints and stop requests.

    Reporter           reporter.py: `from_env`, `log`, `effective`, `checkpoint`, `finish`
    Saving             saving.py: a checkpoint in two steps, `commit` and `abandon`
    StopRequest        stopping.py: signals, the stop file and the service's request
    is_rank_0          ranks.py: the process that reports and commits
    CheckpointError    manifest.py: a directory is not a whole checkpoint

and for scripts and notebooks:

    Client             client.py: `submit`, `runs`, `run`, `compare`
    ApiError           requests.py: the service refused, in its own words

A report goes reporter → buffer → sender → spool → connection → the service. The module
`llm_train.checkpoint` has the commit protocol alone: `begin`, `commit`, `verify`.

Imports nothing but the standard library. Python 3.10 or newer.
"""

from typing import TYPE_CHECKING, Any

from llm_train.checkpoint import CheckpointError
from llm_train.ranks import is_rank_0

if TYPE_CHECKING:
    from llm_train.client import Client
    from llm_train.reporter import Reporter
    from llm_train.requests import ApiError
    from llm_train.saving import Saving
    from llm_train.stopping import StopRequest

__all__ = [
    "ApiError", "CheckpointError", "Client", "Reporter", "Saving", "StopRequest", "is_rank_0",
]  # fmt: skip
_LATER = {
    "ApiError": "requests", "Client": "client", "Reporter": "reporter", "Saving": "saving",
    "StopRequest": "stopping",
}  # fmt: skip
"""Loaded when they are used: a trainer has no use for the client, the service none for reports."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'llm_train' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"llm_train.{_LATER[name]}"), name)
