"""What runs beside training code: reports, checkpoints and stop requests.

    Reporter           reporter.py: `from_env`, `log`, `effective`, `checkpoint`, `finish`
    Saving             saving.py: a checkpoint in two steps, `commit` and `abandon`
    StopRequest        stopping.py: signals, the stop file and the service's request
    is_rank_0          ranks.py: the process that reports and commits
    CheckpointError    manifest.py: a directory is not a whole checkpoint

A report goes reporter → buffer → sender → spool → connection → the service. The module
`llm_train.checkpoint` has the commit protocol alone: `begin`, `commit`, `verify`.

Imports nothing but the standard library. Python 3.10 or newer.
"""

from llm_train.checkpoint import CheckpointError
from llm_train.ranks import is_rank_0
from llm_train.reporter import Reporter
from llm_train.saving import Saving
from llm_train.stopping import StopRequest

__all__ = ["CheckpointError", "Reporter", "Saving", "StopRequest", "is_rank_0"]
