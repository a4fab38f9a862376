"""Limits on what one run's trainers may add to its experiment's history, apart from points."""

from app.db.sql import Tx
from app.db.tables import Run
from app.errors import RunLimit
from app.services import runs

MAX_HISTORY_BYTES = 16 * 1024 * 1024
ENTRY_BYTES = 1024
"""The size that a checkpoint, or an event, counts as."""


def charge(tx: Tx, run: Run, size: int, pointer: str) -> Run:
    """Count what a report adds to the history. Raises RunLimit."""
    if run.history_bytes + size > MAX_HISTORY_BYTES:
        raise RunLimit(
            "The trainers of this run have reported as many checkpoints, hyperparameters and "
            "starts as one run may hold; training can go on without this one.",
            errors=[{"pointer": pointer, "detail": "is more than one run may hold"}],
        )
    return runs.change(tx, run, history_bytes=run.history_bytes + size)
