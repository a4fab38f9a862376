"""Mutation: what can be changed, through the same use cases as REST.

Each input is validated by the Pydantic model that REST uses; what the caller can mend comes
back as `userErrors`. With an `idempotencyKey` the first answer is stored, as rows, in the
transaction that does the work, and answers every repetition.
"""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import orjson
import strawberry
from pydantic import ValidationError
from strawberry.tools import create_type
from strawberry.types.field import StrawberryField
from strawberry.utils.str_converters import to_camel_case

from app.db import tables
from app.db.sql import Tx, as_dict, dump, from_dict, load
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
from app.graphql.context import Context
from app.graphql.describe import Info, attribute, doc, field, optional, output
from app.graphql.filters import given, plain
from app.graphql.inputs import (
    CancelRunInput,
    CreateExperimentInput,
    CreateRunInput,
    MarkCheckpointInput,
    ResourcesInput,
    ResumeRunInput,
    VerifyCheckpointInput,
)
from app.graphql.queries import Query
from app.graphql.types import Checkpoint, Experiment, Run
from app.services import checkpoints, experiments, idempotency, marks, runs, verification
from app.services.idempotency import Answer

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


Values = dict[str, Any]
Rows = dict[str, Any]


def mutation(
    wanted: Any,
    payload: type[Payload],
    before: Callable[[Values, Context], Awaitable[None]] | None = None,
) -> Callable[[Callable[[Tx, Values, Context], Rows]], StrawberryField]:
    """Makes a mutation of a use case: one write, at most once per idempotency key.

    The use case gets the fields of the input that were given and answers the payload's rows;
    its docstring is the description. `before`: what takes long, changes nothing, may add to the
    fields, and is left out where an answer is replayed.
    """

    def decorate(use_case: Callable[[Tx, Values, Context], Rows]) -> StrawberryField:
        async def resolve(info: Info, input: Annotated[wanted, _INPUT]) -> payload:  # type: ignore[valid-type]
            try:
                rows, replayed = await _perform(info, _plain(input), use_case, before)
            except ValidationError as error:
                return payload(user_errors=[_field_error(each) for each in error.errors()])
            except (Busy, Unavailable):
                raise
            except ServiceError as error:
                return payload(user_errors=_service_errors(error))
            extra: dict[str, Any] = {}
            if hasattr(payload, "run_token") and rows["run"].recipe is None:
                extra["run_token"] = run_token(info.context.secret, rows["run"].id)
            return payload(replayed=replayed, **rows, **extra)

        resolve.__name__ = use_case.__name__
        return strawberry.mutation(resolve, description=doc(use_case))

    return decorate


async def _perform(info: Info, values: Values, use_case: Any, before: Any) -> tuple[Rows, bool]:
    """The rows, and whether they are the stored answer to an earlier request."""
    context = info.context
    key = values.pop("idempotency_key", None)
    plain(values.get("run_id", "") + values.get("experiment_id", ""))
    if key is None:
        if before is not None:
            await before(values, context)
        return await context.db.write(use_case, values, context), False
    body = orjson.dumps(values, option=orjson.OPT_SORT_KEYS)
    keyed = idempotency.keyed(context.caller, "MUTATION", info.field_name, key, body)
    with context.in_flight.claim(keyed):
        if before is not None and not await context.db.read(idempotency.stored, keyed):
            await before(values, context)
        answer = await context.db.write(
            idempotency.once, keyed, lambda tx: _answer(use_case(tx, values, context))
        )
    rows = {name: from_dict(_TABLES[name], row) for name, row in load(answer.body).items()}
    return rows, answer.replayed


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


def _without(values: Values, name: str) -> Values:
    return {each: value for each, value in values.items() if each != name}


@mutation(CreateExperimentInput, CreateExperimentPayload)
def create_experiment(tx: Tx, values: Values, context: Context) -> Rows:
    """Create an experiment."""
    return {"experiment": experiments.create(tx, ExperimentRequest(**values))}


@mutation(CreateRunInput, CreateRunPayload)
def create_run(tx: Tx, values: Values, context: Context) -> Rows:
    """Submit a training run. Without a recipe it waits for a trainer that attaches."""
    request = RunRequest(**_without(values, "experiment_id"))
    return {"run": runs.submit(tx, values["experiment_id"], request, context.recipes)}


@mutation(CancelRunInput, CancelRunPayload)
def cancel_run(tx: Tx, values: Values, context: Context) -> Rows:
    """Cancel a run without losing its work: the answer names the checkpoint it leaves."""
    return runs.cancel(tx, values["run_id"])._asdict()


@mutation(ResumeRunInput, ResumeRunPayload)
def resume_run(tx: Tx, values: Values, context: Context) -> Rows:
    """A new run from a checkpoint of this run, with hyperparameters overridden."""
    request = ResumeRequest(**_without(values, "run_id"))
    return {"run": runs.resume(tx, values["run_id"], request, context.recipes)}


@mutation(MarkCheckpointInput, MarkCheckpointPayload)
def mark_checkpoint(tx: Tx, values: Values, context: Context) -> Rows:
    """Put a tag, a release tag and metrics onto a checkpoint."""
    request = MarkRequest(**values)
    run = runs.get(tx, request.run_id)
    return {"checkpoint": marks.mark(tx, run.experiment_id, request)}


async def _inspect(values: Values, context: Context) -> None:
    """Reads the files, which may hold 100 GB."""
    request = VerifyRequest(ckpt_path=values["ckpt_path"])
    experiment_id = paths.parse(values["ckpt_path"]).experiment_id
    context.limit.reschedule(None)
    await verification.verify_all(
        context.db, context.readers, context.data_dir, experiment_id, request
    )


@mutation(VerifyCheckpointInput, VerifyCheckpointPayload, before=_inspect)
def verify_checkpoint(tx: Tx, values: Values, context: Context) -> Rows:
    """Read every byte of a checkpoint again: is it still what was committed?"""
    return {"checkpoint": checkpoints.get_by_path(tx, values["ckpt_path"])}


Mutation = create_type(
    "Mutation",
    [create_experiment, create_run, cancel_run, resume_run, mark_checkpoint, verify_checkpoint],
    description="Everything that can be changed.",
)
