"""`/v1`: the documented paths. Each parses its request, runs one use case and returns.

How to add an endpoint:
1. add its request to `app.domain.requests`, with an example in its `json_schema_extra`; its
   response to `schemas`, an example of that to `examples`, and its rendering to `views`;
2. add a route here or in the file of its resource: a POST has `**accepts_json(Request, …)` and
   goes through `responses.perform`, a GET reads with `db.read` or `db.scan`;
3. a new file's router is included in `app.main`, and listed in ROUTERS of
   `tests/api/test_dependencies.py`;
4. add a POST or PATCH to ROUTES of `tests/api/test_hostile_input.py`, a POST to POSTS of
   `tests/api/test_idempotency.py`, and every endpoint to the story of `tests/api/test_contract.py`;
   then run `tests/api`, whose walks of all routes find it by themselves.
"""

from fastapi import APIRouter, Request, Response

from app.db.sql import Tx
from app.domain.lifecycle import TERMINAL
from app.domain.requests import (
    CancelRequest,
    ExperimentRequest,
    MarkRequest,
    RerunRequest,
    ResumeRequest,
    RunRequest,
)
from app.rest import responses, schemas, views
from app.rest.body import read
from app.rest.parameters import DirectRoute, DocumentedRoute, ExperimentId, RunId, accepts_json
from app.rest.problems import describe_errors
from app.services import checkpoints, experiments, marks, metrics, resuming, runs

MOST_IN_DETAIL = 500
EXPERIMENT = "/v1/experiments/{experiment_id}"
RUN = EXPERIMENT + "/runs/{run_id}"
"""The path of a run, which is also the `Location` of the 201 that made it."""

router = APIRouter(prefix="/v1", route_class=DocumentedRoute)
# The most frequent requests: the status of a run, and a submit.
hot = APIRouter(prefix="/v1", route_class=DirectRoute)


@router.post(
    "/experiments", status_code=201, response_model=schemas.ExperimentAnswer,
    tags=["experiments"],
    **accepts_json(ExperimentRequest),
)  # fmt: skip
async def create_experiment(request: Request) -> Response:
    """Create an experiment."""
    body = await read(request, ExperimentRequest)
    return responses.respond(
        await responses.perform(
            request, lambda tx: experiments.create(tx, body), views.experiment, status=201
        ),
        f"{request.scope['root_path']}{EXPERIMENT}",
    )


@router.get(
    "/experiments/{experiment_id}/detail", response_model=schemas.DetailAnswer,
    responses=describe_errors(404), tags=["experiments"],
)  # fmt: skip
async def experiment_detail(request: Request, experiment_id: ExperimentId) -> Response:
    """Return metadata, a summary of every run, checkpoints and the event history."""
    detail = await request.app.state.db.scan(experiments.get_detail, experiment_id, MOST_IN_DETAIL)
    return responses.json(views.detail(detail, request.scope["root_path"]))


@hot.post(
    "/experiments/{experiment_id}/runs", status_code=201, response_model=schemas.RunAnswer,
    tags=["runs"],
    **accepts_json(RunRequest, 404),
)  # fmt: skip
async def submit_run(request: Request, experiment_id: ExperimentId) -> Response:
    """Submit a training run. Without a recipe it waits for a trainer that attaches."""
    body = await read(request, RunRequest)
    state = request.app.state
    stored = await responses.perform(
        request, lambda tx: runs.submit(tx, experiment_id, body, state.recipes), views.run, 201
    )
    location = f"{request.scope['root_path']}{RUN}"
    return responses.respond(stored, location, responses.run_token_of(state.secret))


@hot.get(
    "/experiments/{experiment_id}/runs/{run_id}/status", response_model=schemas.RunStatusAnswer,
    responses=describe_errors(404), tags=["runs"],
)  # fmt: skip
async def run_status(request: Request, experiment_id: ExperimentId, run_id: RunId) -> Response:
    """Return status, progress and latest metrics."""
    return responses.json(await request.app.state.db.read(_status, experiment_id, run_id))


def _status(tx: Tx, experiment_id: str, run_id: str) -> schemas.RunStatusAnswer:
    run = runs.get_summary(tx, run_id, experiment_id)
    newest = checkpoints.get_newest_ready(tx, run_id)
    return views.run_status(run, metrics.list_latest(tx, run_id), newest)


@router.post(
    "/experiments/{experiment_id}/runs/{run_id}/cancel", response_model=schemas.CancelAnswer,
    tags=["runs"],
    **accepts_json(CancelRequest, 404, also={202: "The trainer is still saving."}),
)  # fmt: skip
async def cancel_run(request: Request, experiment_id: ExperimentId, run_id: RunId) -> Response:
    """Cancel. The answer names the checkpoint; a repeated cancel names the same one."""
    await read(request, CancelRequest)
    return responses.respond(
        await responses.perform(
            request, lambda tx: runs.cancel(tx, run_id, experiment_id), views.cancellation,
            status=lambda result: 200 if result.run.status in TERMINAL else 202,
        )
    )  # fmt: skip


@router.post(
    "/experiments/{experiment_id}/runs/{run_id}/resume", status_code=201,
    response_model=schemas.RunAnswer, tags=["runs"],
    **accepts_json(ResumeRequest, 404),
)  # fmt: skip
async def resume_run(request: Request, experiment_id: ExperimentId, run_id: RunId) -> Response:
    """Create a run from a checkpoint of this run, with hyperparameters overridden."""
    body = await read(request, ResumeRequest)
    state = request.app.state
    stored = await responses.perform(
        request, lambda tx: resuming.resume(tx, run_id, body, state.recipes, experiment_id),
        views.run, status=201,
    )  # fmt: skip
    location = f"{request.scope['root_path']}{RUN}"
    return responses.respond(stored, location, responses.run_token_of(state.secret))


@router.post(
    "/experiments/{experiment_id}/runs/{run_id}/rerun", status_code=201,
    response_model=schemas.RunAnswer, tags=["runs"],
    **accepts_json(RerunRequest, 404),
)  # fmt: skip
async def rerun_run(request: Request, experiment_id: ExperimentId, run_id: RunId) -> Response:
    """Submit a new run with all that this one was submitted with."""
    await read(request, RerunRequest)
    state = request.app.state
    stored = await responses.perform(
        request, lambda tx: resuming.rerun(tx, run_id, state.recipes, experiment_id),
        views.run, status=201,
    )  # fmt: skip
    return responses.respond(stored, secrets=responses.run_token_of(state.secret))


@router.post(
    "/experiments/{experiment_id}/checkpoints/mark", response_model=schemas.CheckpointAnswer,
    tags=["checkpoints"],
    **accepts_json(MarkRequest, 404),
)  # fmt: skip
async def mark_checkpoint(request: Request, experiment_id: ExperimentId) -> Response:
    """Put a tag, a release tag and metrics onto a checkpoint."""
    body = await read(request, MarkRequest)
    gate = request.app.state.settings.gate
    return responses.respond(
        await responses.perform(
            request, lambda tx: marks.mark(tx, experiment_id, body, gate), views.checkpoint
        )
    )
