"""`/v1`: the documented paths, and what machines need. Parse, one use case, return."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from app.domain.lifecycle import TERMINAL
from app.domain.requests import ExperimentRequest, MarkRequest, ResumeRequest, RunRequest
from app.domain.tokens import run_token, same
from app.errors import Unauthorized
from app.guard import bearer
from app.rest import answers, schemas, views
from app.rest.body import StrictRoute
from app.rest.problems import documented
from app.services import checkpoints, experiments, metrics, reports, runs
from app.services.reports import Receipt, ReportRequest
from app.store.sql import Tx

MOST_IN_DETAIL = 1000

router = APIRouter(prefix="/v1", route_class=StrictRoute)

ExperimentId = Annotated[str, Path(examples=["exp_06a1…"])]
RunId = Annotated[str, Path(examples=["run_06a1…"])]

_KEY: dict[str, Any] = {
    "parameters": [
        {
            "name": "Idempotency-Key",
            "in": "header",
            "required": False,
            "schema": {"type": "string", "minLength": 1, "maxLength": 255},
            "description": "The same key with the same body replays the first answer.",
        }
    ]
}


@router.post(
    "/experiments", status_code=201, response_model=schemas.ExperimentAnswer,
    responses=documented(409), openapi_extra=_KEY, tags=["experiments"],
)  # fmt: skip
async def create_experiment(request: Request, body: ExperimentRequest) -> Response:
    """Create an experiment."""
    return answers.respond(
        await answers.perform(request, experiments.create, body, view=views.experiment, status=201)
    )


@router.get(
    "/experiments/{experiment_id}/detail", response_model=schemas.DetailAnswer,
    responses=documented(404), tags=["experiments"],
)  # fmt: skip
async def experiment_detail(request: Request, experiment_id: ExperimentId) -> Response:
    """Metadata, a summary of every run, checkpoints and the event history."""
    return answers.json(
        views.detail(
            await request.app.state.db.scan(experiments.detail, experiment_id, MOST_IN_DETAIL)
        )
    )


@router.post(
    "/experiments/{experiment_id}/runs", status_code=201, response_model=schemas.RunAnswer,
    responses=documented(404, 409), openapi_extra=_KEY, tags=["runs"],
)  # fmt: skip
async def submit_run(request: Request, experiment_id: ExperimentId, body: RunRequest) -> Response:
    """Submit a training run. Without a recipe it waits for a trainer that attaches."""
    state = request.app.state
    answer = await answers.perform(
        request, runs.submit, experiment_id, body, state.recipes, view=views.run, status=201
    )
    return answers.respond(answers.with_run_token(answer, state.secret))


@router.get(
    "/experiments/{experiment_id}/runs/{run_id}/status", response_model=schemas.RunStatusAnswer,
    responses=documented(404), tags=["runs"],
)  # fmt: skip
async def run_status(request: Request, experiment_id: ExperimentId, run_id: RunId) -> Response:
    """Status, progress and latest metrics."""
    return answers.json(await request.app.state.db.read(_status, experiment_id, run_id))


def _status(tx: Tx, experiment_id: str, run_id: str) -> dict[str, Any]:
    run = runs.get(tx, run_id, experiment_id)
    newest = next(iter(checkpoints.ready(tx, run_id)), None)
    return views.run_status(run, metrics.latest(tx, run_id), newest)


@router.post(
    "/experiments/{experiment_id}/runs/{run_id}/cancel", response_model=schemas.CancelAnswer,
    responses=documented(404, 409)
    | {202: {"model": schemas.CancelAnswer, "description": "The trainer is still saving."}},
    openapi_extra=_KEY, tags=["runs"],
)  # fmt: skip
async def cancel_run(request: Request, experiment_id: ExperimentId, run_id: RunId) -> Response:
    """Cancel. The answer names the checkpoint; a repeated cancel names the same one."""
    return answers.respond(
        await answers.perform(
            request, runs.cancel, run_id, experiment_id, view=views.cancelled,
            status=lambda result: 200 if result.run.status in TERMINAL else 202,
        )
    )  # fmt: skip


@router.post(
    "/experiments/{experiment_id}/runs/{run_id}/resume", status_code=201,
    response_model=schemas.RunAnswer, responses=documented(404, 409), openapi_extra=_KEY,
    tags=["runs"],
)  # fmt: skip
async def resume_run(
    request: Request, experiment_id: ExperimentId, run_id: RunId, body: ResumeRequest
) -> Response:
    """A new run from a checkpoint of this run, with hyperparameters overridden."""
    answer = await answers.perform(
        request, runs.resume, run_id, body, experiment_id, view=views.run, status=201
    )
    return answers.respond(answers.with_run_token(answer, request.app.state.secret))


@router.post(
    "/experiments/{experiment_id}/checkpoints/mark", response_model=schemas.CheckpointAnswer,
    responses=documented(404, 409), openapi_extra=_KEY, tags=["checkpoints"],
)  # fmt: skip
async def mark_checkpoint(
    request: Request, experiment_id: ExperimentId, body: MarkRequest
) -> Response:
    """Put a tag, a release tag and metrics onto a checkpoint."""
    return answers.respond(
        await answers.perform(request, checkpoints.mark, experiment_id, body, view=views.checkpoint)
    )


@router.post(
    "/runs/{run_id}/reports", response_model=schemas.ReceiptAnswer,
    responses=documented(404, 409), openapi_extra=_KEY, tags=["trainers"],
)  # fmt: skip
async def report(request: Request, run_id: RunId, body: ReportRequest) -> Response:
    """A trainer's report on its own run, with the run's token."""
    state = request.app.state
    token = bearer(request.headers)
    if request.scope["caller"] != "api" and (
        token is None or not same(token, run_token(state.secret, run_id))
    ):
        raise Unauthorized("Send the run's token: `Authorization: Bearer rt_…`.")
    return answers.respond(
        await answers.perform(request, reports.ingest, run_id, body, view=Receipt._asdict)
    )
