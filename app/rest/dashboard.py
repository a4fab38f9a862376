"""The dashboard's addresses and files. `/` is in app.rest.service: it depends on who asks."""

from fastapi import APIRouter, Request, Response

from app.rest.parameters import LazyRoute
from app.web import dashboard

router = APIRouter(include_in_schema=False, route_class=LazyRoute)


async def show(request: Request) -> Response:
    """Return the shell, which draws the page of its address."""
    settings = request.app.state.settings
    path = request.url.path.removeprefix(settings.root_path)
    return dashboard.page(path, settings.root_path)


for path in dashboard.PATHS:
    router.add_api_route(path, show, methods=["GET"])


@router.get("/assets/{digest}/{path:path}")
async def asset(request: Request, digest: str, path: str) -> Response:
    """Return a file of the dashboard."""
    gzip = "gzip" in request.headers.get("accept-encoding", "").lower()
    return dashboard.get_asset(digest, path, accepts_gzip=gzip)
