"""Endpoints that `llm-train import mlflow` needs besides MLflow's own."""

from typing import Annotated

from fastapi import Request, Response
from pydantic import AfterValidator, Field, StringConstraints

from app.db.sql import Tx
from app.domain.lifecycle import TERMINAL
from app.domain.requests import Name
from app.domain.text import clean
from app.errors import Forbidden
from app.mlflow import bodies
from app.mlflow.routing import router
from app.server.bodies import Body
from app.server.tracking import get_access, json
from app.services import imports, tracking

PATH = "/mlflow/import/runs"

routes = router()


class Begin(Body):
    """A run of another store."""

    experiment: Name
    source: Annotated[str, StringConstraints(min_length=1, max_length=300), AfterValidator(clean)]
    name: Annotated[str, StringConstraints(max_length=bodies.MAX_LABEL), AfterValidator(clean)] = ""
    tags: list[bodies.Tag] = Field(default_factory=list)
    params: list[bodies.Tag] = Field(default_factory=list)
    start_time: bodies.Milliseconds = 0


class Finish(bodies.OfRun):
    """Its final status at the source."""

    status: str
    end_time: bodies.Milliseconds = 0


def _check(request: Request) -> None:
    if get_access(request).run_id is not None:
        raise Forbidden("The token of a run imports nothing.")


@routes.post(PATH)
async def begin(request: Request) -> Response:
    _check(request)
    body = await bodies.read(request, Begin)

    def work(tx: Tx) -> dict[str, object]:
        tags = bodies.as_dict(body.tags)
        run = imports.begin(tx, body.experiment, body.source, body.name, tags, body.start_time)
        ended = run.status in TERMINAL
        if body.params and not ended:
            tracking.log(tx, tracking.Writer(run.id), (), bodies.as_dict(body.params))
        return {"run_id": run.id, "experiment_id": run.experiment_id, "ended": ended}

    return json(await request.app.state.db.write(work))


@routes.post(f"{PATH}/finish")
async def finish(request: Request) -> Response:
    _check(request)
    body = await bodies.read(request, Finish)
    run = await request.app.state.db.write(imports.finish, body.run, body.status, body.end_time)
    return json({"run_id": run.id, "status": run.status})
