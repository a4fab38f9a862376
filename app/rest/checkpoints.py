"""What operators ask of checkpoints: whether they are whole, and which are surplus."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.db.sql import Tx
from app.db.tables import Checkpoint
from app.domain.requests import VerifyRequest
from app.rest import answers, schemas, views
from app.rest.body import read
from app.rest.parameters import DocumentedRoute, ExperimentId, takes
from app.rest.problems import documented
from app.services import experiments, retention, verification
from app.services.verification import Verified

READERS = 2
"""Checkpoints that are read at a time for those who ask; the supervisor has its own."""

router = APIRouter(
    prefix="/v1/experiments/{experiment_id}", tags=["checkpoints"], route_class=DocumentedRoute
)


@router.post(
    "/checkpoints/verify", response_model=schemas.VerifyAnswer, **takes(VerifyRequest, 404, 409)
)
async def verify_checkpoints(request: Request, experiment_id: ExperimentId) -> Response:
    """Read checkpoints again, every byte: one, those of a run, or all of the experiment.

    Each result is on record as it comes. Those that cannot be read now are listed as `unreadable`
    and stay what they are; if not one can be read, the answer is 503.
    """
    body = await read(request, VerifyRequest)
    state = request.app.state

    async def verify() -> list[Verified]:
        data_dir = state.settings.data_dir
        return await verification.verify_all(state.db, state.readers, data_dir, experiment_id, body)

    answer = await answers.perform(
        request, verification.read_again, before=verify, view=views.verified
    )
    return answers.respond(answer)


class RetentionQuery(BaseModel):
    """What would be kept."""

    model_config = ConfigDict(extra="forbid")

    keep: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


@router.get("/retention", response_model=schemas.RetentionAnswer, responses=documented(404, 422))
async def retention_plan(
    request: Request, experiment_id: ExperimentId, query: Annotated[RetentionQuery, Query()]
) -> Response:
    """A dry run: what keeping the newest `keep` checkpoints of each run would delete.

    Without `keep`, what the recipes' own `keep_checkpoints` would.
    """
    state = request.app.state
    wanted = query.keep or retention.configured_limits(state.recipes)

    def plan(tx: Tx) -> list[Checkpoint]:
        experiments.get(tx, experiment_id)
        return retention.plan(tx, wanted, experiment_id)

    return answers.json(views.surplus(await state.db.scan(plan)))
