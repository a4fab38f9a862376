"""Pages for people: Swagger UI at /docs and the guide at /guide, from local files alone."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.rest.parameters import LazyRoute
from app.web import guide
from app.web.pages import HEADERS, page

router = APIRouter(include_in_schema=False, route_class=LazyRoute)


@router.get("/docs")
async def swagger_ui(request: Request) -> HTMLResponse:
    """Return the page for the app's own OpenAPI document."""
    return page(
        f"{request.app.title}: REST",
        styles=("vendor/swagger-ui-dist/swagger-ui.css",),
        scripts=("vendor/swagger-ui-dist/swagger-ui-bundle.js", "swagger.js"),
        settings={"openapi": request.app.openapi_url.lstrip("/")},
    )


@router.get("/guide")
@router.get("/guide/{topic:path}")
async def show_guide(request: Request, topic: str = "concepts") -> HTMLResponse:
    """Return one page of the guide; links between pages may carry their file's `.md`."""
    text = guide.page_of(topic.removesuffix(".md"), request.scope["root_path"])
    return HTMLResponse(text, headers=HEADERS)
