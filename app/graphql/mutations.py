"""Mutation: what can be changed, through the same use cases as REST.

Each input is validated by the Pydantic model that REST uses; what the caller can mend comes
back as `userErrors`. With an `idempotencyKey` the first answer is stored, as rows, in the
transaction that does the work, and answers every repetition.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import orjson
import strawberry
from pydantic import ValidationError
from strawberry.utils.str_converters import to_camel_case

from app.domain import paths
from app.domain.requests import (
    ExperimentRequest,
    MarkRequest,
    ResumeRequest,
    RunRequest,
    VerifyRequest,
)
from app.domain.tokens import run_token
from app.errors import Busy, ServiceError, Unavailable
from app.graphql.describe import Info, attribute, field, input, mutation, optional, output
from app.graphql.filters import given, plain
from app.graphql.queries import Query
from app.graphql.scalars import Json
from app.graphql.types import Checkpoint, Experiment, Run
from app.services import checkpoints, experiments, idempotency, marks, runs, verification
from app.services.idempotency import Answer
from app.services.verification import Finding
from app.store import tables
from app.store.sql import Tx, as_dict, dump, load, revive

_KEY = "The same key with the same input replays the first answer."
_INPUT = strawberry.argument(description="What is wanted.")
_TABLES: dict[str, type[Any]] = {
    "experiment": tables.Experiment,
    "run": tables.Run,
    "checkpoint": tables.Checkpoint,
}


@output
class UserError:
    """Something that the caller can understand and mend. Nothing was changed."""

    code: str = attribute("Stable code, such as `invalid_input` or `run_finished`.")
    message: str = attribute("What is wrong and what to do, in one sentence.")
    field: list[str] | None = attribute("The path of the input field that it is about.")


@output
class Payload:
    """What every mutation answers."""

    user_errors: list[UserError] = strawberry.field(
        default_factory=list, description="What was wrong; empty when it was done."
    )
    replayed: bool = strawberry.field(
        default=False, description="This is the stored answer to an earlier, equal request."
    )

    @field
    def query(self) -> Query:
        """Everything that can be asked, as it is after this mutation."""
        return Query()


@input
class CreateExperimentInput:
    """A new experiment."""

    name: str = attribute("What people call it.")
    task_type: str = attribute("What kind of training, such as `pretrain` or `sft`.")
    goal: str | None = optional("What it is for.")
    version: str | None = optional("The experiment's own version.")
    base_model: str | None = optional("The model it starts from.")
    owner: str | None = optional("Who it belongs to.")
    param_config: Json | None = optional("Parameters common to its runs: an object.")
    tags: list[str] | None = optional("Tags to find it by.")
    idempotency_key: str | None = optional(_KEY)


@input
class ResourcesInput:
    """What a run needs of the machine it runs on."""

    gpu_type: str | None = optional("Which GPU, such as `A100`.")
    count: int | None = optional("How many GPUs.")
    cpus: float | None = optional("How many CPU cores.")
    memory_gb: float | None = optional("How much memory, in GB.")
    nodes: int | None = optional("How many machines.")
    time_limit_minutes: float | None = optional("After how many minutes it is stopped.")


@input
class CreateRunInput:
    """A new run under an experiment."""

    experiment_id: strawberry.ID = attribute("The experiment it belongs to.")
    model: str = attribute("The model to train.")
    recipe: str | None = optional("What to execute; left out: an external trainer attaches.")
    dataset: Json | None = optional("The data: an object, such as its name and split.")
    hyperparams: Json | None = optional("Hyperparameters: an object.")
    resources: ResourcesInput | None = optional("What it needs of a machine.")
    notes: str | None = optional("Free text.")
    idempotency_key: str | None = optional(_KEY)


@input
class CancelRunInput:
    """Which run to cancel."""

    run_id: strawberry.ID = attribute("The run.")
    idempotency_key: str | None = optional(_KEY)


@input
class ResumeRunInput:
    """From where to go on, and with what."""

    run_id: strawberry.ID = attribute("The run to resume.")
    ckpt_path: str | None = optional("The checkpoint; left out: the newest ready one.")
    override_hyperparams: Json | None = optional("Hyperparameters to change: an object.")
    notes: str | None = optional("Free text.")
    idempotency_key: str | None = optional(_KEY)


@input
class MarkCheckpointInput:
    """What to put onto which checkpoint."""

    run_id: strawberry.ID = attribute("The run that it belongs to.")
    ckpt_path: str = attribute("Its logical path.")
    tag_type: str = attribute("A lower-case slug, such as `candidate` or `release`.")
    release_tag: str | None = optional("A release tag, unique in the experiment.")
    metrics: Json | None = optional("Metrics: an object of numbers.")
    idempotency_key: str | None = optional(_KEY)


@input
class VerifyCheckpointInput:
    """Which checkpoint to read again."""

    ckpt_path: str = attribute("Its logical path.")
    idempotency_key: str | None = optional(_KEY)


@output
class CreateExperimentPayload(Payload):
    """The new experiment."""

    experiment: Experiment | None = optional("The experiment.")


@output
class CreateRunPayload(Payload):
    """The new run."""

    run: Run | None = optional("The run.")
    run_token: str | None = optional(
        "External runs only: the token that may report on this run, and nothing else."
    )


@output
class CancelRunPayload(Payload):
    """The cancelled run, and what remains of its work."""

    run: Run | None = optional("The run.")
    checkpoint: Checkpoint | None = optional("The checkpoint that it leaves or will leave.")


@output
class ResumeRunPayload(Payload):
    """The new run, a child of the one resumed."""

    run: Run | None = optional("The child run.")
    run_token: str | None = optional(
        "External runs only: the token that may report on this run, and nothing else."
    )


@output
class MarkCheckpointPayload(Payload):
    """The marked checkpoint."""

    checkpoint: Checkpoint | None = optional("The checkpoint.")


@output
class VerifyCheckpointPayload(Payload):
    """The checkpoint, as its files show it to be."""

    checkpoint: Checkpoint | None = optional("The checkpoint: ready, or lost with the reason.")


P = TypeVar("P", bound=Payload)
Rows = dict[str, Any]


async def perform(
    info: Info,
    payload: type[P],
    chosen: Any,
    use_case: Callable[[Tx, dict[str, Any]], Rows],
    before: Callable[[], Awaitable[None]] | None = None,
) -> P:
    """Runs a use case as one write, at most once per idempotency key.

    `use_case` gets the input's fields that were given and answers the payload's rows. `before`:
    what takes long, changes nothing and is left out where an answer is replayed.
    """
    context, values, replayed = info.context, _plain(chosen), False
    key = values.pop("idempotency_key", None)
    try:
        plain(values.get("run_id", "") + values.get("experiment_id", ""))
        if key is None:
            if before is not None:
                await before()
            rows = await context.db.write(use_case, values)
        else:
            body = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
            keyed = idempotency.keyed(context.caller, "MUTATION", info.field_name, key, body)
            with context.in_flight.claim(keyed):
                if before is not None and not await context.db.read(idempotency.stored, keyed):
                    await before()
                answer = await context.db.write(
                    idempotency.once, keyed, lambda tx: _answer(use_case(tx, values))
                )
            replayed = answer.replayed
            rows = {name: revive(_TABLES[name], row) for name, row in load(answer.body).items()}
    except ValidationError as error:
        return payload(user_errors=[_field_error(each) for each in error.errors()])
    except (Busy, Unavailable):
        raise
    except ServiceError as error:
        return payload(user_errors=_service_errors(error))
    extra: dict[str, Any] = {}
    if hasattr(payload, "run_token") and rows["run"].recipe is None:
        extra["run_token"] = run_token(context.secret, rows["run"].id)
    return payload(replayed=replayed, **rows, **extra)


def _plain(chosen: Any) -> dict[str, Any]:
    """An input as the dictionary that a request model takes."""
    return {
        name: _plain(value) if isinstance(value, ResourcesInput) else value
        for name, value in given(chosen).items()
    }


def _answer(rows: Rows) -> Answer:
    return Answer(200, dump({name: as_dict(row) for name, row in rows.items()}))


def _field_error(error: Any) -> UserError:
    path = [to_camel_case(str(part)) for part in error["loc"]]
    message = error["msg"].removeprefix("Value error, ")
    return UserError(
        code="invalid_input", message=f"{'.'.join(path)}: {message}.", field=["input", *path]
    )


def _service_errors(error: ServiceError) -> list[UserError]:
    paths: list[list[str] | None] = [
        ["input", *map(to_camel_case, each["pointer"].split("/")[1:])] for each in error.errors
    ]
    return [
        UserError(code=error.code, message=error.detail, field=path) for path in paths or [None]
    ]


def _create_experiment(tx: Tx, values: dict[str, Any]) -> Rows:
    return {"experiment": experiments.create(tx, ExperimentRequest(**values))}


def _cancel_run(tx: Tx, values: dict[str, Any]) -> Rows:
    return runs.cancel(tx, values["run_id"])._asdict()


def _resume_run(tx: Tx, values: dict[str, Any]) -> Rows:
    request = {name: value for name, value in values.items() if name != "run_id"}
    return {"run": runs.resume(tx, values["run_id"], ResumeRequest(**request))}


def _mark_checkpoint(tx: Tx, values: dict[str, Any]) -> Rows:
    request = MarkRequest(**values)
    run = runs.get(tx, request.run_id)
    return {"checkpoint": marks.mark(tx, run.experiment_id, request)}


@output
class Mutation:
    """Everything that can be changed."""

    @mutation
    async def create_experiment(
        self, info: Info, input: Annotated[CreateExperimentInput, _INPUT]
    ) -> CreateExperimentPayload:
        """Create an experiment."""
        return await perform(info, CreateExperimentPayload, input, _create_experiment)

    @mutation
    async def create_run(
        self, info: Info, input: Annotated[CreateRunInput, _INPUT]
    ) -> CreateRunPayload:
        """Submit a training run. Without a recipe it waits for a trainer that attaches."""
        recipes = info.context.recipes

        def create_run(tx: Tx, values: dict[str, Any]) -> Rows:
            request = {name: value for name, value in values.items() if name != "experiment_id"}
            run = runs.submit(tx, values["experiment_id"], RunRequest(**request), recipes)
            return {"run": run}

        return await perform(info, CreateRunPayload, input, create_run)

    @mutation
    async def cancel_run(
        self, info: Info, input: Annotated[CancelRunInput, _INPUT]
    ) -> CancelRunPayload:
        """Cancel a run without losing its work: the answer names the checkpoint it leaves."""
        return await perform(info, CancelRunPayload, input, _cancel_run)

    @mutation
    async def resume_run(
        self, info: Info, input: Annotated[ResumeRunInput, _INPUT]
    ) -> ResumeRunPayload:
        """A new run from a checkpoint of this run, with hyperparameters overridden."""
        return await perform(info, ResumeRunPayload, input, _resume_run)

    @mutation
    async def mark_checkpoint(
        self, info: Info, input: Annotated[MarkCheckpointInput, _INPUT]
    ) -> MarkCheckpointPayload:
        """Put a tag, a release tag and metrics onto a checkpoint."""
        return await perform(info, MarkCheckpointPayload, input, _mark_checkpoint)

    @mutation
    async def verify_checkpoint(
        self, info: Info, input: Annotated[VerifyCheckpointInput, _INPUT]
    ) -> VerifyCheckpointPayload:
        """Read every byte of a checkpoint again: is it still what was committed?"""
        context, findings = info.context, list[Finding]()

        async def look() -> None:
            request = VerifyRequest(ckpt_path=input.ckpt_path)
            experiment_id = paths.parse(input.ckpt_path).experiment_id
            context.limit.reschedule(None)  # it may hold 100 GB
            findings.extend(
                await verification.inspect(
                    context.db, context.readers, context.data_dir, experiment_id, request
                )
            )

        def verify_checkpoint(tx: Tx, values: dict[str, Any]) -> Rows:
            verification.record(tx, findings)
            return {"checkpoint": checkpoints.at(tx, input.ckpt_path)}

        return await perform(info, VerifyCheckpointPayload, input, verify_checkpoint, look)
