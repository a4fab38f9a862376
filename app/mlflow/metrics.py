"""Metrics and parameters: one report each, accepted as fast as they are written."""

import math
from collections.abc import Sequence
from typing import Annotated

from fastapi import Request, Response
from pydantic import Field

from app.db.sql import Tx
from app.domain.tracking import wall_time, wire_number
from app.errors import InvalidInput
from app.mlflow import bodies
from app.mlflow.routing import API, router
from app.server.tracking import get_access, json
from app.services import curves, labels, models, runs, tracking
from app.services.curves import Window
from app.services.tracking import Point

MAX_KEYS = 1_000
MAX_HISTORY = 25_000
MIN_STEP = -(2**63)
"""MLflow's steps may be negative; curves elsewhere begin at 0."""

routes = router()


@routes.post(f"{API}/runs/log-metric")
async def log_metric(request: Request) -> Response:
    body = await bodies.read(request, bodies.LogMetric)
    return await _log(request, body.run, [body], {}, {})


@routes.post(f"{API}/runs/log-parameter")
async def log_parameter(request: Request) -> Response:
    body = await bodies.read(request, bodies.LogParameter)
    return await _log(request, body.run, [], {body.key: body.value}, {})


@routes.post(f"{API}/runs/log-batch")
async def log_batch(request: Request) -> Response:
    body = await bodies.read(request, bodies.LogBatch)
    params, tags = bodies.as_dict(body.params), bodies.as_dict(body.tags)
    return await _log(request, body.run, body.metrics, params, tags)


async def _log(
    request: Request,
    run_id: str,
    logged: Sequence[bodies.Metric],
    params: dict[str, str],
    tags: dict[str, str],
) -> Response:
    """Record what a client has logged of one run: all of it, or nothing."""
    writer = get_access(request).writer(run_id)
    if len({metric.key for metric in logged}) > MAX_KEYS:
        raise InvalidInput(f"A batch holds at most {MAX_KEYS:,} metric keys; send several.")
    points = [
        Point(point.key, point.step, point.value, wall_time(point.timestamp)) for point in logged
    ]
    of_models: dict[str, list[dict[str, object]]] = {}
    for point in logged:
        if point.model_id:
            content = point.model_dump(exclude_none=True) | {"value": wire_number(point.value)}
            of_models.setdefault(point.model_id, []).append(content | {"run_id": run_id})

    def work(tx: Tx) -> None:
        labels.set_labels(tx, runs.lock(tx, run_id).id, tags)
        if points or params:
            tracking.log(tx, writer, points, params)
        for model_id, values in of_models.items():
            models.add_metrics(tx, model_id, values)

    state = request.app.state
    size = len(await request.body())
    with state.inflow.hold(run_id, size) as turn_of_run:
        async with turn_of_run:
            await state.db.write(work)
    return json({})


class History(bodies.OfRun):
    """The query parameters of a metric's history."""

    metric_key: str
    max_results: Annotated[int, Field(ge=1, le=MAX_HISTORY)] = MAX_HISTORY
    page_token: Annotated[int, Field(ge=MIN_STEP, lt=2**63)] = MIN_STEP


@routes.get(f"{API}/metrics/get-history")
async def get_history(request: Request) -> Response:
    """Return the points of one metric by step; a token names the step to go on from."""
    body = bodies.read_query(request, History)
    get_access(request).check_run(body.run)
    window = Window(from_step=body.page_token, limit=body.max_results)
    read = await request.app.state.db.scan(curves.read, [body.run], [body.metric_key], window)
    points, token = [], None
    for series in read:
        for step, value, seconds in zip(
            series.steps, series.values, series.wall_times, strict=True
        ):
            timestamp = 0 if math.isnan(seconds) else round(seconds * 1000)
            point = {"key": body.metric_key, "value": wire_number(value), "step": step}
            points.append(point | {"timestamp": timestamp})
        if series.next_after_step is not None:
            token = str(series.next_after_step + 1)
    return json({"metrics": points} | ({"next_page_token": token} if token else {}))
