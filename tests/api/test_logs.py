"""The log of a run over REST: in parts, from its end, and as it grows until the run has ended."""

import asyncio
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.rest import log_events
from tests.api.conftest import Api
from tests.api.problem import problem
from tests.support.database import postgresql_heavy
from tests.support.server import wait_until

pytestmark = postgresql_heavy

BYTES = bytes(range(256)) + "损失 1.83\n".encode() + b"\xff\xfe\x00"


@pytest.fixture(scope="module")
def experiment(api: Api) -> str:
    return str(api.post("/v1/experiments", {"name": "a", "task_type": "b"})["experiment_id"])


class Run:
    """A run that waits for GPUs that nobody has, so only the test writes its log."""

    def __init__(self, api: Api, experiment: str) -> None:
        body = {"model": "m", "recipe": "demo", "resources": {"gpu_type": "none", "count": 64}}
        run = api.post(f"/v1/experiments/{experiment}/runs", body)["run_id"]
        self.api = api
        self.id = run
        self.path = f"/v1/experiments/{experiment}/runs/{run}"
        self.log: Path = api.settings.data_dir / "runs" / run / "train.log"
        self.log.parent.mkdir(parents=True, exist_ok=True)

    def read(self, query: str = "") -> tuple[bytes, int]:
        """The content and the next offset."""
        answer = self.api.send("GET", f"{self.path}/logs{query}")
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "text/plain; charset=utf-8"
        return answer.content, int(answer.headers["x-next-offset"])

    def write(self, content: bytes) -> None:
        with self.log.open("ab") as file:
            file.write(content)

    def cancel(self) -> None:
        self.api.post(f"{self.path}/cancel", {})


class Stream:
    """A `follow` under way; keeps what came, or (`keep=False`) only how much."""

    def __init__(
        self, run: Run, query: str = "", keep: bool = True, accept: str = "*/*", last: str = ""
    ) -> None:
        self.api, self.run = run.api, run
        self.content, self.size, self.largest = b"", 0, 0
        self.status, self.headers = 0, dict[str, str]()
        self.keep = keep
        self.gone = asyncio.Event()
        path = f"{run.path}/logs"
        scope = {
            "type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "method": "GET",
            "http_version": "1.1", "scheme": "http", "path": path, "raw_path": path.encode(),
            "query_string": f"follow=true{query}".encode(), "root_path": "", "state": {},
            "headers": [(b"host", b"localhost"), *self._told(accept, last)],
            "client": ("127.0.0.1", 1), "server": None,
        }  # fmt: skip
        self.done: Future[Any] = asyncio.run_coroutine_threadsafe(
            self.api.app(scope, self._receive, self._send), self.api.loop
        )

    async def _receive(self) -> dict[str, Any]:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    def _told(self, accept: str, last: str) -> list[tuple[bytes, bytes]]:
        told = [(b"accept", accept.encode()), (b"last-event-id", last.encode())]
        return [header for header in told if header[1]]

    def ended(self) -> int:
        """Its status, when it is over."""
        self.done.result(10)
        return self.status

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode(): value.decode() for name, value in message["headers"]}
        body = message.get("body", b"")
        self.size += len(body)
        self.largest = max(self.largest, len(body))
        if self.keep:
            self.content += body

    def ends_with(self, content: bytes) -> bool:
        return self.content.endswith(content)

    def leave(self) -> None:
        self.api.loop.call_soon_threadsafe(self.gone.set)


@pytest.fixture
def run(api: Api, experiment: str) -> Run:
    return Run(api, experiment)


def test_a_log_that_is_not_there_yet_is_empty(run: Run) -> None:
    assert run.read() == (b"", 0)
    assert run.read("?offset=-10") == (b"", 0)


@pytest.mark.parametrize(
    ("query", "start", "end"),
    [
        ("", 0, None),
        ("?offset=3", 3, None),
        ("?offset=3&limit=4", 3, 7),
        ("?offset=-5", -5, None),
        ("?offset=-5&limit=2", -5, -3),
        ("?offset=-9999999", 0, None),
        ("?offset=-9007199254740992", 0, None),
    ],
)
def test_a_part_of_a_log_byte_for_byte(run: Run, query: str, start: int, end: int | None) -> None:
    run.write(BYTES)
    content = BYTES[start:end]
    assert run.read(query) == (content, BYTES.index(content) + len(content))


@pytest.mark.parametrize("offset", [len(BYTES), len(BYTES) + 1, 2**53])
def test_beyond_the_end_there_is_nothing_yet(run: Run, offset: int) -> None:
    run.write(BYTES)
    assert run.read(f"?offset={offset}") == (b"", offset)


def test_parts_by_their_next_offset_are_the_whole(run: Run) -> None:
    run.write(BYTES)
    found, offset = b"", 0
    while part := run.read(f"?offset={offset}&limit=7"):
        if not part[0]:
            break
        found, offset = found + part[0], part[1]
    assert found == BYTES


def test_an_external_run_has_its_log_elsewhere(api: Api, experiment: str) -> None:
    run = api.post(f"/v1/experiments/{experiment}/runs", {"model": "m"})["run_id"]
    answer = api.send("GET", f"/v1/experiments/{experiment}/runs/{run}/logs")
    assert answer.status_code == 404


def test_follow_goes_on_while_the_run_does_and_ends_with_it(run: Run) -> None:
    stream = Stream(run)
    for number in range(3):
        line = b"line %d\n" % number
        run.write(line)
        wait_until(partial(stream.ends_with, line), "it is there")
        assert not stream.done.done()
    run.write(b"the last words")
    run.cancel()
    stream.done.result(10)
    assert stream.content == b"line 0\nline 1\nline 2\nthe last words"


def test_follow_of_a_run_that_has_ended_is_all_of_it(run: Run) -> None:
    run.write(BYTES)
    run.cancel()
    for query, expected in (("", BYTES), ("&offset=-4", BYTES[-4:]), ("&offset=9999", b"")):
        stream = Stream(run, query)
        stream.done.result(10)
        assert stream.content == expected


def test_head_follows_nothing(run: Run) -> None:
    run.write(BYTES)
    answer = run.api.send("HEAD", f"{run.path}/logs?follow=true")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"


def test_a_client_that_goes_away_leaves_nothing_behind(run: Run) -> None:
    stream = Stream(run)
    waiting = run.api.app.state.db.changes._waiting
    wait_until(lambda: run.id in waiting, "the stream waits for changes of the run")
    stream.leave()
    stream.done.result(10)
    assert run.id not in waiting


def test_a_log_of_1_gb_costs_no_memory(run: Run) -> None:
    size = 1 << 30
    with run.log.open("wb") as file:
        file.truncate(size)
    run.cancel()
    process = psutil.Process()
    before = process.memory_info().rss
    stream = Stream(run, keep=False)
    highest = before

    def over() -> bool:
        nonlocal highest
        highest = max(highest, process.memory_info().rss)
        return stream.done.done()

    wait_until(over, "all of it has come")
    assert (stream.size, stream.done.exception()) == (size, None)
    assert stream.largest <= 1 << 20
    assert highest - before < 50_000_000
    content, offset = run.read()
    assert len(content) == offset == 8 * 1024 * 1024


# As server-sent events.


def parsed(content: bytes) -> list[tuple[str, str, str]]:
    """The events as a browser's EventSource sees them: id, type and data."""
    found = []
    for block in content.decode().split("\n\n"):
        fields: dict[str, list[str]] = {"id": [], "event": ["message"], "data": []}
        for line in block.splitlines():
            name, _, value = line.partition(": ")
            fields.get(name, []).append(value)
        if fields["data"]:
            found.append((fields["id"][-1], fields["event"][-1], "\n".join(fields["data"])))
    return found


def test_events_are_whole_lines_and_go_on_where_a_connection_broke(run: Run) -> None:
    run.write("损失 1.83\nstep 2".encode())
    stream = Stream(run, accept="text/event-stream")
    wait_until(lambda: "损失".encode() in stream.content, "the first line")
    assert stream.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert stream.headers["x-accel-buffering"] == "no"
    run.write(b" loss 1.7\r\n 10%\r 20%\r 30%")
    wait_until(lambda: b"20%" in stream.content, "the bar moves on")
    stream.leave()
    stream.done.result(10)
    before = parsed(stream.content)
    assert "\n".join(data for *_, data in before) == "损失 1.83\nstep 2 loss 1.7\n 10%\n 20%"

    again = Stream(run, accept="text/event-stream", last=before[-1][0])
    run.write(b" 100%\nthe last words")
    run.cancel()
    again.done.result(10)
    *rest, (end, kind, _) = parsed(again.content)
    assert "\n".join(data for *_, data in rest) == " 30% 100%\nthe last words"
    assert (kind, int(end)) == ("end", run.log.stat().st_size)
    # A browser that connects again after the end is told to stop.
    assert Stream(run, accept="text/event-stream", last=end).ended() == 204


def test_a_silent_trainers_stream_is_kept_open(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_events, "KEEP_ALIVE_SECONDS", 0.3)
    stream = Stream(run, accept="text/event-stream")
    wait_until(lambda: stream.content.count(b": the run goes on\n\n") >= 2, "comments come")
    assert parsed(stream.content) == []
    stream.leave()
    stream.done.result(10)


@pytest.mark.parametrize("line", [b"x", "损".encode(), b"\x80", b"\xff"])
def test_a_line_without_an_end_comes_in_parts(run: Run, line: bytes) -> None:
    content = line * (700_000 // len(line))
    run.write(content)
    run.cancel()
    stream = Stream(run, accept="text/event-stream")
    stream.done.result(10)
    *parts, _ = parsed(stream.content)
    assert len(parts) > 1
    assert "".join(data for *_, data in parts) == content.decode("utf-8", "replace")


@pytest.mark.parametrize("last", ["x", "-1", "1e3", "9" * 30, "²", "1, 2"])
def test_an_id_that_is_no_offset_is_refused(run: Run, last: str) -> None:
    headers = {"accept": "text/event-stream", "last-event-id": last}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    answer = run.api.send("GET", f"{run.path}/logs?follow=true", headers=raw)
    (wrong,) = problem(answer, "invalid_input")["errors"]
    assert wrong["header"] == "Last-Event-ID"


def test_a_proxy_is_told_to_pass_on_what_it_gets(run: Run) -> None:
    answer = run.api.send("HEAD", f"{run.path}/logs?follow=true")
    assert answer.headers["x-accel-buffering"] == "no"
