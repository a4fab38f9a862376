"""All endpoints of `/mlflow`, and an answer in MLflow's form for what is not there."""

from fastapi import APIRouter, Request, Response

from app.errors import InvalidInput, NotFound
from app.mlflow import artifacts, experiments, imports, metrics, models, runs, search
from app.mlflow.routing import API, router
from app.server.tracking import get_access

_NEVER = ("experiments", "runs")
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def make_app() -> APIRouter:
    """Return the app of every endpoint."""
    app = router()
    for part in (metrics, runs, experiments, search, models, artifacts, imports):
        app.routes.extend(part.routes.routes)
    for resource in _NEVER:
        for verb in ("delete", "restore"):
            app.add_api_route(f"{API}/{resource}/{verb}", _refuse, methods=["POST"])
    app.add_api_route(f"{API}/experiments/update", _refuse, methods=["POST"])
    app.add_api_route("/mlflow/{path:path}", _unknown, methods=_METHODS)
    return app


async def _refuse(request: Request) -> Response:
    get_access(request)
    raise InvalidInput("This service keeps every run and every name: it never does that.")


async def _unknown(request: Request, path: str) -> Response:
    """Answer 404: clients go on without what a server does not have."""
    get_access(request)
    raise NotFound(f"/{path:.200} is not served here.")
