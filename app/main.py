"""The app, assembled in one place. `python -m app.main` serves it.

create_app(settings)  lifespan (database, supervisor), middleware, routers, handlers
serve(settings)       uvicorn; a wrong configuration ends it with one line that says what to do
"""

import asyncio
import gc
import logging
import secrets
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import cast

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C before uvicorn minds it: no traceback
    gc.disable()  # until start-up has made what stays

# FastAPI loads Pydantic 1 only to see that no parameter of a route is a model of it; None lets
# that import fail, which it expects: 2.5 MB, and a twentieth of a second of every start.
sys.modules.setdefault("pydantic.v1", cast(ModuleType, None))

try:
    from pydantic import BaseModel

    # FastAPI's models of an OpenAPI document take a twentieth of a start to build. With this
    # default, which is removed again below, the first document builds them.
    BaseModel.model_config["defer_build"] = True

    import uvicorn
    from fastapi import FastAPI

    from app import tracing
    from app.db.connect import connect
    from app.db.database import FEWEST, Database
    from app.domain import failpoints
    from app.domain.browser_sessions import BrowserSessions
    from app.domain.recipe_file import read_configuration
    from app.domain.recipes import Recipe, RecipeError
    from app.domain.single_sign_on import Attempts
    from app.errors import ServiceError
    from app.graphql.mount import graphql_router
    from app.launchers.base import Launcher
    from app.mlflow.mount import mlflow_router
    from app.rest import (
        alerts,
        attempts,
        audit,
        browser_session,
        catalog,
        checkpoints,
        dashboard,
        deletions,
        docs,
        entities,
        lists,
        logs,
        metrics,
        openapi,
        problems,
        projects,
        prometheus,
        redactions,
        reports,
        routes,
        service,
        single_sign_on,
        trainer_files,
        usage,
        users,
        webhooks,
    )
    from app.server import garbage
    from app.server.authentication import Authenticator
    from app.server.exchange import Headers
    from app.server.guard import Guard
    from app.server.jsonlines import configure_logging
    from app.server.listening import listen, make_server, run
    from app.server.openid import Provider
    from app.server.workers import supervise
    from app.services import data_dirs, secret
    from app.services.idempotency import InFlight
    from app.services.pulses import Pulses
    from app.services.uploads import Uploads
    from app.settings import Settings, load_settings
    from app.storage import data_dir, get_storage
    from app.storage.artifacts import open_artifacts
    from app.storage.readers import Readers
    from app.storage.streams import RECEIVERS
    from app.supervisor import Supervisor, describe_wrong_data_dir, make_launchers
    from app.version import VERSION
    from app.wandb.mount import wandb_router
    from app.web import sign_in
    from app.web.pages import mount_static

    if find_spec("strawberry") is None:  # imported by the first request that needs it
        raise ModuleNotFoundError(name="strawberry")
except ModuleNotFoundError as missing:
    sys.exit(
        f"llm-train: the package {missing.name!r} is not installed; "
        "install the service with: pip install llm-train-api  (in a checkout: pip install -e .)"
    )

if not sys.modules["pydantic.v1"]:
    del sys.modules["pydantic.v1"]  # another package may use it
del BaseModel.model_config["defer_build"]

log = logging.getLogger("app")


def create_app(settings: Settings, db: Database | None = None) -> FastAPI:
    """Make the whole service, one FastAPI app. Raises RecipeError for a bad recipe file.

    Args:
        db: the settings' database, if `prepare` has already checked and migrated it.
    """
    db = db or _connect(settings)
    recipes, tables, stores, groups = read_configuration(settings.recipes)
    launchers = make_launchers(settings, tables)
    app = FastAPI(
        title=service.NAME,
        version=VERSION,
        description="A control plane for LLM training: experiments, runs and checkpoints.",
        lifespan=_lifespan(settings, db, recipes, launchers),
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        # FastAPI's own telemetry looks for OpenTelemetry providers at each request.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    openapi.describe(app, needs_token=settings.api_token is not None)
    app.state.settings = settings
    app.state.recipes = recipes
    app.state.launchers = launchers
    app.state.group_roles = groups
    data_dir.make(settings.data_dir)
    app.state.storage = get_storage(settings.storage, settings.data_dir, stores)
    _set_state(app, settings, db)
    _add_middleware(app, settings)
    problems.install(app)
    _include_routes(app, settings)
    return app


def _set_state(app: FastAPI, settings: Settings, db: Database) -> None:
    """Set the objects that all requests of one app share."""
    app.state.artifacts = open_artifacts(app.state.storage, settings.data_dir)
    app.state.receivers = Readers(RECEIVERS)
    app.state.api_url = f"http://127.0.0.1:{settings.port}"
    app.state.in_flight = InFlight()
    app.state.sessions = app.state.provider = None
    app.state.authenticator = Authenticator(db)
    app.state.uploads = Uploads(app.state.storage, settings.max_upload_bytes)
    app.state.inflow = reports.Inflow(db)
    app.state.pulses = Pulses(db)
    app.state.readers = Readers(checkpoints.READERS)
    app.state.request_times = prometheus.request_times()
    app.state.open_connections = Counter()


def _connect(settings: Settings) -> Database:
    """Return the database, traced if an OTLP endpoint is set. Raises Unavailable."""
    if settings.otlp_endpoint is not None and not tracing.is_on():
        tracing.configure(settings.otlp_endpoint)
    return connect(settings.database_url, settings.database_connections)


def _lifespan(
    settings: Settings,
    db: Database,
    recipes: Mapping[str, Recipe],
    launchers: Mapping[str, Launcher],
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return the lifespan of the app: it starts the database and the supervisor, and stops them."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await db.start()
        app.state.secret = settings.secret or await _get_shared_secret(db, settings.data_dir)
        if settings.api_token is not None:
            app.state.sessions = BrowserSessions(app.state.secret, settings.api_token)
        if settings.oidc_issuer is not None:
            app.state.provider = Provider(settings)
            app.state.sign_in_attempts = Attempts(app.state.secret)
        supervisor = Supervisor(
            db, settings, recipes, app.state.secret, app.state.api_url, launchers
        )
        app.state.db, app.state.supervisor = db, supervisor
        task = asyncio.create_task(supervisor.run())
        settling = garbage.collect_seldom(asyncio.get_running_loop())
        db.announce(app.state.api_url)
        log.info("serving on %s", app.state.api_url)
        try:
            yield
        finally:
            settling.cancel()
            await supervisor.stop()
            await task
            await app.state.authenticator.stop()
            await app.state.pulses.stop()
            await db.stop()
            await asyncio.to_thread(tracing.shutdown)
            log.info("stopped; launched trainers go on")

    return lifespan


def _add_middleware(app: FastAPI, settings: Settings) -> None:
    """Add the middleware. A request passes the one that is added last first."""
    app.add_middleware(prometheus.RequestTimes)
    app.add_middleware(
        Guard,
        hosts=settings.hosts,
        origins=settings.origins,
        allowed_origins=settings.allowed_origins,
        api_token=settings.api_token,
        max_body=settings.max_body_bytes,
        max_file=settings.max_upload_bytes,
        root_path=settings.root_path,
        sessions=lambda: app.state.sessions,
        authenticator=app.state.authenticator,
        sign_in_page=lambda path, language: _sign_in_page(path, language, settings),
    )
    if settings.otlp_endpoint is not None:
        from app.server.tracing import TracedRequests

        app.add_middleware(TracedRequests)


def _include_routes(app: FastAPI, settings: Settings) -> None:
    """Add the routes of every API, in the order in which they are matched."""
    parts = (
        routes, attempts, trainer_files, lists, entities, catalog, metrics, logs, service,
        checkpoints, usage, webhooks, alerts, deletions, redactions, projects, users, audit,
        prometheus, docs, dashboard, browser_session, single_sign_on,
    )  # fmt: skip
    hot = [routes.hot, reports.router, attempts.pulses_router, graphql_router(settings)]  # first
    routers = [*hot, *(part.router for part in parts), lists.everywhere]
    routers += [mlflow_router(), wandb_router()]
    # `include_router` would make every route twice, the second time while the first request waits,
    # only to add what the app's own arguments say. Such dependencies would be left out here.
    assert not app.router.dependencies
    for router in routers:
        app.router.routes.extend(router.routes)
    mount_static(app)


def _sign_in_page(path: str, language: str, settings: Settings) -> tuple[bytes, Headers]:
    """Return the sign-in page and its headers, for a browser without a session."""
    single = f"{settings.public_url}/oidc" if settings.oidc_issuer is not None else None
    body, policy = sign_in.page(path, language, settings.root_path, single)
    return body, [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", policy.encode()),
        (b"vary", b"Accept, Accept-Language, Cookie"),
    ]


async def _get_shared_secret(db: Database, data_dir: Path) -> str:
    """Return the secret that all servers of this database share; the first server makes it."""
    if kept := await db.read(secret.get):
        return kept
    return await db.write(secret.keep, secret.read_file(data_dir) or secrets.token_urlsafe(48))


def prepare(settings: Settings) -> FastAPI:
    """Check the configuration, migrate the database, and make the app.

    Raises SystemExit with one line that says what to do.
    """
    try:
        if settings.oidc_issuer is not None and find_spec("authlib") is None:
            sys.exit(
                "llm-train: LLM_TRAIN_OIDC_ISSUER needs the package authlib; "
                "install it with: pip install 'llm-train-api[oidc]'"
            )
        if settings.failpoint is not None:
            failpoints.activate(*settings.failpoint.split(":", 1))
        db = _connect(settings)
        db.prepare()
        # Checked before anything is written to it: it may be the wrong directory.
        place = settings.data_dir.absolute()
        if runs_are := db.look(data_dirs.get_foreign, data_dir.identity(place)):
            sys.exit(f"llm-train: {describe_wrong_data_dir(place, runs_are)}")
        app = create_app(settings, db)
        app.state.storage.prepare()
        return app
    except RecipeError as error:
        sys.exit(f"llm-train: LLM_TRAIN_RECIPES: {error}")
    except (ServiceError, ValueError) as error:
        sys.exit(f"llm-train: {error}")
    except OSError as error:
        sys.exit(f"llm-train: LLM_TRAIN_DATA_DIR: {error.filename}: {error.strerror}")


def bind(settings: Settings) -> tuple[uvicorn.Server, socket.socket]:
    """Return a server and its listening socket; clients that connect wait until it runs.

    Raises SystemExit with one line that says what to do.
    """
    app = prepare(settings)
    sock = listen(settings)
    return make_server(app, settings, sock), sock


def serve(settings: Settings, workers: int = 1) -> None:
    """Serve until SIGINT or SIGTERM, in `workers` processes (several need PostgreSQL)."""
    configure_logging(settings.log_level)
    if workers == 1:
        server, sock = bind(settings)
        run(server, sock)
        return
    if not settings.database_url.startswith("postgresql"):
        sys.exit(
            "llm-train: several workers need PostgreSQL, and SQLite has one process: set "
            "LLM_TRAIN_DATABASE_URL, or leave --workers out"
        )
    # The workers share the connections; each needs at least FEWEST.
    share = max(FEWEST, settings.database_connections // workers)
    settings = settings.model_copy(update={"database_connections": share})
    prepare(settings)  # so that an error is printed once, and one process migrates
    sock = listen(settings)
    log.info("%d workers, each with up to %d connections to PostgreSQL", workers, share)
    supervise(partial(serve_socket, settings), workers, sock)


def serve_socket(settings: Settings, sock: socket.socket) -> None:
    """Serve an already listening socket, as one of several workers."""
    configure_logging(settings.log_level)
    make_server(prepare(settings), settings, sock).run(sockets=[sock])


def main() -> None:
    """Run `python -m app.main`."""
    if len(sys.argv) > 1:
        sys.exit("llm-train: python -m app.main takes no arguments; see llm-train --help")
    serve(load_settings())


if __name__ == "__main__":
    main()
