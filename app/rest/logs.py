"""The run's log (the trainer's output), whole, in part, or as it grows."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from app.domain.lifecycle import TERMINAL
from app.errors import InvalidInput
from app.rest import log_events
from app.rest.parameters import DocumentedRoute, ExperimentId, Parameters, RunId
from app.rest.problems import describe_errors
from app.services import log_streams, train_log
from app.services.train_log import Part

MOST = 8 * 1024 * 1024
TYPE = "text/plain; charset=utf-8"

router = APIRouter(prefix="/v1", tags=["runs"], route_class=DocumentedRoute)


class LogsQuery(Parameters):
    """A part of the log."""

    offset: Annotated[int, Field(ge=-(2**53), le=2**53)] = Field(
        0, description="The first byte; a negative one counts from the end."
    )
    limit: Annotated[int, Field(ge=1, le=MOST)] = Field(
        MOST, description="Bytes at most, without `follow`."
    )
    follow: bool = Field(False, description="Go on until the run has ended.")


@router.get(
    "/experiments/{experiment_id}/runs/{run_id}/logs", response_class=Response,
    openapi_extra={
        "parameters": [
            {
                "name": "Last-Event-ID",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
                "description": "The `id` of the last event received: go on after it, whatever "
                "`offset` says. An EventSource that connects again sends it.",
            }
        ]
    },
    responses=describe_errors(404, 410)
    | {
        204: {"description": "The run has ended, and nothing follows `Last-Event-ID`."},
        200: {
            "description": "The trainer's output, unchanged, but for what exceeded the "
            "recipe's `max_log_mb`; to a client that accepts "
            "`text/event-stream`, with `follow`, as events: whole lines, with the offset after "
            "them as `id`, comments while nothing comes, and `end` after the last.",
            "content": {
                "text/plain": {"schema": {"type": "string"}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
            "headers": {
                "X-Next-Offset": {
                    "description": "The `offset` to go on from; not with `follow`.",
                    "schema": {"type": "integer"},
                }
            },
        }
    },
)  # fmt: skip
async def logs(
    request: Request,
    experiment_id: ExperimentId,
    run_id: RunId,
    query: Annotated[LogsQuery, Query()],
) -> Response:
    """Return the trainer's output."""
    state = request.app.state
    run = await state.db.read(log_streams.get_run, run_id, experiment_id)
    run_dir: Path = state.settings.data_dir / "runs" / run_id
    size = await asyncio.to_thread(train_log.measure_size, run_dir)
    start = _parse_last_event_id(request)
    if start is None:
        start = query.offset if query.offset >= 0 else max(0, size + query.offset)
    if query.follow:
        nothing_left = run.status in TERMINAL and start >= size
        head = "head" in request.scope
        parts = _yield_nothing() if head else log_streams.follow(state.db, run_id, run_dir, start)
        return _stream(request, parts, start, nothing_left)
    part = await asyncio.to_thread(train_log.read, run_dir, start, query.limit)
    headers = {"X-Next-Offset": str(part.next_offset)}
    return Response(part.content, media_type=TYPE, headers=headers)


def _parse_last_event_id(request: Request) -> int | None:
    """Return the offset that a reconnecting EventSource goes on from. Raises InvalidInput."""
    last = request.headers.getlist("last-event-id")
    if not last:
        return None
    if len(last) > 1 or not re.fullmatch(r"[0-9]{1,15}", last[0]):
        raise InvalidInput(
            "Last-Event-ID must be the id of an event of this log.",
            errors=[{"pointer": "", "header": "Last-Event-ID", "detail": "not an id of this log"}],
        )
    return int(last[0])


def _stream(
    request: Request, parts: AsyncIterator[Part], start: int, nothing_left: bool
) -> Response:
    """Return the growing log, as it is or as events, unbuffered by nginx."""
    headers = {"X-Accel-Buffering": "no"}
    if "text/event-stream" not in request.headers.get("accept", "").lower():
        return StreamingResponse(_content(parts), media_type=TYPE, headers=headers)
    if nothing_left and "last-event-id" in request.headers:
        return Response(status_code=204)  # which tells an EventSource not to connect again
    if "head" in request.scope:
        return Response(media_type=log_events.TYPE, headers=headers)
    events = log_events.stream_events(parts, start)
    return StreamingResponse(events, media_type=log_events.TYPE, headers=headers)


async def _content(parts: AsyncIterator[Part]) -> AsyncIterator[bytes]:
    async for part in parts:
        if part.content:
            yield part.content


async def _yield_nothing() -> AsyncIterator[Part]:
    return
    yield
