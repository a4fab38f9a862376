"""The load generator: a process of its own that costs much less than the server it measures.

`run_load(port, lanes)` starts `python -m tests.bench.load`, hands it request bytes that were built
beforehand and gets back a `Load`; `run_turns(port, cells, …)` plays several such loads in many
short turns, so that what else the machine does falls on all of them alike. A *lane* is one
keep-alive connection and the requests that it sends one after the other; all lanes run at once.
Answers must carry a Content-Length.
"""

import asyncio
import gc
import pickle
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import inf
from pathlib import Path
from typing import cast

import uvloop

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Load:
    """What one load run saw; latencies are seconds, sorted."""

    seconds: float
    latencies: list[float]
    statuses: dict[int, int]
    bodies: list[bytes]  # the last of each lane, and every error
    cpu: float = 0.0
    """CPU seconds that the watched processes used meanwhile."""

    @property
    def rate(self) -> float:
        return len(self.latencies) / self.seconds

    @property
    def cost(self) -> float:
        """CPU seconds of the watched processes for each answer."""
        return self.cpu / len(self.latencies)

    def percentile(self, percent: float) -> float:
        return self.latencies[
            min(len(self.latencies) - 1, int(len(self.latencies) * percent / 100))
        ]

    def expect(self, *statuses: int) -> "Load":
        """Raise unless every answer has one of these statuses: a fast error is no throughput."""
        if not self.latencies or set(self.statuses) - set(statuses):
            raise RuntimeError(
                f"answers {self.statuses}, wanted {statuses}: {self.bodies[:1]!r:.600}"
            )
        return self


@dataclass(frozen=True)
class _Plan:
    port: int
    cells: list[list[list[bytes]]]
    seconds: float | None  # None: every lane once; else the lanes go round until the time is up
    turns: int = 1
    watched: Sequence[int] = ()


def request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """The bytes of one HTTP/1.1 request; `idempotency_key="k"` becomes a header."""
    head = [f"{method} {path} HTTP/1.1", "Host: 127.0.0.1"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if body:
        head += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return "\r\n".join([*head, "", ""]).encode() + body


def start_load(
    port: int, lanes: Sequence[Sequence[bytes]], seconds: float | None = None
) -> "subprocess.Popen[bytes]":
    """Start a load in the background; `finish_load` waits for it and returns what it saw."""
    return _start(_Plan(port, [[list(lane) for lane in lanes]], seconds))


def _start(plan: _Plan) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.load"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin
    with process.stdin as pipe:
        pickle.dump(plan, pipe)
    return process


def finish_load(process: "subprocess.Popen[bytes]") -> Load:
    ((load,),) = _finish(process)
    return load


def _finish(process: "subprocess.Popen[bytes]") -> list[list[Load]]:
    assert process.stdout
    with process.stdout as pipe:
        answer = pipe.read()
    if process.wait() or not answer:
        raise RuntimeError("the load generator failed; its traceback is above")
    loads = pickle.loads(answer)
    assert isinstance(loads, list)
    return loads


def run_load(port: int, lanes: Sequence[Sequence[bytes]], seconds: float | None = None) -> Load:
    """Play every lane once, or round and round for `seconds`; see the module's map."""
    return finish_load(start_load(port, lanes, seconds))


def run_turns(
    port: int,
    cells: Sequence[Sequence[Sequence[bytes]]],
    seconds: float,
    turns: int,
    watched: Sequence[int],
) -> list[list[Load]]:
    """Play the lanes of each cell for `seconds`, cell after cell, `turns` times; every second time
    backwards. Return the loads of each turn, in the order of the cells.

    A lane goes on where its last turn ended. `watched`: processes whose CPU time is measured.
    """
    lanes = [[list(lane) for lane in cell] for cell in cells]
    return _finish(_start(_Plan(port, lanes, seconds, turns, watched)))


class _Lane(asyncio.Protocol):
    """One connection: send, wait for the whole answer, note the time, send the next."""

    transport: asyncio.WriteTransport

    def __init__(self, plan: _Plan, lane: list[bytes]) -> None:
        self.plan, self.lane = plan, lane
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.next, self.buffer, self.want, self.body_at = 0, b"", 0, 0

    def play(self, result: Load, end: float) -> asyncio.Future[None]:
        """Send until `end` or the last request; done with the last answer."""
        if self.done.done():  # the last turn's
            if self.transport.is_closing():
                raise ConnectionError("the server hung up")
            self.done = asyncio.get_running_loop().create_future()
        self.result, self.end = result, end
        self.send()
        return self.done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.lane[self.next])
        self.next += 1

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        if not self.want:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = self.buffer[:end].lower()
            length = head.find(b"\r\ncontent-length:")
            if length < 0:
                self.connection_lost(RuntimeError(f"no Content-Length: {head!r}"))
                return
            self.body_at = end + 4
            self.want = self.body_at + int(head[length + 17 :].split(b"\r\n", 1)[0])
        if len(self.buffer) >= self.want:
            self.answered()

    def answered(self) -> None:
        now, status = time.perf_counter(), int(self.buffer[9:12])
        self.result.latencies.append(now - self.sent)
        self.result.statuses[status] = self.result.statuses.get(status, 0) + 1
        if self.next == len(self.lane) and self.plan.seconds is not None:
            self.next = 0
        last = self.next == len(self.lane) or now >= self.end
        if last or status >= 400:
            self.result.bodies.append(self.buffer[self.body_at :])
        self.buffer, self.want = b"", 0
        if not last:
            self.send()
        elif not self.done.done():
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(exc or ConnectionError("the server hung up"))


def _itself(lane: _Lane) -> _Lane:
    return lane


async def _play(plan: _Plan) -> list[list[Load]]:
    cells = [[_Lane(plan, lane) for lane in lanes] for lanes in plan.cells]
    for lane in chain.from_iterable(cells):
        connect = asyncio.get_running_loop().create_connection
        await connect(partial(_itself, lane), "127.0.0.1", plan.port)
    played = []
    for turn in range(plan.turns):
        step = -1 if turn % 2 else 1
        played.append([await _turn(plan, lanes) for lanes in cells[::step]][::step])
    return played


async def _turn(plan: _Plan, lanes: list[_Lane]) -> Load:
    cpu, start = _cpu(plan.watched), time.perf_counter()
    result = Load(0.0, [], {}, [])
    end = start + (inf if plan.seconds is None else plan.seconds)
    await asyncio.gather(*(lane.play(result, end) for lane in lanes))
    seconds, cpu = time.perf_counter() - start, _cpu(plan.watched) - cpu
    return Load(seconds, sorted(result.latencies), result.statuses, result.bodies, cpu)


def _cpu(pids: Sequence[int]) -> float:
    """Return the CPU seconds of processes, in nanoseconds' steps; Linux's clock of a process."""
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def main() -> None:
    gc.disable()
    result = uvloop.run(_play(pickle.load(sys.stdin.buffer)))
    # Not sys.stdout: under PYTHONUNBUFFERED it may write a part of this and say nothing.
    with open(1, "wb") as output:
        pickle.dump(result, output)


if __name__ == "__main__":
    # Under its importable name, so that what it pickles can be read back.
    from tests.bench.load import main as play

    play()
