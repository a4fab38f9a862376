"""Runs: create, get, update; tags, data sets and outputs."""

import hashlib
from typing import Any

from fastapi import Request, Response
from starlette.background import BackgroundTask

from app.db.sql import Tx
from app.domain.tracking import NAME_LABEL
from app.errors import NotFound
from app.mlflow import bodies, views
from app.mlflow.experiments import resolve
from app.mlflow.routing import API, router
from app.server.tracking import Access, get_access, json
from app.services import audit, labels, models, runs, tracking
from app.services.audit import Action

UNANSWERED = "mlflow:unanswered"
"""Scope of the digests of requests whose answer is not sent yet."""

routes = router()
_in_flight: set[str] = set()


@routes.post(f"{API}/runs/create")
async def create_run(request: Request) -> Response:
    """Create an external run; the trainer of one run gets that one.

    A client that got no answer sends the same bytes again: it gets the run that it was not told
    of. Until its answer is sent, a run has an alias, so this holds where a server dies, too.
    """
    access, body = get_access(request), await bodies.read(request, bodies.CreateRun)
    heartbeat = request.app.state.settings.tracking_heartbeat_seconds
    db = request.app.state.db
    if access.run_id is not None:
        return json({"run": await db.write(_use_own, access.run_id, body)})
    digest = hashlib.sha256(await request.body()).hexdigest()
    # Two processes that begin in the same millisecond send the same, at the same time.
    alone = digest not in _in_flight
    _in_flight.add(digest)
    try:
        view = await db.write(_create, access, body, heartbeat, digest if alone else None)
    finally:
        if alone:
            _in_flight.discard(digest)
    response = json({"run": view})
    if alone and not await request.is_disconnected():
        response.background = BackgroundTask(db.write, _forget, view["info"]["run_id"], digest)
    return response


def _use_own(tx: Tx, run_id: str, body: bodies.CreateRun) -> views.View:
    run = runs.lock(tx, run_id)
    labelled = bodies.as_dict(body.tags)
    labels.set_labels(tx, run.id, labelled)
    name = body.run_name or labelled.get(NAME_LABEL, "")
    if name and run.name is None:
        run = tracking.rename(tx, run.id, name)
    return views.runs(tx, [run])[0]


def _create(
    tx: Tx, access: Access, body: bodies.CreateRun, heartbeat: float, digest: str | None
) -> views.View:
    """Create a run, or return the one of the same request whose answer was not sent."""
    known = labels.find_alias_target(tx, UNANSWERED, digest) if digest else None
    if known is not None:
        return views.runs(tx, [runs.get(tx, known)])[0]
    experiment = resolve(tx, access, body.experiment_id)
    labelled = bodies.as_dict(body.tags)
    name = body.run_name or labelled.get(NAME_LABEL, "")
    run = tracking.create_run(tx, experiment.id, name, labelled, heartbeat)
    if digest:
        labels.add_alias(tx, UNANSWERED, digest, run.id)
    return views.runs(tx, [run])[0]


def _forget(tx: Tx, run_id: str, digest: str) -> None:
    """Remove the alias of a run whose answer was sent."""
    runs.lock(tx, run_id)
    labels.delete_alias(tx, UNANSWERED, digest)


@routes.get(f"{API}/runs/get")
async def get_run(request: Request) -> Response:
    body = bodies.read_query(request, bodies.OfRun)
    get_access(request).check_run(body.run)

    def find(tx: Tx) -> views.View:
        return views.runs(tx, [runs.get(tx, body.run)])[0]

    return json({"run": await request.app.state.db.read(find)})


@routes.post(f"{API}/runs/update")
async def update_run(request: Request) -> Response:
    """Rename a run, and take in what its client says of its end."""
    body = await bodies.read(request, bodies.UpdateRun)
    writer = get_access(request).writer(body.run)

    def update(tx: Tx) -> views.View:
        run = runs.lock(tx, body.run)
        if body.status is not None:
            run = tracking.end(tx, writer, body.status)
        if body.run_name:
            run = tracking.rename(tx, run.id, body.run_name)
        return views.run_info(run, labels.get_labels(tx, run.id))

    return json({"run_info": await request.app.state.db.write(update)})


@routes.post(f"{API}/runs/set-tag")
async def set_tag(request: Request) -> Response:
    body = await bodies.read(request, bodies.RunTag)
    get_access(request).check_run(body.run)

    def set_label(tx: Tx) -> None:
        labels.set_labels(tx, runs.lock(tx, body.run).id, {body.key: body.value})
        audit.record(tx, Action("update_run", body.run))

    await request.app.state.db.write(set_label)
    return json({})


@routes.post(f"{API}/runs/delete-tag")
async def delete_tag(request: Request) -> Response:
    body = await bodies.read(request, bodies.RunTag)
    get_access(request).check_run(body.run)

    def delete(tx: Tx) -> None:
        if not labels.delete_label(tx, runs.lock(tx, body.run).id, body.key):
            raise NotFound(f"The run has no tag {body.key!r:.300}.")
        audit.record(tx, Action("update_run", body.run))

    await request.app.state.db.write(delete)
    return json({})


@routes.post(f"{API}/runs/log-inputs")
async def log_inputs(request: Request) -> Response:
    body = await bodies.read(request, bodies.LogInputs)
    get_access(request).check_run(body.run)
    links: list[tuple[str, str, dict[str, Any]]] = [
        (
            "dataset",
            f"{item.dataset.name} {item.dataset.digest}",
            {
                "tags": [tag.model_dump() for tag in item.tags],
                "dataset": item.dataset.model_dump(by_alias=True),
            },
        )
        for item in body.datasets
    ]
    links += [
        ("model_input", model.model_id, {"model_id": model.model_id}) for model in body.models
    ]
    await request.app.state.db.write(_link, body.run, links)
    return json({})


@routes.post(f"{API}/runs/outputs")
async def log_outputs(request: Request) -> Response:
    body = await bodies.read(request, bodies.LogOutputs)
    get_access(request).check_run(body.run)
    links = [("model_output", model.model_id, model.model_dump()) for model in body.models]
    await request.app.state.db.write(_link, body.run, links)
    return json({})


def _link(tx: Tx, run_id: str, links: list[tuple[str, str, dict[str, Any]]]) -> None:
    """Record links of a run, whose models exist. Raises NotFound, RunLimit."""
    runs.lock(tx, run_id)
    for kind, key, _ in links:
        if kind != "dataset":
            models.get(tx, key)
    labels.set_links(tx, run_id, links)
