"""The app, assembled in one place. `python -m app.main` serves it.

create_app(settings)  lifespan (database, supervisor), middleware, routers, handlers
serve(settings)       uvicorn, with one clear line for each thing that can be wrong
"""

import asyncio
import gc
import logging
import os
import secrets
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

try:
    import uvicorn
    from fastapi import FastAPI
    from pydantic import ValidationError
except ModuleNotFoundError as missing:
    sys.exit(
        f"llm-train: the package {missing.name!r} is not installed; "
        'install the service with: pip install "llm-train-api"'
    )

from app.domain import failpoints
from app.domain.recipes import RecipeError, load_recipes
from app.errors import ServiceError
from app.graphql.router import graphql_router
from app.guard import Guard
from app.logs import JsonLines
from app.pages import mount_static
from app.rest import docs, logs, metrics, problems, routes, service
from app.services.idempotency import InFlight
from app.settings import Settings
from app.store.database import Database, connect
from app.supervisor import Supervisor

log = logging.getLogger("app")


def create_app(settings: Settings, db: Database | None = None) -> FastAPI:
    """The whole service on one FastAPI app. Raises RecipeError for a bad recipe file.

    `db`: the settings' database when it was prepared before, so that what is wrong with it
    could be said in one line.
    """
    db = db or connect(settings.database_url)
    if settings.recipes is not None:
        recipes = load_recipes(settings.recipes.read_text(), str(settings.recipes))
    else:
        recipes = load_recipes(None, "built-in")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await db.start()
        supervisor = Supervisor(db, settings, recipes, app.state.secret, app.state.api_url)
        app.state.db, app.state.supervisor = db, supervisor
        task = asyncio.create_task(supervisor.run())
        # What start-up made stays; the collector need not walk it again and again.
        gc.collect()
        gc.freeze()
        try:
            yield
        finally:
            await supervisor.stop()
            await task
            await db.stop()

    app = FastAPI(
        title=service.NAME,
        version=service.VERSION,
        description="A control plane for LLM training: experiments, runs and checkpoints.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.state.settings = settings
    app.state.recipes = recipes
    app.state.secret = settings.secret or _secret(settings.data_dir)
    app.state.api_url = f"http://127.0.0.1:{settings.port}"
    app.state.in_flight = InFlight()
    app.add_middleware(
        Guard,
        allowed_hosts=settings.allowed_hosts,
        api_token=settings.api_token,
        max_body=settings.max_body_bytes,
    )
    problems.install(app)
    app.include_router(service.router)
    app.include_router(routes.router)
    app.include_router(logs.router)
    app.include_router(metrics.router)
    app.include_router(docs.router)
    app.include_router(graphql_router(settings), include_in_schema=False)
    mount_static(app)
    return app


def _secret(data_dir: Path) -> str:
    """The secret that run tokens are derived from, made at the first start."""
    data_dir.mkdir(parents=True, exist_ok=True)
    path = data_dir / "secret"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_urlsafe(48))
    return path.read_text()


def prepare(settings: Settings) -> FastAPI:
    """Checks what a newcomer can get wrong, migrates, and makes the app.

    Raises SystemExit with one line that says what to do.
    """
    if settings.failpoint is not None:
        failpoints.activate(*settings.failpoint.split(":", 1))
    try:
        db = connect(settings.database_url)
        db.prepare()
        return create_app(settings, db)
    except (RecipeError, OSError, ValueError, ServiceError) as error:
        sys.exit(f"llm-train: {error}")


def load_settings(**overrides: object) -> Settings:
    """The settings of this process. Raises SystemExit with one line for a wrong one."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = "LLM_TRAIN_" + "_".join(map(str, first["loc"])).upper() if first["loc"] else ""
        message = first["msg"].removeprefix("Value error, ")
        sys.exit(f"llm-train: {name}{': ' if name else ''}{message}")


def bind(settings: Settings) -> tuple[uvicorn.Server, socket.socket]:
    """A server and the socket it shall serve; nobody is answered before it runs.

    Raises SystemExit with one line that says what to do.
    """
    app = prepare(settings)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        ws="websockets-sansio",
        ws_max_size=settings.max_body_bytes,
        timeout_graceful_shutdown=5,
    )
    logging.disable(logging.ERROR)  # uvicorn would log what the line below says better
    try:
        sock = config.bind_socket()
    except SystemExit:
        sys.exit(
            f"llm-train: {settings.host}:{settings.port} is taken or is not an address of this "
            "machine; choose another port with LLM_TRAIN_PORT."
        )
    finally:
        logging.disable(logging.NOTSET)
    app.state.api_url = "http://{}:{}".format(*_reachable(sock.getsockname()))
    return uvicorn.Server(config), sock


def serve(settings: Settings) -> None:
    """Serves until SIGINT or SIGTERM."""
    logging.basicConfig(level=settings.log_level.upper(), handlers=[JsonLines.handler()])
    server, sock = bind(settings)
    log.info("serving on %s", server.config.app.state.api_url)  # type: ignore[union-attr]
    with suppress(KeyboardInterrupt):
        server.run(sockets=[sock])


def _reachable(address: tuple[str, int]) -> tuple[str, int]:
    """Where this machine's own trainers reach a bound address."""
    host, port = address[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104
    return (f"[{host}]" if ":" in host and "[" not in host else host), port


def main() -> None:
    """`python -m app.main`."""
    serve(load_settings())


if __name__ == "__main__":
    main()
