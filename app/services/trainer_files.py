"""Files of checkpoints that a trainer exchanges with the storage itself: who may, and of which.

The URLs are made by `uploads`; here are the fences. They are the same for a trainer that the
service launched elsewhere and for one that attached by itself.
"""

from app.db.sql import Tx
from app.db.tables import Run
from app.domain import paths
from app.domain.lifecycle import is_external
from app.domain.paths import CheckpointPath
from app.domain.reports import SavedCheckpoint
from app.errors import NotFound, StaleAttempt
from app.services import attempts, checkpoints, reports, runs, sessions
from app.storage.base import Committed


def get_path(
    tx: Tx, run_id: str, name: str, attempt: int | None, session: str | None
) -> CheckpointPath:
    """Return the path under which the run's trainer saves a checkpoint of this name.

    Raises NotFound, RunFinished, StaleAttempt, SessionActive.
    """
    run = runs.get(tx, run_id)
    sessions.require_current(run, attempt, session)
    return CheckpointPath(run.experiment_id, run.id, name)


def record_committed(
    tx: Tx, run_id: str, done: Committed, attempt: int | None, session: str | None
) -> Run:
    """Record a checkpoint that the trainer has put into the storage. May be repeated.

    Raises like `get_path`, and RunLimit: it is found then at the attempt's end.
    """
    run = runs.lock(tx, run_id)
    sessions.require_current(run, attempt, session)
    manifest = done.manifest
    saved = SavedCheckpoint(
        name=done.path.name, step=manifest.step, size_bytes=manifest.size_bytes,
        sha256=manifest.sha256, in_data_dir=True,
    )  # fmt: skip
    return reports.record_saved(tx, run, [saved])


def get_source(tx: Tx, run_id: str, attempt: int | None) -> CheckpointPath:
    """Return the path of the checkpoint that the run's trainer starts from.

    Raises NotFound: it starts from none; StaleAttempt.
    """
    run = runs.get(tx, run_id)
    if attempt is not None and not is_external(run):
        if attempt != run.attempt:
            raise StaleAttempt(f"Attempt {attempt} of this run is over.", attempt=run.attempt)
        path = attempts.get(tx, run_id, attempt).resume_path
        if path is not None:
            return paths.parse(path)
    elif run.source_checkpoint_id is not None:
        named = checkpoints.get(tx, run.source_checkpoint_id)
        return paths.parse(checkpoints.get_stored(tx, named).ckpt_path)
    raise NotFound("This run starts from no checkpoint.")
