"""`/v1`: deleting runs and experiments, and the record of what was deleted."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from app.db.sql import dump
from app.db.tables import Deletion
from app.domain.ids import PATTERN
from app.rest import responses, schemas
from app.rest.parameters import DocumentedRoute, ExperimentId, Parameters, RunId
from app.rest.problems import describe_errors
from app.services import deletion

router = APIRouter(prefix="/v1", route_class=DocumentedRoute)


class DeletionAnswer(TypedDict):
    """A run or an experiment that was deleted."""

    deletion_id: str
    experiment_id: str
    run_id: Annotated[str | None, Field(description="Null: the experiment, with all its runs.")]
    name: Annotated[str | None, Field(description="Its name; a run without one: its model.")]
    runs: int
    checkpoints: Annotated[int, Field(description="Those that were ready.")]
    size_bytes: Annotated[int, Field(description="Of these checkpoints.")]
    requested_at: schemas.Time
    finished_at: Annotated[
        schemas.Time | None,
        Field(description="Time at which its points and files were gone; null until then."),
    ]


class DeletionsAnswer(TypedDict):
    """One page of deletions, newest first."""

    deletions: list[DeletionAnswer]
    next: Annotated[str | None, Field(description="`after` of the next page.")]


def view(row: Deletion) -> DeletionAnswer:
    """Return `DeletionAnswer`."""
    return {
        "deletion_id": row.id,
        "experiment_id": row.experiment_id,
        "run_id": row.run_id,
        "name": row.name,
        "runs": row.runs,
        "checkpoints": row.checkpoints,
        "size_bytes": row.size_bytes,
        "requested_at": row.requested_at,
        "finished_at": row.finished_at,
    }


@router.delete(
    "/experiments/{experiment_id}/runs/{run_id}", status_code=202,
    response_model=DeletionAnswer, responses=describe_errors(404, 409), tags=["runs"],
)  # fmt: skip
async def delete_run(request: Request, experiment_id: ExperimentId, run_id: RunId) -> Response:
    """Delete a run that has ended, for good: rows, points, logs, artifacts and checkpoints.

    It is gone at once; its files follow in the background. Repeated, the answer is the same.
    """
    row = await responses.write(request, lambda tx: deletion.delete_run(tx, run_id, experiment_id))
    return _make_response(row)


@router.delete(
    "/experiments/{experiment_id}", status_code=202, response_model=DeletionAnswer,
    responses=describe_errors(404, 409), tags=["experiments"],
)  # fmt: skip
async def delete_experiment(request: Request, experiment_id: ExperimentId) -> Response:
    """Delete an experiment with all of its runs, which must have ended, for good."""
    row = await responses.write(request, lambda tx: deletion.delete_experiment(tx, experiment_id))
    return _make_response(row)


def _make_response(row: Deletion) -> Response:
    return Response(dump(view(row)), 202, media_type="application/json")


class DeletionsQuery(Parameters):
    """One page of deletions."""

    limit: Annotated[int, Field(ge=1, le=1_000, description="Deletions in a page.")] = 50
    after: Annotated[str | None, Field(pattern=PATTERN.format("del"))] = None


@router.get(
    "/deletions", response_model=DeletionsAnswer, responses=describe_errors(422),
    tags=["experiments"],
)  # fmt: skip
async def list_deletions(request: Request, query: Annotated[DeletionsQuery, Query()]) -> Response:
    """List what was deleted, newest first. `next` is the next `after`."""
    rows = await request.app.state.db.scan(deletion.list_newest, query.after, query.limit + 1)
    page: dict[str, Any] = {
        "deletions": list(map(view, rows[: query.limit])),
        "next": rows[query.limit - 1].id if len(rows) > query.limit else None,
    }
    return responses.json(page)
