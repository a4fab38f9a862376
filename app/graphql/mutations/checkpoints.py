"""Mutations of checkpoints: mark, verify."""

from typing import Annotated

import strawberry

from app.db.sql import Tx
from app.domain import paths
from app.domain.requests import MarkRequest, VerifyRequest
from app.graphql.describe import Info, attribute, input, mutation, optional, output
from app.graphql.mutations.payloads import KEY, Payload, Rows, perform, request_of
from app.graphql.scalars import Json
from app.graphql.types import Checkpoint
from app.services import checkpoints, marks, runs, verification


@input
class MarkCheckpointInput:
    """A checkpoint to mark, and its marks."""

    run_id: strawberry.ID = attribute("The run that it belongs to.")
    ckpt_path: str = attribute("Its logical path.")
    tag_type: str = attribute("A lower-case slug, such as `candidate` or `release`.")
    release_tag: str | None = optional("A release tag, unique in the experiment.")
    metrics: Json | None = optional("Metrics: an object of numbers.")
    idempotency_key: str | None = optional(KEY)


@input
class VerifyCheckpointInput:
    """A checkpoint to verify."""

    ckpt_path: str = attribute("Its logical path.")
    idempotency_key: str | None = optional(KEY)


@output
class MarkCheckpointPayload(Payload):
    """The marked checkpoint."""

    checkpoint: Checkpoint | None = optional("The checkpoint.")


@output
class VerifyCheckpointPayload(Payload):
    """The verified checkpoint."""

    checkpoint: Checkpoint | None = optional("The checkpoint: ready, or lost with the reason.")


ToMark = Annotated[
    MarkCheckpointInput, strawberry.argument(description="The checkpoint, and its marks.")
]
ToVerify = Annotated[
    VerifyCheckpointInput, strawberry.argument(description="The checkpoint to verify.")
]


@output
class CheckpointMutations:
    """Mutations of checkpoints."""

    @mutation
    async def mark_checkpoint(self, info: Info, input: ToMark) -> MarkCheckpointPayload:
        """Put a tag, a release tag and metrics onto a checkpoint."""

        def work(tx: Tx) -> Rows:
            request = request_of(MarkRequest, input)
            run = runs.get(tx, request.run_id)
            return {"checkpoint": marks.mark(tx, run.experiment_id, request, info.context.gate)}

        return await perform(info, input, MarkCheckpointPayload, work)

    @mutation
    async def verify_checkpoint(self, info: Info, input: ToVerify) -> VerifyCheckpointPayload:
        """Read every byte of a checkpoint again, and compare it with its manifest."""
        context = info.context

        async def verify() -> None:
            request = VerifyRequest(ckpt_path=input.ckpt_path)
            experiment_id = paths.parse(input.ckpt_path).experiment_id
            context.limit.reschedule(None)  # its files may hold 100 GB
            await verification.verify_all(
                context.db, context.readers, context.storage, experiment_id, request
            )

        return await perform(
            info, input, VerifyCheckpointPayload,
            lambda tx: {"checkpoint": checkpoints.get_by_path(tx, input.ckpt_path)},
            prepare=verify,
        )  # fmt: skip
