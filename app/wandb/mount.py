"""`/wandb`, loaded when it is first asked for."""

from fastapi import APIRouter
from starlette.routing import Route
from starlette.types import ASGIApp

from app.server.when_asked import WhenAsked


def wandb_router() -> APIRouter:
    """Return the router of W&B's protocol."""
    everything = Route("/wandb/{path:path}", WhenAsked(_make), include_in_schema=False)
    return APIRouter(routes=[everything])


def _make() -> ASGIApp:
    from app.wandb.endpoints import make_app

    return make_app()
