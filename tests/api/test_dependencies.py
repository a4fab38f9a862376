"""A dependency that is added anywhere is asked for by every route: an auth check must never be left
out for speed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request, Response

from app.rest import (
    alerts,
    attempts,
    audit,
    checkpoints,
    deletions,
    lists,
    logs,
    metrics,
    projects,
    prometheus,
    redactions,
    reports,
    routes,
    service,
    usage,
    users,
    webhooks,
)
from app.rest.parameters import DirectRoute, ExperimentId, RunId
from tests.api.paths import PARAMETERS

ROUTERS = [
    routes.hot, routes.router, reports.router, lists.router, metrics.router, logs.router,
    service.router, checkpoints.router, attempts.router,
    attempts.pulses_router, prometheus.router, webhooks.router,
    usage.router, deletions.router, redactions.router, projects.router, users.router,
    audit.router, alerts.router,
]  # fmt: skip


def no_entry() -> None:
    raise HTTPException(418)


NO_ENTRY = [Depends(no_entry)]


async def status(app: Any, method: str, path: str) -> int:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return (await client.request(method, path)).status_code


def of_the_app() -> FastAPI:
    app = FastAPI(dependencies=NO_ENTRY)
    for router in ROUTERS:
        app.include_router(router)
    return app


def of_an_included_router() -> FastAPI:
    app = FastAPI()
    for router in ROUTERS:
        app.include_router(router, dependencies=NO_ENTRY)
    return app


def of_a_router_within_a_router() -> FastAPI:
    app, outer = FastAPI(), APIRouter(dependencies=NO_ENTRY)
    for router in ROUTERS:
        outer.include_router(router)
    app.include_router(outer)
    return app


@pytest.mark.anyio
@pytest.mark.parametrize("build", [of_the_app, of_an_included_router, of_a_router_within_a_router])
async def test_no_route_leaves_out_a_dependency(build: Callable[[], FastAPI]) -> None:
    app = build()
    tried = 0
    for path, operations in app.openapi()["paths"].items():
        for method in operations:
            assert await status(app, method.upper(), path.format(**PARAMETERS)) == 418, (
                method,
                path,
            )
            tried += 1
    assert tried >= 20


@pytest.mark.anyio
@pytest.mark.parametrize("is_included", [True, False])
async def test_a_route_of_its_own_asks_for_its_own(tmp_path: Path, is_included: bool) -> None:
    app, router = FastAPI(), APIRouter(route_class=DirectRoute)

    @router.get("/{experiment_id}/{run_id}", dependencies=NO_ENTRY)
    async def own(request: Request, experiment_id: ExperimentId, run_id: RunId) -> Response:
        return Response()

    if is_included:
        app.include_router(router)
    else:  # as `app.main` does
        app.router.routes.extend(router.routes)
    assert await status(app, "GET", "/{experiment_id}/{run_id}".format(**PARAMETERS)) == 418
