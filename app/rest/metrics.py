"""`/v1/…/metrics`: curves of one run, or of several to compare."""

from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated

import orjson
from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from app.db.database import Database
from app.db.listing import TooMany
from app.db.sql import Tx
from app.domain.filters import MAX_KEYS, MAX_POINTS, MIN_POINTS
from app.domain.points import MAX_STEP
from app.domain.requests import MetricKey, Name
from app.errors import InvalidInput
from app.rest.parameters import DirectRoute, ExperimentId, Parameters, RunId
from app.rest.problems import describe_errors
from app.services import curves, runs
from app.services.curves import Series, Window

router = APIRouter(
    prefix="/v1/experiments/{experiment_id}", tags=["metrics"], route_class=DirectRoute
)

SHORT_KEYS, SHORT_POINTS = 4, 12_000
"""Curves of one run that SQLite reads on the event loop, as a page of a list: the hop to a thread
and back costs a fifth of it, and the thread would hold the interpreter as long."""
_Step = Annotated[int, Field(ge=0, le=MAX_STEP)]


class SpecialValue(TypedDict):
    """A value that JSON has no number for."""

    step: int
    value: Annotated[str, Field(description="NaN, Infinity or -Infinity.")]


class SeriesAnswer(TypedDict):
    """Points of one key of one run, as columns, steps ascending."""

    run_id: str
    key: str
    attempt: Annotated[int | None, Field(description="Only with `raw`; null for a run's curve.")]
    steps: list[int]
    values: Annotated[
        list[float | None], Field(description="null where NaN or infinite; see `special`.")
    ]
    wall_times: Annotated[
        list[float | None], Field(description="Unix seconds; null when not given.")
    ]
    downsampled: Annotated[bool, Field(description="True if `points` left any out.")]
    next_after_step: Annotated[
        int | None, Field(description="There are more: `after_step` for them.")
    ]
    special: list[SpecialValue]


class MetricsAnswer(TypedDict):
    """Curves, run by run and key by key."""

    series: list[SeriesAnswer]


class MetricsQuery(Parameters):
    """A range of points. Without `points`, all of them, page by page."""

    keys: list[MetricKey] = Field(
        default_factory=list,
        max_length=MAX_KEYS,
        description="Metrics; repeatable; all if left out.",
    )
    from_step: _Step = 0
    to_step: _Step = MAX_STEP
    points: Annotated[int, Field(ge=MIN_POINTS, le=MAX_POINTS)] | None = Field(
        default=None,
        description="At most so many of each curve, chosen so that every spike survives "
        "(MinMax: the lowest and the highest of each group).",
    )
    after_step: _Step | None = Field(
        default=None, description="The `next_after_step` of the page before."
    )
    limit: Annotated[int, Field(ge=1, le=100_000)] = Field(
        default=10_000, description="Points of each curve in a page."
    )
    raw: bool = Field(
        default=False,
        description="Each attempt by itself, with all that it reported, instead of the curve "
        "that goes on from the run resumed from and holds no superseded points.",
    )

    def window(self) -> Window:
        """Return the range to read. Raises InvalidInput."""
        if self.after_step is None:
            return Window(self.from_step, self.to_step, self.points, self.limit)
        if self.points is not None:
            raise InvalidInput(
                "Pages (`after_step`) hold every point; leave out `points`.",
                errors=[{"pointer": "", "parameter": "points", "detail": "not with `after_step`"}],
            )
        low = max(self.from_step, self.after_step + 1)
        return Window(low, self.to_step, None, self.limit)


class ComparisonQuery(MetricsQuery):
    """A range of points of several runs."""

    run_ids: list[Name] = Field(min_length=1, max_length=200, description="Repeated, one each.")


@router.get("/runs/{run_id}/metrics", response_model=MetricsAnswer, responses=describe_errors(404))
async def run_metrics(
    request: Request,
    experiment_id: ExperimentId,
    run_id: RunId,
    query: Annotated[MetricsQuery, Query()],
) -> Response:
    """Return the curves of a run, which continue those of the run it was resumed from."""
    return await _answer(request, experiment_id, [run_id], query)


@router.get("/metrics", response_model=MetricsAnswer, responses=describe_errors(404))
async def compare_metrics(
    request: Request, experiment_id: ExperimentId, query: Annotated[ComparisonQuery, Query()]
) -> Response:
    """Return the curves of several runs, to compare them."""
    return await _answer(request, experiment_id, query.run_ids, query)


async def _answer(
    request: Request, experiment_id: str, run_ids: Sequence[str], query: MetricsQuery
) -> Response:
    db: Database = request.app.state.db
    read = partial(
        _body, experiment_id=experiment_id, run_ids=run_ids, keys=query.keys or None,
        window=query.window(), raw=query.raw,
    )  # fmt: skip
    body = None
    if db.dialect == "sqlite" and len(run_ids) == 1 and 1 <= len(query.keys) <= SHORT_KEYS:
        with suppress(TooMany):
            body = await db.read(read, most=SHORT_POINTS)
    return Response(body or await db.scan(read), media_type="application/json")


def _body(
    tx: Tx,
    experiment_id: str,
    run_ids: Sequence[str],
    keys: Sequence[str] | None,
    window: Window,
    raw: bool,
    most: int | None = None,
) -> bytes:
    """Return the response as bytes, rendered where the points are read.

    Raises TooMany where more than `most` points would be read.
    """
    for run_id in run_ids:
        runs.get(tx, run_id, experiment_id)
    read = curves.read(tx, run_ids, keys, window, raw=raw, most=most)
    return orjson.dumps({"series": [_series(series) for series in read]})


def _series(row: Series) -> SeriesAnswer:
    """Return `SeriesAnswer`. orjson writes null for every number that JSON does not have."""
    return {
        "run_id": row.run_id,
        "key": row.key,
        "attempt": row.attempt,
        "steps": list(row.steps),
        "values": list(row.values),
        "wall_times": list(row.wall_times),
        "downsampled": row.downsampled,
        "next_after_step": row.next_after_step,
        "special": [{"step": step, "value": value} for step, value in curves.special_values(row)],
    }
