"""`/v1` lists: filtered, sorted, page by page. `next` of a response is the next `after`."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from app.db import efforts, keyset, listing
from app.db.cursors import Order, Page, Window
from app.db.database import Effort
from app.db.list_statements import Listing
from app.db.matching import Parent
from app.db.sql import Tx
from app.domain.filters import (
    MAX_KEYS,
    MAX_LATEST,
    AnyRunFilter,
    CheckpointFilter,
    EventFilter,
    ExperimentFilter,
    Filter,
    RunFilter,
    get_conditions,
)
from app.domain.requests import MetricKey
from app.errors import InvalidInput
from app.rest import schemas, views
from app.rest.parameters import DirectRoute, ExperimentId, Parameters
from app.rest.problems import describe_errors
from app.services import experiments

FEW_METRICS = 2_000
PART = 100
"""Rows read at once; more are never read on the event loop."""
METRICS = MAX_LATEST
MOST_BYTES = 16_000_000
"""A page of this size ends, whatever `limit` says."""
_ORDER = "Sort field; `-` sorts downwards."
_LISTED_RUNS = listing.RUNS.narrowed(views.SUMMARY_COLUMNS)
_SCANS = " By `step` the whole list is read for each page; every other order walks an index."

router = APIRouter(prefix="/v1/experiments", route_class=DirectRoute)

everywhere = APIRouter(prefix="/v1", route_class=DirectRoute)

Render = Callable[..., Sequence[object]]


class PageAnswer(TypedDict):
    """One page of a list."""

    next: Annotated[str | None, Field(description="The `after` of the next page, if there is one.")]


class ExperimentsAnswer(PageAnswer):
    """A page of experiments."""

    experiments: list[schemas.ExperimentAnswer]


class RunsAnswer(PageAnswer):
    """A page of runs."""

    runs: list[schemas.RunSummary]


class CheckpointsAnswer(PageAnswer):
    """A page of checkpoints."""

    checkpoints: list[schemas.CheckpointAnswer]


class EventsAnswer(PageAnswer):
    """A page of events."""

    events: list[schemas.EventAnswer]


class PageQuery(Parameters):
    """One page of a list."""

    limit: Annotated[int, Field(ge=1, le=1_000, description="Rows in a page.")] = 50
    after: str | None = Field(
        default=None,
        description="`next` of the page before. Where rows have to be read to be found (a range of "
        "a hyperparameter among very many runs), a page ends early after 4,000 of them, with "
        "fewer rows than `limit`, or none: go on while there is a `next`.",
    )


class ExperimentsQuery(PageQuery, ExperimentFilter):
    """Filters, order and page of experiments."""

    order: Literal["created_at", "-created_at", "name", "-name"] = Field(
        default="-created_at", description=_ORDER
    )


class RunsQuery(PageQuery, RunFilter):
    """Filters, order and page of runs, and the metrics shown with them."""

    order: Literal[
        "created_at", "-created_at", "started_at", "-started_at", "finished_at", "-finished_at",
        "step", "-step", "metric", "-metric",
    ] = Field(default="-created_at", description=_ORDER)  # fmt: skip
    metric_key: MetricKey | None = Field(
        default=None, description="With the order `metric`: sort by the latest value of this key."
    )
    keys: list[MetricKey] = Field(
        default_factory=list,
        max_length=MAX_KEYS,
        description="Metrics to show with each run; repeatable; all if left out. Runs with "
        "thousands of metrics end a page early: go on with `next`, or name the keys.",
    )


class AllRunsQuery(RunsQuery, AnyRunFilter):
    """The same of the runs of all experiments."""


class CheckpointsQuery(PageQuery, CheckpointFilter):
    """Filters, order and page of checkpoints."""

    order: Literal[
        "created_at", "-created_at", "marked_at", "-marked_at", "step", "-step"
    ] = Field(default="-created_at", description=_ORDER + _SCANS)  # fmt: skip


class EventsQuery(PageQuery, EventFilter):
    """Filters, order and page of events."""

    order: Literal["seq", "-seq"] = Field(default="seq", description=_ORDER)


@router.get(
    "", response_model=ExperimentsAnswer, responses=describe_errors(422), tags=["experiments"]
)
async def list_experiments(
    request: Request, query: Annotated[ExperimentsQuery, Query()]
) -> Response:
    """List experiments."""
    return await _answer(
        request, None, "experiments", listing.EXPERIMENTS, ExperimentFilter, query, _experiments
    )


@router.get(
    "/{experiment_id}/runs", response_model=RunsAnswer, responses=describe_errors(404, 422),
    tags=["runs"],
)  # fmt: skip
async def list_runs(
    request: Request, experiment_id: ExperimentId, query: Annotated[RunsQuery, Query()]
) -> Response:
    """List the runs of an experiment, with their latest metrics."""
    return await _answer(request, experiment_id, "runs", _LISTED_RUNS, RunFilter, query, _runs)


@everywhere.get("/runs", response_model=RunsAnswer, responses=describe_errors(422), tags=["runs"])
async def list_all_runs(request: Request, query: Annotated[AllRunsQuery, Query()]) -> Response:
    """List the runs of all experiments, with their latest metrics."""
    return await _answer(request, None, "runs", _LISTED_RUNS, AnyRunFilter, query, _runs)


@router.get(
    "/{experiment_id}/checkpoints", response_model=CheckpointsAnswer,
    responses=describe_errors(404, 422), tags=["checkpoints"],
)  # fmt: skip
async def list_checkpoints(
    request: Request, experiment_id: ExperimentId, query: Annotated[CheckpointsQuery, Query()]
) -> Response:
    """List the checkpoints of an experiment."""
    return await _answer(
        request,
        experiment_id,
        "checkpoints",
        listing.CHECKPOINTS,
        CheckpointFilter,
        query,
        _checkpoints,
    )


@router.get(
    "/{experiment_id}/events", response_model=EventsAnswer, responses=describe_errors(404, 422),
    tags=["experiments"],
)  # fmt: skip
async def list_events(
    request: Request, experiment_id: ExperimentId, query: Annotated[EventsQuery, Query()]
) -> Response:
    """List the events of an experiment, oldest first."""
    return await _answer(
        request, experiment_id, "events", listing.EVENTS, EventFilter, query, _events
    )


async def _answer(
    request: Request,
    experiment_id: str | None,
    name: str,
    of: Listing[Any],
    kind: type[Filter],
    query: Any,
    render: Render,
) -> Response:
    order = Order(
        query.order.removeprefix("-"),
        query.order.startswith("-"),
        getattr(query, "metric_key", None),
    )
    if (order.field == "metric") != (order.metric_key is not None):
        raise InvalidInput(
            "The order `metric` and `metric_key` go together.",
            errors=[
                {"pointer": "", "parameter": "metric_key", "detail": "goes with the order `metric`"}
            ],
        )
    filters = get_conditions(kind, query)
    window = Window(query.limit, query.after)
    db = request.app.state.db
    keys = getattr(query, "keys", None) or None
    query_args = name, of, filters, order, window, partial(render, keys=keys)
    parent, length = None, None
    if experiment_id is not None:
        parent = ("experiment_id", experiment_id)
        # Its events outnumber its runs and its checkpoints.
        length = (await db.read(experiments.get, experiment_id)).last_seq
    effort = efforts.of_page(filters, order, window, length)
    if effort is Effort.SHORT:
        with suppress(listing.TooMany):  # runs with a thousand metrics each are long after all
            body = await db.fetch(effort, _body, parent, *query_args, FEW_METRICS, False)
            return Response(body, media_type="application/json")
        effort = Effort.LONG
    body = await db.fetch(effort, _body, parent, *query_args, METRICS, True)
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
    most: int,
    cut: bool,
) -> bytes:
    """Return the response as bytes, rendered a part at a time in the thread that reads the rows.

    A response of `MOST_BYTES` ends early, like a smaller page, and `next` is where it ended.
    A part whose runs have more than `most` latest values is cut; without `cut`, TooMany is raised.
    """
    parts: list[bytes] = []
    left, after, size, part = window.size, window.after, 0, PART
    while True:
        page = keyset.page(tx, of, filters, order, Window(min(left, part), after), parent)
        page, shown = (
            _render_fitting(tx, page, render, most) if cut else (page, render(tx, page, most=most))
        )
        parts.append(orjson.dumps(shown)[1:-1])
        part = min(part, max(1, len(page.rows)))  # the next runs are likely to be alike
        left -= len(page.rows)
        size += len(parts[-1])
        after = page.end_cursor() if page.has_next else None
        if after is None or left <= 0 or size >= MOST_BYTES or page.stopped_at is not None:
            break
    return b'{"%b":[%b],"next":%b}' % (name.encode(), b",".join(parts), orjson.dumps(after))


def _render_fitting(
    tx: Tx, page: Page[Any], render: Render, most: int
) -> tuple[Page[Any], Sequence[object]]:
    """Return the page cut to at most `most` latest values, but with at least one run."""
    while len(page.rows) > 1:
        try:
            return page, render(tx, page, most=most)
        except listing.TooMany:
            page = page.cut(len(page.rows) // 2)
    return page, render(tx, page, most=2**62)


def _experiments(tx: Tx, page: Page[Any], **_: Any) -> list[schemas.ExperimentAnswer]:
    return [views.experiment(row) for row in page.rows]


def _runs(
    tx: Tx, page: Page[Any], *, keys: list[str] | None, most: int
) -> list[schemas.RunSummary]:
    latest = listing.latest_values(tx, [row.id for row in page.rows], most, keys)
    return [views.run_summary(*parts) for parts in zip(page.rows, latest, strict=True)]


def _checkpoints(tx: Tx, page: Page[Any], **_: Any) -> list[schemas.CheckpointAnswer]:
    return [views.checkpoint(row) for row in page.rows]


def _events(tx: Tx, page: Page[Any], **_: Any) -> list[schemas.EventAnswer]:
    return [views.event(row) for row in page.rows]
