"""Retention: a recipe may keep only the newest checkpoints of each run (`keep_checkpoints`).

plan(tx, …)      the dry run: what would be deleted
delete(tx, …)    records the prunable checkpoints of one run as deleted, which is the decision

The storage removes the files afterwards (`CheckpointStorage.delete`), which `record_files_removed`
records; after a crash in between they are in `list_pending_deletion`.

A checkpoint whose metrics or weights are known to hold NaN (`healthy` is False) never takes the
place of a good one, and the best by a metric (`keep_best`) stays besides.

Never deleted: a marked checkpoint, the one that a cancel promised, one that has an alias, the
source of a run that is not over, and what a live run started from.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Executable, exists, func, or_, select, update

from app.db.sql import Tx, columns, load, query, select_all, statement
from app.db.tables import Checkpoint, Run
from app.domain.lifecycle import GONE, TERMINAL
from app.domain.lifecycle import CheckpointState as State
from app.domain.recipes import BestMode, Recipe
from app.services import checkpoints, runs

_checkpoint = columns(Checkpoint)
_run = columns(Run)
_alias = columns(Checkpoint, "alias")

_READY_FILES = (_checkpoint.state == State.READY.value) & _checkpoint.stored_as_id.is_(None)
_NOT_OVER = [_run.status != status.value for status in sorted(TERMINAL)]


@query(tuple[str])
def _over_limit(*, recipe: str, keep: int) -> Executable:
    return (
        select(_run.id)
        .join_from(Run.__table__, Checkpoint.__table__, _checkpoint.run_id == _run.id)  # type: ignore[attr-defined]
        .where(_run.recipe == recipe, _READY_FILES)
        .group_by(_run.id)
        .having(func.count() > keep)
        .order_by(_run.id)
    )


@query(tuple[str])
def _over_limit_in(*, recipe: str, keep: int, experiment: str) -> Executable:
    return (
        select(_run.id)
        .join_from(Run.__table__, Checkpoint.__table__, _checkpoint.run_id == _run.id)  # type: ignore[attr-defined]
        .where(_run.recipe == recipe, _run.experiment_id == experiment, _READY_FILES)
        .group_by(_run.id)
        .having(func.count() > keep)
        .order_by(_run.id)
    )


@query(tuple[str])
def _recipes() -> Executable:
    return select(_run.recipe).where(_run.recipe.is_not(None)).distinct()


@query(tuple[str])
def _needed(*, run: str, root: str) -> Executable:
    return select(_checkpoint.id).where(
        _checkpoint.run_id == run,
        or_(
            exists().where(
                _alias.stored_as_id == _checkpoint.id,
                *[_alias.state != state.value for state in sorted(GONE)],
            ),
            exists().where(
                _run.root_run_id == root,
                _run.source_checkpoint_id == _checkpoint.id,
                *_NOT_OVER,
            ),
        ),
    )


_has_files_to_remove = (
    (_checkpoint.state == State.DELETED.value)
    & _checkpoint.files_removed_at.is_(None)
    & _checkpoint.stored_as_id.is_(None)
)


@query(Checkpoint)
def _pending_deletion() -> Executable:
    return select_all(Checkpoint).where(_has_files_to_remove).order_by(_checkpoint.id)


# Guarded by the state: a trainer may have saved under the same name again.


@statement
def _files_removed(*, key: str, at: str) -> Executable:
    return (
        update(Checkpoint)
        .where(_checkpoint.id == key, _has_files_to_remove)
        .values(files_removed_at=at)
    )


class Rule(NamedTuple):
    """A rule for the checkpoints of a run to keep: the `newest` good ones, and the best."""

    newest: int
    best: str | None = None
    highest: bool = False


Limit = Rule | int
Keep = Mapping[str, Limit] | int
"""The number of checkpoints of a run to keep: by recipe, or one number for every recipe."""


def rule_of(recipe: Recipe) -> Rule | None:
    """Return what a recipe keeps; None: all."""
    if not recipe.keep_checkpoints:
        return None
    highest = recipe.keep_best_mode is BestMode.MAX
    return Rule(recipe.keep_checkpoints, recipe.keep_best or None, highest)


def get_limits(recipes: Mapping[str, Recipe]) -> dict[str, Limit]:
    """Return what the recipes keep that do not keep all."""
    return {name: rule for name, recipe in recipes.items() if (rule := rule_of(recipe))}


def list_over_limit(tx: Tx, keep: Keep, experiment_id: str | None = None) -> dict[str, Limit]:
    """Return the ids of the runs with more ready checkpoints than are kept, and what is kept."""
    if isinstance(keep, int):
        keep = {row[0]: keep for row in tx.all(_recipes)}
    limits: dict[str, Limit] = {}
    for recipe, limit in keep.items():
        number = _rule(limit).newest
        if experiment_id is None:
            rows = tx.all(_over_limit, recipe=recipe, keep=number)
        else:
            rows = tx.all(_over_limit_in, recipe=recipe, keep=number, experiment=experiment_id)
        limits |= {row[0]: limit for row in rows}
    return limits


def _rule(limit: Limit) -> Rule:
    return Rule(limit) if isinstance(limit, int) else limit


def plan(tx: Tx, keep: Keep, experiment_id: str | None = None) -> list[Checkpoint]:
    """Return the checkpoints that would be deleted. Changes nothing."""
    return [
        checkpoint
        for run_id, number in list_over_limit(tx, keep, experiment_id).items()
        for checkpoint in list_prunable(tx, runs.get(tx, run_id), number)
    ]


def list_prunable(tx: Tx, run: Run, keep: Limit) -> list[Checkpoint]:
    """Return the checkpoints of a run that nothing needs and the rule does not keep."""
    ready = checkpoints.list_ready(tx, run.id)
    with_files = [checkpoint for checkpoint in ready if checkpoint.stored_as_id is None]
    needed = {row[0] for row in tx.all(_needed, run=run.id, root=run.root_run_id)}
    started_from = run.start_step if run.status not in TERMINAL else None
    kept = _choose_kept(with_files, _rule(keep))
    return [
        checkpoint
        for checkpoint in with_files
        if checkpoint.id not in kept
        and checkpoint.marked_at is None
        and checkpoint.id != run.promised_checkpoint_id
        and checkpoint.id not in needed
        and checkpoint.step != started_from
    ]


def _choose_kept(newest_first: Sequence[Checkpoint], rule: Rule) -> set[str]:
    """Return the ids of the checkpoints that a rule keeps: also the newest, whatever it is like."""
    good = [checkpoint for checkpoint in newest_first if checkpoints.is_good(checkpoint)]
    kept = [*newest_first[:1], *(good or newest_first)[: rule.newest]]
    if rule.best is not None:
        measured = [
            (value, checkpoint)
            for checkpoint in good
            if (value := load(checkpoint.metrics).get(rule.best)) is not None
        ]
        if measured:
            pick = max if rule.highest else min
            kept.append(pick(measured, key=lambda pair: pair[0])[1])
    return {checkpoint.id for checkpoint in kept}


def delete(tx: Tx, run_id: str, keep: Limit) -> list[Checkpoint]:
    """Record the prunable checkpoints of a run as deleted, with an event each.

    Their files are removed afterwards.
    """
    run = runs.lock(tx, run_id)
    for checkpoint in list_prunable(tx, run, keep):
        # Locked, so that nobody resumes from it or marks it from here on; then read again.
        checkpoints.lock_by_path(tx, checkpoint.ckpt_path)
    rule = _rule(keep)
    best = f", and the best by {rule.best}" if rule.best else ""
    reason = f"Retention deleted it: of this run the newest {rule.newest} are kept{best}."
    return [
        checkpoints.mark_deleted(tx, checkpoint, reason)
        for checkpoint in list_prunable(tx, run, keep)
    ]


def list_pending_deletion(tx: Tx) -> list[Checkpoint]:
    """Return the deleted checkpoints whose files may still be there."""
    return tx.all(_pending_deletion)


def record_files_removed(tx: Tx, removed: Sequence[Checkpoint]) -> None:
    """Record that the files of deleted checkpoints are gone. May be repeated."""
    for checkpoint in removed:
        tx.send(_files_removed, key=checkpoint.id, at=tx.now)
