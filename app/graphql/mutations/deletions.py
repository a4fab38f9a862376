"""Mutations that delete runs and experiments for good."""

from typing import Annotated

import strawberry

from app.graphql.describe import Info, attribute, input, mutation, optional, output
from app.graphql.mutations.payloads import KEY, Payload, perform
from app.graphql.values import Deletion
from app.services import deletion


@input
class DeleteRunInput:
    """A run to delete."""

    run_id: strawberry.ID = attribute("The run, which has ended.")
    idempotency_key: str | None = optional(KEY)


@input
class DeleteExperimentInput:
    """An experiment to delete."""

    experiment_id: strawberry.ID = attribute("The experiment, all of whose runs have ended.")
    idempotency_key: str | None = optional(KEY)


@output
class DeleteRunPayload(Payload):
    """What stays of the run."""

    deletion: Deletion | None = optional("The record of the deletion.")


@output
class DeleteExperimentPayload(Payload):
    """What stays of the experiment."""

    deletion: Deletion | None = optional("The record of the deletion.")


RunToDelete = Annotated[DeleteRunInput, strawberry.argument(description="The run to delete.")]
ExperimentToDelete = Annotated[
    DeleteExperimentInput, strawberry.argument(description="The experiment to delete.")
]


@output
class DeletionMutations:
    """Mutations that delete."""

    @mutation
    async def delete_run(self, info: Info, input: RunToDelete) -> DeleteRunPayload:
        """Delete a run for good: rows, points, logs, artifacts and checkpoints."""
        return await perform(
            info, input, DeleteRunPayload,
            lambda tx: {"deletion": deletion.delete_run(tx, input.run_id)},
        )  # fmt: skip

    @mutation
    async def delete_experiment(
        self, info: Info, input: ExperimentToDelete
    ) -> DeleteExperimentPayload:
        """Delete an experiment for good, with all of its runs."""
        return await perform(
            info, input, DeleteExperimentPayload,
            lambda tx: {"deletion": deletion.delete_experiment(tx, input.experiment_id)},
        )  # fmt: skip
