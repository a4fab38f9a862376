"""`/v1`: taking out of a run what should never have been sent."""

import asyncio
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from app.domain.requests import RedactRequest
from app.rest import responses
from app.rest.body import read
from app.rest.parameters import DocumentedRoute, ExperimentId, RunId, accepts_json
from app.services import redaction

router = APIRouter(prefix="/v1", route_class=DocumentedRoute)


class RedactedAnswer(TypedDict):
    """The result of a redaction: the run, and the runs of its experiment that were searched."""

    experiment_id: str
    run_id: str
    run_ids: list[str]
    messages_sent: Annotated[
        int, Field(description="Messages to webhooks that held it and were sent before.")
    ]
    not_reached: Annotated[
        list[redaction.NotReached],
        Field(description="Places where it may still be: no redaction reaches them."),
    ]


def view(redacted: redaction.Redacted) -> RedactedAnswer:
    """Return `RedactedAnswer`."""
    return {
        "experiment_id": redacted.run.experiment_id,
        "run_id": redacted.run.id,
        "run_ids": redacted.run_ids,
        "messages_sent": redacted.messages_sent,
        "not_reached": redacted.not_reached,
    }


@router.post(
    "/experiments/{experiment_id}/runs/{run_id}/redact", response_model=RedactedAnswer,
    tags=["runs"],
    **accepts_json(RedactRequest, 404),
)  # fmt: skip
async def redact_run(request: Request, experiment_id: ExperimentId, run_id: RunId) -> Response:
    """Take hyperparameters, metrics or the notes of a run out of everything they were copied to."""
    body = await read(request, RedactRequest)
    state = request.app.state

    async def clean() -> None:
        planned = await state.db.scan(redaction.plan, run_id, body, experiment_id)
        await asyncio.to_thread(redaction.clean_files, state.settings.data_dir, planned)

    return responses.respond(
        await responses.perform(
            request, lambda tx: redaction.redact(tx, run_id, body, experiment_id), view,
            prepare=clean,
        )
    )  # fmt: skip
