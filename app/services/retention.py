"""Retention: a recipe may keep only the newest checkpoints of each run (`keep_checkpoints`).

plan(tx, …)      the dry run: what would be deleted
delete(tx, …)    takes the surplus of one run off the record, which is what decides
remove(…)        then the files; a crash in between leaves `doomed`, which are removed later

Never taken: a marked checkpoint, one that another path stands for, the source of a run that
is not over, and what a live run started from.
"""

import hashlib
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import bindparam, exists, func, or_, select, true, update
from sqlalchemy.orm import aliased

from app import files
from app.domain import paths
from app.domain.lifecycle import TERMINAL
from app.domain.lifecycle import CheckpointState as State
from app.domain.recipes import Recipe
from app.services import checkpoints, runs, verification
from app.services.checkpoints import DELETED, DELETING
from app.store.sql import Statement, Tx, columns, every
from app.store.tables import Checkpoint, Run
from app.trainer.checkpoint import MANIFEST, MAX_MANIFEST_BYTES

_checkpoint = columns(Checkpoint)
_run = columns(Run)
_other: Any = aliased(Checkpoint)

_READY_FILES = (_checkpoint.state == State.READY.value) & _checkpoint.stored_as_id.is_(None)
_NOT_OVER = [_run.status != status.value for status in sorted(TERMINAL)]


def _crowded(where: Any) -> Statement[tuple[str]]:
    return Statement(
        select(_run.id)
        .join_from(Run.__table__, Checkpoint.__table__, _checkpoint.run_id == _run.id)  # type: ignore[attr-defined]
        .where(_run.recipe == bindparam("recipe"), _READY_FILES, where)
        .group_by(_run.id)
        .having(func.count() > bindparam("keep"))
        .order_by(_run.id)
    )


_RECIPES = Statement[tuple[str]](select(_run.recipe).where(_run.recipe.is_not(None)).distinct())
_CROWDED = _crowded(true())
_CROWDED_IN = _crowded(_run.experiment_id == bindparam("experiment"))
_NEEDED = Statement[tuple[str]](
    select(_checkpoint.id).where(
        _checkpoint.run_id == bindparam("run"),
        or_(
            exists().where(_other.stored_as_id == _checkpoint.id, _other.state != State.LOST.value),
            exists().where(
                _run.root_run_id == bindparam("root"),
                _run.source_checkpoint_id == _checkpoint.id,
                *_NOT_OVER,
            ),
        ),
    )
)
_DOOMED = Statement(
    every(Checkpoint)
    .where(_checkpoint.state == State.LOST.value, _checkpoint.reason == DELETING)
    .order_by(_checkpoint.id),
    Checkpoint,
)
_GONE = Statement[Any](
    update(Checkpoint)
    .where(  # a trainer may have written the same name again
        _checkpoint.id == bindparam("key"),
        _checkpoint.state == State.LOST.value,
        _checkpoint.reason == DELETING,
    )
    .values(reason=DELETED[1])
)


Keep = Mapping[str, int] | int
"""How many checkpoints of a run are kept, by recipe; or of every run that the service trains."""


def kept(recipes: Mapping[str, Recipe]) -> dict[str, int]:
    """What the recipes that are configured keep themselves."""
    return {name: each.keep_checkpoints for name, each in recipes.items() if each.keep_checkpoints}


def crowded(tx: Tx, keep: Keep, experiment_id: str | None = None) -> dict[str, int]:
    """The runs with more checkpoints than are kept, and how many are."""
    if isinstance(keep, int):
        keep = {row[0]: keep for row in tx.all(_RECIPES)}
    found: dict[str, int] = {}
    for recipe, number in keep.items():
        if experiment_id is None:
            rows = tx.all(_CROWDED, recipe=recipe, keep=number)
        else:
            rows = tx.all(_CROWDED_IN, recipe=recipe, keep=number, experiment=experiment_id)
        found |= {row[0]: number for row in rows}
    return found


def plan(tx: Tx, keep: Keep, experiment_id: str | None = None) -> list[Checkpoint]:
    """What would be deleted."""
    found: list[Checkpoint] = []
    for run_id, number in crowded(tx, keep, experiment_id).items():
        found += surplus(tx, runs.get(tx, run_id), number)
    return found


def surplus(tx: Tx, run: Run, keep: int) -> list[Checkpoint]:
    """The checkpoints of a run that nothing needs, but for the newest `keep`."""
    files = [each for each in checkpoints.ready(tx, run.id) if each.stored_as_id is None]
    needed = {row[0] for row in tx.all(_NEEDED, run=run.id, root=run.root_run_id)}
    started_from = run.start_step if run.status not in TERMINAL else None
    return [
        each
        for each in files[keep:]
        if each.marked_at is None and each.id not in needed and each.step != started_from
    ]


def delete(tx: Tx, run_id: str, keep: int) -> list[Checkpoint]:
    """Takes the surplus of a run off the record: lost, with the reason and an event."""
    run = runs.lock(tx, run_id)
    for each in surplus(tx, run, keep):
        checkpoints.find(tx, each.ckpt_path)  # held: nobody resumes from it or marks it now
    return [
        checkpoints.lost(tx, each, DELETING, event="deleted") for each in surplus(tx, run, keep)
    ]


def doomed(tx: Tx) -> list[Checkpoint]:
    """Deleted from the record, and perhaps not yet from the disk."""
    return tx.all(_DOOMED)


def gone(tx: Tx, removed: Sequence[Checkpoint]) -> None:
    """The files are deleted, too."""
    for each in removed:
        tx.run(_GONE, key=each.id)


def remove(data_dir: Path, checkpoint: Checkpoint) -> None:
    """Deletes the files, so that at no time a part of them looks like a checkpoint.

    Another checkpoint that was committed under the name since stays. Raises OSError.
    """
    name, trash = paths.parse(checkpoint.ckpt_path).name, f".trash-{checkpoint.id}"
    try:
        with verification.parent(data_dir, checkpoint.ckpt_path) as folder:
            known = (None, checkpoint.sha256)
            if files.exists(folder, name) and _manifest_of(folder, name) in known:
                os.rename(name, trash, src_dir_fd=folder, dst_dir_fd=folder)
            if not files.exists(folder, trash):
                return
            if stat.S_ISLNK(os.stat(trash, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(trash, dir_fd=folder)  # what somebody moved elsewhere is theirs
            else:
                shutil.rmtree(trash, dir_fd=folder)
    except FileNotFoundError:
        return


def _manifest_of(folder: int, name: str) -> str | None:
    """The SHA-256 of the manifest that stands there, if one does."""
    try:
        with files.inner(folder, name) as opened:
            content = files.read(opened, MANIFEST, MAX_MANIFEST_BYTES)
    except (FileNotFoundError, files.Unusable):
        return None
    return hashlib.sha256(content).hexdigest()
