"""The service itself: metadata, liveness, readiness."""

from fastapi import APIRouter, Request, Response
from typing_extensions import TypedDict

from app.db.sql import Tx
from app.errors import Unavailable
from app.rest import responses
from app.rest.parameters import DocumentedRoute
from app.rest.problems import describe_errors
from app.version import VERSION
from app.web import dashboard

NAME = "LLM Train API"
router = APIRouter(tags=["service"], route_class=DocumentedRoute)


class HealthAnswer(TypedDict):
    """`ok` of the process, `ready` of the service."""

    status: str


class ServiceAnswer(TypedDict):
    """The name and version of this service, and the addresses of its APIs."""

    name: str
    version: str
    docs: str
    openapi: str
    graphql: str
    health: str


@router.get("/", response_model=ServiceAnswer, responses=describe_errors())
async def metadata(request: Request) -> Response:
    """Return name, version and links; to a browser, the dashboard."""
    if "text/html" in request.headers.get("accept", "").lower():
        return dashboard.page("/", request.app.state.settings.root_path)
    prefix = request.scope["root_path"]
    response = responses.json(
        {
            "name": NAME,
            "version": VERSION,
            "docs": f"{prefix}/docs",
            "openapi": f"{prefix}/openapi.json",
            "graphql": f"{prefix}/graphql",
            "health": f"{prefix}/healthz",
        }
    )
    response.headers["Vary"] = "Accept"
    return response


@router.get("/healthz", response_model=HealthAnswer, responses=describe_errors())
async def healthz() -> Response:
    """Return 200 while the process runs."""
    return responses.json({"status": "ok"})


@router.get("/readyz", response_model=HealthAnswer, responses=describe_errors())
async def readyz(request: Request) -> Response:
    """Return 200 if the service can work.

    The database can be read, the supervisor's loop ran within the last 15 s, the database and the
    data directory could be written within the last 10 s, and the latter is that of the runs.
    """
    await request.app.state.db.read(_read_nothing)
    if request.app.state.supervisor.wrong_data_dir:
        raise Unavailable(
            "This server does not see the data directory in which runs are under way: "
            "set LLM_TRAIN_DATA_DIR; the log says to what.",
            retry_after=5,
        )
    if (trouble := request.app.state.supervisor.describe_trouble()) is not None:
        raise Unavailable(trouble, retry_after=5)
    return responses.json({"status": "ready"})


def _read_nothing(tx: Tx) -> None:
    """Read nothing: the snapshot alone shows that the database works."""
