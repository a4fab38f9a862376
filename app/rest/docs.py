"""/docs: Swagger UI from local files, so that it works without the internet."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.web.pages import page

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def swagger_ui(request: Request) -> HTMLResponse:
    """The page for the app's own OpenAPI document."""
    return page(
        f"{request.app.title}: REST",
        styles=("vendor/swagger-ui-dist/swagger-ui.css",),
        scripts=("vendor/swagger-ui-dist/swagger-ui-bundle.js", "swagger.js"),
        settings={"openapi": request.app.openapi_url.lstrip("/")},
    )
