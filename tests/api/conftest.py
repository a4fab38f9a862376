"""The app itself, over ASGI, with a database of its own for each module."""

import asyncio
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from sqlalchemy import Engine, create_engine
from sqlmodel import SQLModel

from app.main import create_app
from app.settings import Settings
from tests.support.server import end_trainers, wait_until


@dataclass(frozen=True)
class Api:
    """`send` makes one request; `digest` is the content of the database; `loop` serves."""

    app: Any
    settings: Settings
    send: Callable[..., httpx.Response]
    loop: asyncio.AbstractEventLoop
    engine: Engine
    """Of the tests' own connections."""
    _digests: dict[int, str] = field(default_factory=dict)

    def digest(self) -> str:
        """Return what tells one content of the database from another."""
        rows, version = [], None
        with self.engine.connect() as connection:
            cursor = connection.connection.cursor()  # SQLAlchemy would take five times as long
            if self.engine.name == "sqlite":
                # Another number as soon as another connection than this one has written.
                (version,) = cursor.execute("PRAGMA data_version").fetchone()
            if version in self._digests:
                return self._digests[version]
            # What is in data_dir is no request's work: the supervisor's, when it begins.
            for name in sorted(SQLModel.metadata.tables.keys() - {"data_dir"}):
                cursor.execute(f'SELECT * FROM "{name}"')
                rows.append(sorted(map(repr, cursor.fetchall())))
            cursor.close()
        digest = hashlib.sha256(repr(rows).encode()).hexdigest()
        if version is not None:
            self._digests[version] = digest
        return digest

    def post(self, path: str, body: Any, **headers: str) -> Any:
        answer = self.send("POST", path, json=body, headers=headers)
        assert answer.status_code < 300, answer.text
        return answer.json()


@contextmanager
def running(tmp_path: Path, **settings: Any) -> Iterator[Api]:
    """The app, its lifespan entered, on an event loop in a thread."""
    tmp_path.mkdir(exist_ok=True)
    url = f"sqlite:///{tmp_path / 'app.db'}"
    settings = dict[str, Any](database_url=url, data_dir=tmp_path / "data") | settings
    told = Settings(**settings)
    app = create_app(told)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def on_loop(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(30)

    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")

    def send(method: str, path: str, **more: Any) -> httpx.Response:
        answer: httpx.Response = on_loop(client.request(method, path, **more))
        return answer

    engine, lifespan = create_engine(told.database_url), app.router.lifespan_context(app)
    on_loop(lifespan.__aenter__())
    try:
        yield Api(app, told, send, loop, engine)
    finally:
        engine.dispose()
        on_loop(client.aclose())
        on_loop(lifespan.__aexit__(None, None, None))
        end_trainers(told.data_dir)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, module_database_url: str) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("api"), database_url=module_database_url) as api:
        yield api


@contextmanager
def serving(api: Api) -> Iterator[str]:
    """Where the app of `api` is served on a real socket."""
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(api.app, lifespan="off", ws="websockets-sansio", log_config=None)
    )
    served = asyncio.run_coroutine_threadsafe(server.serve([listening]), api.loop)
    wait_until(lambda: server.started, lambda: "")
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    served.result(10)


@pytest.fixture(scope="module")
def url(api: Api) -> Iterator[str]:
    """Where the app of `api` is served on a real socket."""
    with serving(api) as url:
        yield url
