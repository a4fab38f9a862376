"""`/v1` lists: filtered, sorted, page by page. `next` of an answer is the next `after`."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.domain.lifecycle import CheckpointState, RunStatus
from app.domain.requests import MetricKey, Name
from app.errors import InvalidInput
from app.rest import schemas, views
from app.rest.parameters import DirectRoute, ExperimentId
from app.rest.problems import documented
from app.services import experiments, keyset, listing
from app.services.cursors import Order, Page, Window
from app.services.keyset import Listing, Parent
from app.store.sql import Tx

FEW = 20_000
FEW_METRICS = 2_000
# An index would have to be written with every report.
_SCANS = "By `step` the whole list is read for each page; every other order walks an index."

router = APIRouter(prefix="/v1/experiments", route_class=DirectRoute)

Render = Callable[..., list[dict[str, Any]]]


class PageQuery(BaseModel):
    """Which page of a list."""

    model_config = ConfigDict(extra="forbid")

    limit: Annotated[int, Field(ge=1, le=1_000)] = 50
    after: str | None = Field(default=None, description="The `next` of the page before.")

    def filters(self) -> dict[str, Any]:
        """What was asked for, without what says how to list it."""
        asked = self.model_dump(exclude={"limit", "after", "order", "metric_key"}, mode="json")
        return {name: value for name, value in asked.items() if value not in (None, [])}


class ExperimentsQuery(PageQuery):
    """Which experiments."""

    task_type: Name | None = None
    owner: Name | None = None
    base_model: Name | None = None
    tags: list[Name] = Field(default_factory=list, description="Repeated; all of them.")
    search: Name | None = None
    order: Literal["created_at", "-created_at", "name", "-name"] = "-created_at"


class RunsQuery(PageQuery):
    """Which runs."""

    status: list[RunStatus] = Field(default_factory=list, description="Repeated; any of them.")
    model: Name | None = None
    recipe: Name | None = None
    parent_run_id: Name | None = None
    root_run_id: Name | None = None
    search: Name | None = None
    order: Literal[
        "created_at", "-created_at", "started_at", "-started_at", "finished_at", "-finished_at",
        "step", "-step", "metric", "-metric",
    ] = Field(default="-created_at", description=_SCANS)  # fmt: skip
    metric_key: MetricKey | None = Field(
        default=None, description="With the order `metric`: the key whose latest value counts."
    )


class CheckpointsQuery(PageQuery):
    """Which checkpoints."""

    run_id: Name | None = None
    state: list[CheckpointState] = Field(default_factory=list, description="Repeated; any of them.")
    tag_type: Name | None = None
    release_tag: Name | None = None
    marked: bool | None = None
    order: Literal[
        "created_at", "-created_at", "marked_at", "-marked_at", "step", "-step"
    ] = Field(default="-created_at", description=_SCANS)  # fmt: skip


class EventsQuery(PageQuery):
    """Which events."""

    run_id: Name | None = None
    type: Name | None = None
    order: Literal["seq", "-seq"] = "seq"


@router.get(
    "", response_model=schemas.ExperimentsAnswer, responses=documented(422), tags=["experiments"]
)
async def list_experiments(
    request: Request, query: Annotated[ExperimentsQuery, Query()]
) -> Response:
    """Experiments."""
    return await _answer(request, None, "experiments", listing.EXPERIMENTS, query, _experiments)


@router.get(
    "/{experiment_id}/runs", response_model=schemas.RunsAnswer, responses=documented(404, 422),
    tags=["runs"],
)  # fmt: skip
async def list_runs(
    request: Request, experiment_id: ExperimentId, query: Annotated[RunsQuery, Query()]
) -> Response:
    """Runs of an experiment, with their latest metrics."""
    return await _answer(request, experiment_id, "runs", listing.RUNS, query, _runs)


@router.get(
    "/{experiment_id}/checkpoints", response_model=schemas.CheckpointsAnswer,
    responses=documented(404, 422), tags=["checkpoints"],
)  # fmt: skip
async def list_checkpoints(
    request: Request, experiment_id: ExperimentId, query: Annotated[CheckpointsQuery, Query()]
) -> Response:
    """Checkpoints of an experiment."""
    return await _answer(
        request, experiment_id, "checkpoints", listing.CHECKPOINTS, query, _checkpoints
    )


@router.get(
    "/{experiment_id}/events", response_model=schemas.EventsAnswer, responses=documented(404, 422),
    tags=["experiments"],
)  # fmt: skip
async def list_events(
    request: Request, experiment_id: ExperimentId, query: Annotated[EventsQuery, Query()]
) -> Response:
    """The history of an experiment, oldest first."""
    return await _answer(request, experiment_id, "events", listing.EVENTS, query, _events)


async def _answer(
    request: Request,
    experiment_id: str | None,
    name: str,
    of: Listing[Any],
    query: Any,
    render: Render,
) -> Response:
    order = Order(
        query.order.removeprefix("-"),
        query.order.startswith("-"),
        getattr(query, "metric_key", None),
    )
    if (order.field == "metric") != (order.metric_key is not None):
        raise InvalidInput("The order `metric` and `metric_key` go together.")
    window = Window(query.limit, query.after)
    db = request.app.state.db
    asked = name, of, query.filters(), order, window
    parent = None
    if experiment_id is not None:
        parent = ("experiment_id", experiment_id)
        # Its events outnumber its runs and checkpoints: few of them, and the list is short work,
        # if its runs do not have a thousand metrics each.
        if (await db.read(experiments.get, experiment_id)).last_seq <= FEW:
            short = partial(render, most=FEW_METRICS) if render is _runs else render
            with suppress(listing.TooMany):
                body = await db.read(_body, parent, *asked, short)
                return Response(body, media_type="application/json")
    body = await db.scan(_body, parent, *asked, render)
    return Response(body, media_type="application/json")


def _body(
    tx: Tx,
    parent: Parent | None,
    name: str,
    of: Listing[Any],
    filters: Mapping[str, Any],
    order: Order,
    window: Window,
    render: Render,
) -> bytes:
    """The bytes, made where the rows were read."""
    page = keyset.page(tx, of, filters, order, window, parent)
    following = page.cursor(len(page.rows) - 1) if page.has_next else None
    return orjson.dumps({name: render(tx, page), "next": following})


def _experiments(tx: Tx, page: Page[Any]) -> list[dict[str, Any]]:
    return [views.experiment(row) for row in page.rows]


def _runs(tx: Tx, page: Page[Any], **at: int) -> list[dict[str, Any]]:
    latest = listing.latest_metrics(tx, [row.id for row in page.rows], **at)
    return [views.run_summary(*each) for each in zip(page.rows, latest, strict=True)]


def _checkpoints(tx: Tx, page: Page[Any]) -> list[dict[str, Any]]:
    return [views.checkpoint(row) for row in page.rows]


def _events(tx: Tx, page: Page[Any]) -> list[dict[str, Any]]:
    return [views.event(row) for row in page.rows]
