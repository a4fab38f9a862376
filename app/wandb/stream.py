"""The stream of a run's files: history, the machine's metrics, the summary, and the end."""

import asyncio
from typing import Annotated, NamedTuple

from fastapi import Request, Response
from pydantic import Field

from app.db.listing import latest_metrics
from app.db.sql import Tx
from app.db.tables import Run
from app.domain.lifecycle import TERMINAL, RunStatus
from app.domain.reports import MAX_POINTS
from app.domain.tracking import MAX_LABEL_KEY
from app.server.bodies import Body, read
from app.server.guard import MAX_STREAM as MAX_BODY
from app.server.tracking import Access, get_access, json
from app.services import labels, runs, tracking
from app.services.tracking import Point, Writer
from app.wandb import rows
from app.wandb.routing import FILES, router
from app.wandb.runs import get_loop_step, get_run

SUMMARY = "wandb.summary."
"""Prefix of the labels for values of a summary that have no curve."""
MAX_SUMMARY = 100

routes = router()


class Chunk(Body):
    """Lines that are appended to a file, or the new content of one."""

    content: list[str] = Field(default_factory=list)


class StreamRequest(Body):
    """New lines of a run's files. `complete`: these are the last, and this is the exit code."""

    files: Annotated[dict[str, Chunk], Field(max_length=100)] = Field(default_factory=dict)
    complete: bool = False
    exitcode: int | None = None

    def lines(self, name: str) -> list[str]:
        """Return the new lines of a file."""
        return self.files[name].content if name in self.files else []


@routes.post(f"{FILES}/file_stream")
async def file_stream(request: Request, project: str, name: str) -> Response:
    """Record what a client has logged. The same again, after a lost answer, changes nothing."""
    access = get_access(request)
    body = await read(request, StreamRequest, MAX_BODY)
    state = request.app.state
    run, loop_step = await state.db.read(_find, access, project, name)
    writer = access.writer(run.id)
    if not (RunStatus(run.status) in TERMINAL and body.complete):
        with state.inflow.hold(run.id, len(await request.body())) as turn_of_run:
            async with turn_of_run:
                logged = await asyncio.to_thread(_parse, body, run.step, loop_step)
                # A transaction for each part: others write between them.
                for first in range(0, max(1, len(logged.points)), MAX_POINTS):
                    part = logged.points[first : first + MAX_POINTS]
                    await state.db.write(tracking.report, writer, part)
                await state.db.write(_end, writer, logged, body)
    return json({"exitcode": None, "limits": {}})


class Logged(NamedTuple):
    """The contents of a request's lines."""

    points: list[Point]
    summary: dict[str, float]


def _find(tx: Tx, access: Access, project: str, name: str) -> tuple[Run, int | None]:
    run = get_run(tx, access, project, name)
    return run, get_loop_step(tx, run)


def _parse(body: StreamRequest, run_step: int, loop_step: int | None) -> Logged:
    """Return all points: the history's, and the machine's at the newest step of them."""
    points = list(rows.history_points(body.lines("wandb-history.jsonl"), loop_step))
    step = max([run_step, *(point.step for point in points)])
    points += rows.system_points(body.lines("wandb-events.jsonl"), step)
    return Logged(points, rows.summary(body.lines("wandb-summary.json")))


def _end(tx: Tx, writer: Writer, logged: Logged, body: StreamRequest) -> None:
    _note_summary(tx, runs.lock(tx, writer.run_id).id, logged)
    if body.complete:
        tracking.end(tx, writer, "FAILED" if body.exitcode else "FINISHED")


def _note_summary(tx: Tx, run_id: str, logged: Logged) -> None:
    """Keep as labels what a script has put into its summary alone."""
    if not logged.summary:
        return
    (known,) = latest_metrics(tx, [run_id])
    alone = logged.summary.keys() - {row.key for row in known}
    kept = [key for key in sorted(alone) if len(SUMMARY + key) <= MAX_LABEL_KEY][:MAX_SUMMARY]
    labels.set_labels(tx, run_id, {SUMMARY + key: repr(logged.summary[key]) for key in kept})
