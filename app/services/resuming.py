"""Runs made of other runs: one that goes on from a checkpoint, and one that is run once more."""

from collections.abc import Mapping
from typing import Any

from app.db.sql import Tx, dump, load
from app.db.tables import Checkpoint, Run
from app.domain import paths
from app.domain.ids import new_id
from app.domain.lifecycle import GONE, LAUNCHED, Reason, RunStatus, is_external
from app.domain.lifecycle import CheckpointState as State
from app.domain.recipes import Recipe
from app.domain.requests import ResumeRequest, check_object
from app.errors import BadCheckpointPath, CheckpointLost, Conflict, InvalidInput
from app.services import checkpoints, promises, runs


def _list_ancestors(tx: Tx, run: Run) -> list[str]:
    """Return the run and those it goes back to, itself first."""
    ids = [run.id]
    while run.parent_run_id is not None:
        run = runs.get(tx, run.parent_run_id)
        ids.append(run.id)
    return ids


def list_ready_in_lineage(tx: Tx, run: Run) -> list[str]:
    """Return the paths of every ready checkpoint of a run and the runs it was resumed from."""
    return [
        ready.ckpt_path
        for ancestor in _list_ancestors(tx, run)
        for ready in checkpoints.list_ready(tx, ancestor)
    ]


def resume(
    tx: Tx,
    run_id: str,
    request: ResumeRequest,
    recipes: Mapping[str, Recipe],
    experiment_id: str | None = None,
) -> Run:
    """Create a child run from a checkpoint of this run, hyperparameters overridden.

    Raises NotFound, UnknownRecipe, BadCheckpointPath, CheckpointLost, Conflict, InvalidInput.
    """
    parent = runs.lock(tx, run_id, experiment_id)
    runs.check_recipe(parent.recipe, recipes)
    hyperparams = _merge(parent, request)
    runs.check_passed(parent.recipe, recipes, hyperparams, "/override_hyperparams")
    source = _find_source(tx, parent, request.ckpt_path)
    if source.state in GONE:
        raise _make_lost_error(source, list_ready_in_lineage(tx, parent))
    child = _build_child(tx, parent, source, request, hyperparams)
    runs.queue(tx, child)
    return child


def _build_child(
    tx: Tx, parent: Run, source: Checkpoint, request: ResumeRequest, hyperparams: dict[str, Any]
) -> Run:
    """Make the row of a run that goes on from a checkpoint."""
    return Run(
        id=new_id("run"),
        experiment_id=parent.experiment_id,
        parent_run_id=parent.id,
        root_run_id=parent.root_run_id,
        source_checkpoint_id=source.id,
        source_ckpt_path=source.ckpt_path,
        source_attempt=checkpoints.find_origin(tx, source)[1],
        model=parent.model,
        recipe=parent.recipe,
        dataset=parent.dataset,
        hyperparams=dump(hyperparams),
        override_hyperparams=dump(request.override_hyperparams),
        resources=_resources(parent, request),
        notes=request.notes,
        name=request.name,
        tags=parent.tags if request.tags is None else dump(request.tags),
        priority=parent.priority if request.priority is None else request.priority.rank,
        status_reason=_waiting_reason(parent, source),
        start_step=source.step or 0,
        step=source.step or 0,
        settled_step=source.step or 0,
        heartbeat_seconds=parent.heartbeat_seconds,
        created_at=tx.now,
    )


def _waiting_reason(parent: Run, source: Checkpoint) -> str | None:
    if is_external(parent):
        return Reason.WAITING_FOR_TRAINER.value
    return Reason.WAITING_FOR_CHECKPOINT.value if source.state == State.PENDING else None


def _merge(parent: Run, request: ResumeRequest) -> dict[str, Any]:
    """Return the parent's hyperparameters with those that are overridden. Raises InvalidInput."""
    try:
        return check_object(load(parent.hyperparams) | request.override_hyperparams)
    except ValueError as error:
        raise InvalidInput(
            f"The hyperparameters of run {parent.id}, overridden, {error}; override fewer.",
            errors=[{"pointer": "/override_hyperparams", "detail": f"merged, they {error}"}],
        ) from error


def _make_lost_error(source: Checkpoint, ready: list[str]) -> CheckpointLost:
    others = f"Ready: {', '.join(ready)}." if ready else "No other checkpoint is ready."
    return CheckpointLost(
        f"{source.ckpt_path} is {source.state}: {source.reason} {others}", ready=ready
    )


def _resources(parent: Run, request: ResumeRequest) -> str:
    if request.resources is None:
        return parent.resources
    return dump(load(parent.resources) | request.resources.model_dump(exclude_none=True))


def rerun(
    tx: Tx, run_id: str, recipes: Mapping[str, Recipe], experiment_id: str | None = None
) -> Run:
    """Submit a run with all that this one was submitted with, its starting checkpoint included.

    Raises NotFound, UnknownRecipe, CheckpointLost, InvalidInput.
    """
    run = runs.get(tx, run_id, experiment_id)
    runs.check_recipe(run.recipe, recipes)
    runs.check_passed(run.recipe, recipes, load(run.hyperparams), "/hyperparams")
    new, start, reason = new_id("run"), 0, None
    if is_external(run):
        reason = Reason.WAITING_FOR_TRAINER.value
    if run.source_checkpoint_id is not None:
        source = checkpoints.get(tx, run.source_checkpoint_id)
        if source.state in GONE:
            raise CheckpointLost(
                f"The run started from {source.ckpt_path}, which is {source.state}: "
                f"{source.reason}",
                ready=list_ready_in_lineage(tx, run),
            )
        start = source.step or 0
    again = Run(
        id=new,
        root_run_id=new if run.parent_run_id is None else run.root_run_id,
        status_reason=reason,
        start_step=start,
        step=start,
        settled_step=start,
        created_at=tx.now,
        **{name: getattr(run, name) for name in _SUBMITTED},
    )
    runs.queue(tx, again)
    return again


_SUBMITTED = (
    "experiment_id", "parent_run_id", "source_checkpoint_id", "source_ckpt_path", "source_attempt",
    "model", "recipe", "dataset", "hyperparams", "override_hyperparams", "resources", "notes",
    "name", "tags", "priority", "heartbeat_seconds",
)  # fmt: skip
"""Columns that a run was submitted with."""


def _find_source(tx: Tx, parent: Run, ckpt_path: str | None) -> Checkpoint:
    """Return the checkpoint that a resume starts from."""
    if ckpt_path is not None:
        path = paths.parse(ckpt_path)
        if path.experiment_id != parent.experiment_id or path.run_id not in _list_ancestors(
            tx, parent
        ):
            raise BadCheckpointPath(
                f"A checkpoint of this run begins with /ckpts/{parent.experiment_id}/{parent.id}/; "
                "those of the runs it was resumed from may be named too.",
                errors=[{"pointer": "/ckpt_path", "detail": "belongs to another run"}],
            )
        return checkpoints.declare(tx, runs.get(tx, path.run_id), ckpt_path)
    promised = promises.get(tx, parent)
    if promised is not None and promised.state == State.PENDING:
        return promised
    newest = checkpoints.get_newest(tx, parent)
    if newest is not None and not checkpoints.is_good(newest):
        ready = checkpoints.list_ready(tx, parent.id)
        newest = next(
            (checkpoint for checkpoint in ready if checkpoints.is_good(checkpoint)), newest
        )
    if newest is not None:
        return newest
    if promised is not None and promised.state not in GONE:
        return promised
    if (source := checkpoints.lock_inherited(tx, parent)) is not None:
        return source
    if RunStatus(parent.status) in LAUNCHED:
        advice = "wait for one, or cancel the run first"
    else:
        advice = "name one with ckpt_path, or submit a new run"
    why = f" {promised.reason}" if promised is not None and promised.reason else ""
    raise Conflict(f"Run {parent.id} has no checkpoint to resume from; {advice}.{why}")
