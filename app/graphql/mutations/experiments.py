"""Mutations of experiments."""

from typing import Annotated

import strawberry

from app.domain.requests import ExperimentRequest
from app.graphql.describe import Info, attribute, input, mutation, optional, output
from app.graphql.mutations.payloads import KEY, Payload, perform, request_of
from app.graphql.scalars import Json
from app.graphql.types import Experiment
from app.services import experiments


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
    idempotency_key: str | None = optional(KEY)


@output
class CreateExperimentPayload(Payload):
    """The new experiment."""

    experiment: Experiment | None = optional("The experiment.")


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
