"""Mutations that delete runs and experiments for good, and redact what was sent by mistake."""

import asyncio
from typing import Annotated

import strawberry

from app.db.sql import Tx
from app.domain.requests import RedactRequest
from app.graphql.describe import Info, attribute, input, mutation, optional, output
from app.graphql.mutations.payloads import KEY, Payload, Rows, perform, request_of
from app.graphql.types import Run
from app.graphql.values import Deletion
from app.services import deletion, redaction


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
    """The record that remains of the run."""

    deletion: Deletion | None = optional("The record of the deletion.")


@output
class DeleteExperimentPayload(Payload):
    """The record that remains of the experiment."""

    deletion: Deletion | None = optional("The record of the deletion.")


@input
class RedactRunInput:
    """Secrets to remove from a run."""

    run_id: strawberry.ID = attribute("The run, which has ended.")
    hyperparams: list[str] | None = optional("Names of hyperparameters.")
    metrics: list[str] | None = optional("Keys of metrics.")
    notes: bool | None = optional("True: its notes.")
    idempotency_key: str | None = optional(KEY)


@output
class RedactRunPayload(Payload):
    """The run without what was redacted."""

    run: Run | None = optional("The run.")


ToRedact = Annotated[
    RedactRunInput, strawberry.argument(description="The run, and what to remove from it.")
]
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

    @mutation
    async def redact_run(self, info: Info, input: ToRedact) -> RedactRunPayload:
        """Take something out of a run, and out of everything it was copied to.

        Backups, messages that were sent, and what its trainer printed or saved are not reached.
        """
        context = info.context

        async def clean() -> None:
            request = request_of(RedactRequest, input, "run_id")
            planned = await context.db.scan(redaction.plan, input.run_id, request)
            await asyncio.to_thread(redaction.clean_files, context.data_dir, planned)

        def work(tx: Tx) -> Rows:
            request = request_of(RedactRequest, input, "run_id")
            return {"run": redaction.redact(tx, input.run_id, request).run}

        return await perform(info, input, RedactRunPayload, work, prepare=clean)
