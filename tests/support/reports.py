"""A real HTTP server that takes reports, misbehaves on command, and audits what it took.

`ReportServer` answers as the service does: a batch number that it knows changes nothing. `mode`
says how it treats the next requests, `stop` and `start` take it away and bring it back on its port.
"""

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from llm_train import Reporter

from tests.support.server import REPOSITORY

MODES = ("ok", "500", "503", "hang", "drop before reading", "drop before answering", "not JSON")


class ReportServer:
    """`taken` is batch number → body in the order of arrival; `requests` all that came, as (at,
    status, body)."""

    def __init__(self) -> None:
        self.mode = "ok"
        self.should_stop: str | None = None  # the stop checkpoint's name
        self.retry_after: str | None = None
        self.spec: dict[str, Any] | None = None  # of the run, for who asks
        self.judge: Callable[[dict[str, Any]], tuple[int, dict[str, Any]] | None] | None = None
        """Return (status, answer) for a body that is not taken, None for one that is. An empty
        answer is a proxy's page."""
        self.taken: dict[int, dict[str, Any]] = {}
        self.parts: list[dict[str, Any]] = []
        self.requests: list[tuple[float, int, dict[str, Any]]] = []
        self.errors: list[str] = []
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self._connections: set[Any] = set()
        self._port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer._connections.add(self.connection)

            def finish(self) -> None:
                outer._connections.discard(self.connection)
                super().finish()

            def do_GET(self) -> None:
                outer._tell(self)

            def do_POST(self) -> None:
                outer._answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # connections are cut on purpose

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go away: refuse new connections and cut the open ones."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
        for connection in list(self._connections):
            try:
                connection.shutdown(2)
            except OSError:
                self._connections.discard(connection)

    def points(self) -> list[tuple[str, int, float | str]]:
        """Every point taken, as (key, step, value), in the order of arrival."""
        return points_of([*self.parts, *self.taken.values()])

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        mode = self.mode
        if mode == "drop before reading":
            handler.close_connection = True
            return
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        while self.mode == mode == "hang" and self._server:
            time.sleep(0.01)
        status = int(mode[:3]) if mode[:3].isdigit() else 200
        judged = self.judge(body) if self.judge else None
        if judged:
            status = judged[0]
        with self._lock:
            self.requests.append((time.monotonic(), status, body))
            if status == 200 and mode not in ("hang", "not JSON"):
                self._take(body)
            reached = max(self.taken, default=0)
        if mode in ("hang", "drop before answering"):
            handler.close_connection = True
            return
        answer: dict[str, Any] = {"code": "planned", "detail": f"this is a planned {status}"}
        if status == 200:
            stop = self.should_stop
            answer = {"batch": reached, "should_stop": bool(stop), "stop_checkpoint": stop}
        if judged:
            answer = judged[1]
        content = json.dumps(answer).encode() if answer else b"<html>a proxy</html>"
        if mode.endswith("not JSON"):
            content = b"[" * 10_000 if status == 200 else b"<html>a proxy</html>"
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content)))
        if self.retry_after:
            handler.send_header("Retry-After", self.retry_after)
        handler.end_headers()
        handler.wfile.write(content)

    def _tell(self, handler: BaseHTTPRequestHandler) -> None:
        while self.mode == "hang" and self._server:
            time.sleep(0.01)
        known = self.mode == "ok" and self.spec is not None
        answer = self.spec if known else {"code": "not_found", "detail": "no such run"}
        content = json.dumps(answer).encode()
        handler.send_response(200 if known else 404 if self.mode == "ok" else int(self.mode))
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    def _take(self, body: dict[str, Any]) -> None:
        if "batch" not in body:  # a part of a batch, which may come again
            self.parts.append(body)
            return
        number = body["batch"]
        if number in self.taken:
            heartbeat = not body.keys() - {
                "attempt",
                "session",
                "batch",
            }  # says nothing, so changes nothing
            if self.taken[number] != body and not heartbeat:
                self.errors.append(f"batch {number} came again with another content")
            return
        if number != max(self.taken, default=0) + 1:
            self.errors.append(f"batch {number} came after {max(self.taken, default=0)}")
        self.taken[number] = body


def points_of(bodies: list[dict[str, Any]]) -> list[tuple[str, int, float | str]]:
    """The points of report bodies, as (key, step, value).

    Without those of the machine: they come by time.
    """
    return [
        (key, step, value)
        for body in bodies
        for key, column in body.get("metrics", {}).items()
        if not key.startswith("system/")
        for step, value in zip(column["steps"], column["values"], strict=True)
    ]


def attach(server: ReportServer, run_dir: Path | None = None, **more: Any) -> Reporter:
    """A reporter of this process; `attempt=None` for one that the service did not launch."""
    more = {"attempt": 1, **more}
    return Reporter(api_url=server.url, run_id="run_1", token="secret", run_dir=run_dir, **more)


def spooled(run_dir: Path) -> list[dict[str, Any]]:
    """The whole reports in the spool of the first attempt; not a line that is being written."""
    lines = (run_dir / "attempt-1/reports.jsonl").read_bytes().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def start(
    script: str, server: ReportServer, run_dir: Path | None, **more: str
) -> subprocess.Popen[str]:
    """Run a script as a trainer: launched, where it has a `run_dir`; else attached by itself."""
    env = {
        **os.environ,
        "PYTHONPATH": str(REPOSITORY),
        "LLM_TRAIN_API_URL": server.url,
        "LLM_TRAIN_RUN_ID": "run_1",
        "LLM_TRAIN_RUN_TOKEN": "secret",
        **({"LLM_TRAIN_ATTEMPT": "1", "LLM_TRAIN_RUN_DIR": str(run_dir)} if run_dir else {}),
        **more,
    }
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
