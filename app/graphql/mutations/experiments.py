"""Mutations of experiments."""

from typing import Annotated

import strawberry

from app.db.sql import Tx
from app.domain.requests import ExperimentRequest, UpdateExperimentRequest
from app.graphql.describe import Info, attribute, clearable, input, mutation, optional, output
from app.graphql.mutations.payloads import KEY, Payload, Rows, perform, request_of
from app.graphql.scalars import Json
from app.graphql.types import Experiment
from app.services import edits, experiments


@input
class CreateExperimentInput:
    """A new experiment."""

    name: str = attribute("Name for people.")
    task_type: str = attribute("Kind of training, such as `pretrain` or `sft`.")
    goal: str | None = optional("Purpose.")
    version: str | None = optional("The experiment's own version.")
    base_model: str | None = optional("The model it starts from.")
    owner: str | None = optional("Person or team that owns it.")
    param_config: Json | None = optional("Parameters common to its runs: an object.")
    tags: list[str] | None = optional("Tags to find it by.")
    notes: str | None = optional("Free text.")
    project: str | None = optional("Name of its project; left out: your only one, or the default.")
    idempotency_key: str | None = optional(KEY)


@output
class CreateExperimentPayload(Payload):
    """The new experiment."""

    experiment: Experiment | None = optional("The experiment.")


@input
class UpdateExperimentInput:
    """The description of an experiment. A field that is left out stays; null removes it."""

    experiment_id: strawberry.ID = attribute("The experiment.")
    name: str | None = optional("Name for people.")
    goal: str | None = clearable("Purpose.")
    owner: str | None = clearable("Person or team that owns it.")
    notes: str | None = clearable("Free text.")
    tags: list[str] | None = optional("Tags to find it by.")
    archived: bool | None = optional(
        "Keep it out of lists, together with its runs that have ended."
    )
    idempotency_key: str | None = optional(KEY)


@output
class UpdateExperimentPayload(Payload):
    """The experiment, changed."""

    experiment: Experiment | None = optional("The experiment.")


ToUpdate = Annotated[
    UpdateExperimentInput, strawberry.argument(description="The experiment, and what to change.")
]
NewExperiment = Annotated[
    CreateExperimentInput, strawberry.argument(description="Fields of the new experiment.")
]


@output
class ExperimentMutations:
    """Mutations of experiments."""

    @mutation
    async def create_experiment(self, info: Info, input: NewExperiment) -> CreateExperimentPayload:
        """Create an experiment."""
        return await perform(
            info, input, CreateExperimentPayload,
            lambda tx: {"experiment": experiments.create(tx, request_of(ExperimentRequest, input))},
        )  # fmt: skip

    @mutation
    async def update_experiment(self, info: Info, input: ToUpdate) -> UpdateExperimentPayload:
        """Change name, goal, owner, notes, tags or archive of an experiment."""

        def work(tx: Tx) -> Rows:
            request = request_of(UpdateExperimentRequest, input, "experiment_id")
            return {"experiment": edits.update_experiment(tx, input.experiment_id, request)}

        return await perform(info, input, UpdateExperimentPayload, work)
