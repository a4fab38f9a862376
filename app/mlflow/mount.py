"""`/mlflow`, loaded when it is first asked for."""

from fastapi import APIRouter
from starlette.routing import Route
from starlette.types import ASGIApp

from app.server.when_asked import WhenAsked


def mlflow_router() -> APIRouter:
    """Return the router of MLflow's API."""
    everything = Route("/mlflow/{path:path}", WhenAsked(_make), include_in_schema=False)
    return APIRouter(routes=[everything])


def _make() -> ASGIApp:
    from app.mlflow.endpoints import make_app

    return make_app()
