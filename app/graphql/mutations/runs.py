"""Mutations of runs: create, cancel, resume."""

from typing import Annotated, TypeVar

import strawberry

from app.db.sql import Tx
from app.domain.lifecycle import is_external
from app.domain.priority import Priority
from app.domain.requests import ResumeRequest, RunRequest, UpdateRunRequest
from app.domain.tokens import run_token
from app.graphql.describe import Info, attribute, clearable, input, mutation, optional, output
from app.graphql.mutations.payloads import KEY, Payload, Rows, perform, request_of
from app.graphql.scalars import Json
from app.graphql.types import Checkpoint, Run
from app.services import edits, resuming, runs

_EXTERNAL = "External runs only: the token that may report on this run, and nothing else."


@input
class ResourcesInput:
    """Resources that a run needs."""

    gpu_type: str | None = optional("Type of GPU, such as `A100`.")
    count: int | None = optional("Number of GPUs.")
    cpus: float | None = optional("Number of CPU cores.")
    memory_gb: float | None = optional("Memory in GB.")
    nodes: int | None = optional("Number of machines.")
    time_limit_minutes: float | None = optional("Minutes after which the run is stopped.")


@input
class CreateRunInput:
    """A new run of an experiment."""

    experiment_id: strawberry.ID = attribute("The experiment it belongs to.")
    model: str = attribute("The model to train.")
    recipe: str | None = optional("Recipe to execute; left out: an external trainer attaches.")
    dataset: Json | None = optional("The data: an object, such as its name and split.")
    hyperparams: Json | None = optional("Hyperparameters: an object.")
    resources: ResourcesInput | None = optional("Resources that it needs.")
    notes: str | None = optional("Free text.")
    name: str | None = optional("Name for people.")
    tags: list[str] | None = optional("Tags to find it by.")
    priority: Priority | None = optional("Its place in the queue; NORMAL if left out.")
    idempotency_key: str | None = optional(KEY)


@input
class CancelRunInput:
    """A run to cancel."""

    run_id: strawberry.ID = attribute("The run.")
    idempotency_key: str | None = optional(KEY)


@input
class ResumeRunInput:
    """A run to resume, and the changes."""

    run_id: strawberry.ID = attribute("The run to resume.")
    ckpt_path: str | None = optional("The checkpoint; left out: the newest ready one.")
    override_hyperparams: Json | None = optional("Hyperparameters to change: an object.")
    resources: ResourcesInput | None = optional("Resources to change.")
    notes: str | None = optional("Free text.")
    name: str | None = optional("Name for people.")
    tags: list[str] | None = optional("Its tags; left out: those of the resumed run.")
    priority: Priority | None = optional("Left out: that of the resumed run.")
    idempotency_key: str | None = optional(KEY)


@input
class UpdateRunInput:
    """The description of a run. A field that is left out stays; null removes it."""

    run_id: strawberry.ID = attribute("The run.")
    name: str | None = clearable("Name for people.")
    notes: str | None = clearable("Free text.")
    tags: list[str] | None = optional("Tags to find it by.")
    priority: Priority | None = optional("Its place in the queue.")
    archived: bool | None = optional("Keep it out of lists; only a run that has ended.")
    idempotency_key: str | None = optional(KEY)


@input
class RerunRunInput:
    """A run to submit again."""

    run_id: strawberry.ID = attribute("The run.")
    idempotency_key: str | None = optional(KEY)


@output
class RerunRunPayload(Payload):
    """The new run."""

    run: Run | None = optional("The run.")
    run_token: str | None = optional(_EXTERNAL)


@output
class CreateRunPayload(Payload):
    """The new run."""

    run: Run | None = optional("The run.")
    run_token: str | None = optional(_EXTERNAL)


@output
class CancelRunPayload(Payload):
    """The cancelled run and its checkpoint."""

    run: Run | None = optional("The run.")
    checkpoint: Checkpoint | None = optional("The checkpoint that it has saved or will save.")


@output
class ResumeRunPayload(Payload):
    """The new run, a child of the resumed one."""

    run: Run | None = optional("The child run.")
    run_token: str | None = optional(_EXTERNAL)


@output
class UpdateRunPayload(Payload):
    """The run, changed."""

    run: Run | None = optional("The run.")


ToUpdate = Annotated[
    UpdateRunInput, strawberry.argument(description="The run, and what to change.")
]
NewRun = Annotated[CreateRunInput, strawberry.argument(description="Fields of the new run.")]
ToCancel = Annotated[CancelRunInput, strawberry.argument(description="The run to cancel.")]
ToResume = Annotated[
    ResumeRunInput, strawberry.argument(description="The run to resume, and the changes.")
]


ToRerun = Annotated[RerunRunInput, strawberry.argument(description="The run to submit again.")]
NewRunT = TypeVar("NewRunT", CreateRunPayload, ResumeRunPayload, RerunRunPayload)


def _with_token(info: Info, payload: NewRunT) -> NewRunT:
    """Add the token of an external run, which is stored with no answer."""
    run = payload.run
    if run is not None and is_external(run):
        payload.run_token = run_token(info.context.secret, run.id)
    return payload


@output
class RunMutations:
    """Mutations of runs."""

    @mutation
    async def create_run(self, info: Info, input: NewRun) -> CreateRunPayload:
        """Submit a training run. Without a recipe it waits for a trainer that attaches."""

        def submit(tx: Tx) -> Rows:
            request = request_of(RunRequest, input, "experiment_id")
            return {"run": runs.submit(tx, input.experiment_id, request, info.context.recipes)}

        return _with_token(info, await perform(info, input, CreateRunPayload, submit))

    @mutation
    async def cancel_run(self, info: Info, input: ToCancel) -> CancelRunPayload:
        """Cancel a run without losing its work: the payload names the checkpoint."""
        return await perform(
            info, input, CancelRunPayload, lambda tx: runs.cancel(tx, input.run_id)._asdict()
        )

    @mutation
    async def resume_run(self, info: Info, input: ToResume) -> ResumeRunPayload:
        """Create a run from a checkpoint of this run, with hyperparameters overridden."""

        def resume(tx: Tx) -> Rows:
            request = request_of(ResumeRequest, input, "run_id")
            return {"run": resuming.resume(tx, input.run_id, request, info.context.recipes)}

        return _with_token(info, await perform(info, input, ResumeRunPayload, resume))

    @mutation
    async def update_run(self, info: Info, input: ToUpdate) -> UpdateRunPayload:
        """Change name, notes, tags, priority or archive of a run."""

        def work(tx: Tx) -> Rows:
            request = request_of(UpdateRunRequest, input, "run_id")
            return {"run": edits.update_run(tx, input.run_id, request)}

        return await perform(info, input, UpdateRunPayload, work)

    @mutation
    async def rerun_run(self, info: Info, input: ToRerun) -> RerunRunPayload:
        """Submit a new run with all that this one was submitted with."""

        def rerun(tx: Tx) -> Rows:
            return {"run": resuming.rerun(tx, input.run_id, info.context.recipes)}

        return _with_token(info, await perform(info, input, RerunRunPayload, rerun))
