"""All endpoints of `/wandb`, and an answer for what is not there."""

from fastapi import APIRouter, Request, Response

from app.errors import NotFound
from app.server.tracking import get_access
from app.wandb import files, graphql, stream
from app.wandb.routing import ROOT, router

_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


def make_app() -> APIRouter:
    """Return the app of every endpoint."""
    app = router()
    for part in (stream, graphql, files):
        app.routes.extend(part.routes.routes)
    app.add_api_route(ROOT + "/{path:path}", _unknown, methods=_METHODS)
    return app


async def _unknown(request: Request, path: str) -> Response:
    """Answer 404: the client goes on without telemetry."""
    get_access(request)
    raise NotFound(f"/{path:.200} is not served here.")
