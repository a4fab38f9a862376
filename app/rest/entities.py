"""`/v1`: one experiment and one run, read and described."""

from fastapi import APIRouter, Request, Response

from app.db.sql import Tx
from app.domain.requests import UpdateExperimentRequest, UpdateRunRequest
from app.rest import responses, schemas, views
from app.rest.body import read
from app.rest.parameters import DocumentedRoute, ExperimentId, RunId, accepts_json
from app.rest.problems import describe_errors
from app.services import checkpoints, edits, experiments, metrics, runs

router = APIRouter(prefix="/v1/experiments", route_class=DocumentedRoute)


@router.get(
    "/{experiment_id}", response_model=schemas.ExperimentAnswer, responses=describe_errors(404),
    tags=["experiments"],
)  # fmt: skip
async def get_experiment(request: Request, experiment_id: ExperimentId) -> Response:
    """Return an experiment."""
    row = await request.app.state.db.read(experiments.get, experiment_id)
    return responses.json(views.experiment(row))


@router.patch(
    "/{experiment_id}", response_model=schemas.ExperimentAnswer, tags=["experiments"],
    **accepts_json(UpdateExperimentRequest, 404),
)  # fmt: skip
async def update_experiment(request: Request, experiment_id: ExperimentId) -> Response:
    """Change name, goal, owner, notes, tags or archive; what is left out stays."""
    body = await read(request, UpdateExperimentRequest)
    stored = await responses.perform(
        request, lambda tx: edits.update_experiment(tx, experiment_id, body), views.experiment
    )
    return responses.respond(stored)


@router.get(
    "/{experiment_id}/runs/{run_id}", response_model=schemas.RunDetailAnswer,
    responses=describe_errors(404), tags=["runs"],
)  # fmt: skip
async def get_run(request: Request, experiment_id: ExperimentId, run_id: RunId) -> Response:
    """Return all of a run: request, hyperparameters, receipts of overrides, status, source."""
    return responses.json(await request.app.state.db.read(_run, experiment_id, run_id))


def _run(tx: Tx, experiment_id: str, run_id: str) -> schemas.RunDetailAnswer:
    run = runs.get(tx, run_id, experiment_id)
    newest = checkpoints.get_newest_ready(tx, run_id)
    return views.run_detail(run, metrics.list_latest(tx, run_id), newest)


@router.patch(
    "/{experiment_id}/runs/{run_id}", response_model=schemas.RunAnswer, tags=["runs"],
    **accepts_json(UpdateRunRequest, 404),
)  # fmt: skip
async def update_run(request: Request, experiment_id: ExperimentId, run_id: RunId) -> Response:
    """Change name, notes, tags, priority or archive; what is left out stays."""
    body = await read(request, UpdateRunRequest)
    stored = await responses.perform(
        request, lambda tx: edits.update_run(tx, run_id, body, experiment_id), views.run
    )
    return responses.respond(stored)
