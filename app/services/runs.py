"""Runs: submit, find, cancel, and `move`, the one door for status changes.

`resuming` submits runs that go on from a checkpoint, or once more.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar, Unpack

from sqlalchemy import Executable, delete, text, update

from app.db.changes import SUPERVISOR
from app.db.objects import replace
from app.db.rows import RunChanges, RunSummaryRow
from app.db.sql import (
    Statement,
    Tx,
    by_id,
    changing,
    columns,
    dump,
    load,
    query,
    select_all,
    select_row,
    statement,
)
from app.db.tables import Checkpoint, MetricLatest, Run, RunTag
from app.domain.ids import new_id
from app.domain.lifecycle import LAUNCHED, MOVES, TERMINAL, Reason, RunStatus, is_external
from app.domain.recipes import Recipe
from app.domain.requests import RunRequest
from app.domain.texts import searchable
from app.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    RunFinished,
    UnknownRecipe,
)
from app.services import checkpoints, events, promises, usage

_run = columns(Run)
RunT = TypeVar("RunT", Run, RunSummaryRow)


def _putting_texts(pairs: str) -> Statement[Any]:
    return Statement(
        text(
            f"INSERT INTO run_search (id, text) SELECT key, value FROM {pairs} WHERE true"  # noqa: S608
            " ON CONFLICT (id) DO UPDATE SET text = excluded.text"
        )
    )


_PUT_TEXTS = {
    "sqlite": _putting_texts("json_each(:texts)"),
    "postgresql": _putting_texts("json_each_text(CAST(:texts AS json))"),
}


@statement
def _delete_tags(*, id: str) -> Executable:
    return delete(RunTag).where(columns(RunTag).run_id == id)


@statement
def _index_values(*, run: str, experiment: str) -> Executable:
    latest = columns(MetricLatest)
    waiting = update(MetricLatest).where(latest.run_id == run, latest.experiment_id.is_(None))
    return waiting.values(experiment_id=experiment)


_by_id = by_id(Run)


@query(RunSummaryRow)
def _summary(id: str) -> Executable:
    return select_row(Run, RunSummaryRow).where(_run.id == id)


@query(Run)
def _lock(*, id: str) -> Executable:
    return select_all(Run).where(_run.id == id).with_for_update()


@query(Run)
def _children(*, id: str) -> Executable:
    return select_all(Run).where(_run.parent_run_id == id).order_by(_run.created_at, _run.id)


class Cancelled(NamedTuple):
    """The answer to a cancel: the run and the checkpoint it leaves or will leave."""

    run: Run
    checkpoint: Checkpoint


def get(tx: Tx, run_id: str, experiment_id: str | None = None) -> Run:
    """Return the run (of this experiment, when one is given). Raises NotFound."""
    return _check_run(tx.first(_by_id, run_id), run_id, experiment_id)


def get_summary(tx: Tx, run_id: str, experiment_id: str) -> RunSummaryRow:
    """Return the run of this experiment at a glance. Raises NotFound."""
    return _check_run(tx.first(_summary, run_id), run_id, experiment_id)


def lock(tx: Tx, run_id: str, experiment_id: str | None = None) -> Run:
    """Lock the run against other writers until the transaction ends. Raises NotFound."""
    return _check_run(tx.first(_lock, id=run_id), run_id, experiment_id)


def _check_run(run: RunT | None, run_id: str, experiment_id: str | None) -> RunT:
    if run is None or experiment_id not in (None, run.experiment_id):
        where = "" if experiment_id is None else f" in experiment {experiment_id}"
        raise NotFound(f"There is no run {run_id}{where}.")
    return run


def list_children(tx: Tx, run_id: str) -> list[Run]:
    """Return the runs resumed from this one, oldest first."""
    return tx.all(_children, id=run_id)


def submit(
    tx: Tx,
    experiment_id: str,
    request: RunRequest,
    recipes: Mapping[str, Recipe],
    heartbeat_seconds: float | None = None,
) -> Run:
    """Submit a new queued run. Raises NotFound, UnknownRecipe, InvalidInput.

    Args:
        heartbeat_seconds: the longest silence of the trainer of an external run; 0: any.
    """
    check_recipe(
        request.recipe, recipes, errors=[{"pointer": "/recipe", "detail": "unknown recipe"}]
    )
    check_passed(request.recipe, recipes, request.hyperparams, "/hyperparams")
    events.check_experiment(tx, experiment_id)
    run_id = new_id("run")
    run = Run(
        id=run_id,
        experiment_id=experiment_id,
        root_run_id=run_id,
        model=request.model,
        recipe=request.recipe,
        dataset=dump(request.dataset),
        hyperparams=dump(request.hyperparams),
        resources=dump(request.resources.model_dump(exclude_none=True)),
        notes=request.notes,
        name=request.name,
        tags=dump(request.tags),
        priority=request.priority.rank,
        status_reason=Reason.WAITING_FOR_TRAINER.value if is_external(request) else None,
        heartbeat_seconds=heartbeat_seconds,
        created_at=tx.now,
    )
    queue(tx, run)
    return run


def check_recipe(
    recipe: str | None, recipes: Mapping[str, Recipe], errors: list[dict[str, str]] | None = None
) -> None:
    """Raise UnknownRecipe for a name that the operator has not configured."""
    if recipe is not None and recipe not in recipes:
        raise UnknownRecipe(
            f"There is no recipe {recipe!r}; there are: {', '.join(sorted(recipes))}.",
            errors=errors,
        )


def check_passed(
    recipe: str | None, recipes: Mapping[str, Recipe], hyperparams: dict[str, Any], pointer: str
) -> None:
    """Raise InvalidInput for a hyperparameter that the recipe's command cannot take."""
    if recipe is not None and (bad := recipes[recipe].check_hyperparams(hyperparams)):
        name, why = bad
        pointer += "/" + name.replace("~", "~0").replace("/", "~1")
        raise InvalidInput(
            f"The command of recipe {recipe!r} takes this from the run, and cannot: {why}.",
            errors=[{"pointer": pointer, "detail": why}],
        )


_NEW_ATTEMPT: RunChanges = {
    "termination_reason": None, "termination_detail": None,
    "pace_steps": 0, "pace_seconds": 0.0, "pace_clock": None, "last_progress_at": None,
}  # fmt: skip
NOT_SUBMITTED: RunChanges = {
    "gpus": "[]", "nonce": None, "host": None, "engine_id": None, "submitted_at": None,
    "claimed_at": None,
}  # fmt: skip
"""Columns of a run that waits and is with no launcher."""


def queue(tx: Tx, run: Run) -> None:
    """Insert a new run, with its event, its words and its tags."""
    events.append(
        tx, run.experiment_id, "run.queued", run_id=run.id, model=run.model, recipe=run.recipe,
        parent_run_id=run.parent_run_id, ckpt_path=run.source_ckpt_path,
        reason=run.status_reason,
    )  # fmt: skip
    tx.insert(run)
    put_text(tx, run)
    if run.tags != "[]":
        set_tags(tx, run)
    if not is_external(run):  # which waits for its trainer alone
        tx.notify(SUPERVISOR)


def put_text(tx: Tx, run: Run) -> None:
    """Let a run, which may be new, be found by its words as they are now.

    Just before the commit, of all runs of a batch in one statement: FTS5 writes what it has of its
    index whenever another statement begins.
    """
    tx.before_commit(_write_texts, (run.id, search_text(run)))


def _write_texts(tx: Tx, texts: list[tuple[str, str]]) -> None:
    tx.send(_PUT_TEXTS[tx.dialect], texts=dump(dict(texts)))


def search_text(run: Run) -> str:
    """Return the text that a run is found by."""
    return searchable((run.model, run.recipe, run.notes, run.name, *load(run.tags)))


def set_tags(tx: Tx, run: Run) -> None:
    """Store the tags of a run for filters, in the place of those that it had."""
    tx.run(_delete_tags, id=run.id)
    tx.insert(*(RunTag(tag=tag, run_id=run.id) for tag in dict.fromkeys(load(run.tags))))


def change(tx: Tx, run: Run, **changes: Unpack[RunChanges]) -> Run:
    """Write attributes of a run, guarded by its status. Raises Conflict when it moved on."""
    statement = changing(Run, frozenset(changes), "status")
    if tx.run(statement, key=run.id, from_status=run.status, **changes) != 1:
        raise Conflict(f"Run {run.id} is no longer {run.status}; look again.")
    tx.notify(run.id)
    return replace(run, **changes)


def move(
    tx: Tx,
    run: Run,
    to: RunStatus,
    *,
    reason: Reason | None = None,
    detail: str | None = None,
    data: dict[str, Any] | None = None,
    **changes: Unpack[RunChanges],
) -> Run:
    """Move a run to another status and write the event: the only way a status changes.

    A running run keeps the detail of its start, or of the decision to end it; a new attempt clears
    that decision. Raises Conflict if the status of the run is no longer that of `run`.
    """
    if to not in MOVES[RunStatus(run.status)]:
        raise AssertionError(f"no move from {run.status} to {to}")
    if to is RunStatus.STARTING:
        changes |= _NEW_ATTEMPT
    elif to is RunStatus.QUEUED:
        changes |= NOT_SUBMITTED
    elif to is RunStatus.RUNNING:
        detail = detail or run.termination_detail or run.status_detail
        reason = Reason(run.termination_reason) if run.termination_reason else reason
        changes["started_at"] = run.started_at or tx.now
    elif to in TERMINAL:
        changes["finished_at"] = tx.now
    word = reason.value if reason else None
    changes |= {"status": to.value, "status_reason": word, "status_detail": detail}
    changes["settled_step"] = None if to in LAUNCHED else changes.get("step", run.step)
    moved = change(tx, run, **changes)
    events.append(
        tx, run.experiment_id, f"run.{to.value}", run_id=run.id,
        reason=moved.status_reason, detail=detail, attempt=moved.attempt, step=moved.step,
        **(data or {}),
    )  # fmt: skip
    if RunStatus(run.status) in LAUNCHED and to not in LAUNCHED:
        usage.record(tx, run, to)
        tx.send(_index_values, run=run.id, experiment=run.experiment_id)
    tx.notify(SUPERVISOR)
    return moved


def cancel(tx: Tx, run_id: str, experiment_id: str | None = None) -> Cancelled:
    """Ask a run to stop and save. The result names the checkpoint and its state.

    Raises NotFound, RunFinished (succeeded or failed; it names the last checkpoint).
    """
    run = lock(tx, run_id, experiment_id)
    status = RunStatus(run.status)
    if status in (RunStatus.SUCCEEDED, RunStatus.FAILED):
        last = checkpoints.get_newest(tx, run)
        where = f"its last checkpoint is {last.ckpt_path}" if last else "it left no checkpoint"
        raise RunFinished(
            f"The run has already {status.value}; {where}.",
            run_status=status.value,
            ckpt_path=last.ckpt_path if last else None,
        )
    if status in (RunStatus.CANCELLING, RunStatus.CANCELLED):
        return Cancelled(run, promises.ensure(tx, run))
    if status is RunStatus.QUEUED:
        run = move(
            tx, run, RunStatus.CANCELLED, reason=Reason.CANCEL_REQUESTED,
            detail="Cancelled while queued.", cancel_requested_at=tx.now, next_attempt_at=None,
        )  # fmt: skip
        never = run.attempt == 0
        cause = "The run never started." if never else "No trainer ran when it was cancelled."
        unknown = not never and run.heartbeat_at is None
        return Cancelled(run, promises.resolve(tx, run, cause, unknown=unknown))
    run = move(
        tx, run, RunStatus.CANCELLING, reason=Reason.CANCEL_REQUESTED,
        cancel_requested_at=tx.now,
    )  # fmt: skip
    return Cancelled(run, promises.ensure(tx, run))
