"""`python -m tests.bench.agents`: a thousand agents in one process, which cost little themselves.

It reads a pickled `Fleet` and does what that says: every agent claims its attempt, as many at a
time as a cluster starts; then each sends its pulses as a real agent does, over a new connection
each time, until its standard input ends. It writes a line when all have claimed.
"""

import asyncio
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from app.agent.http import PULSE_SECONDS, WAIT_SECONDS

ROOT = Path(__file__).parents[2]
CLAIMS_AT_ONCE = 8


@dataclass(frozen=True)
class Fleet:
    """The runs whose first attempts are claimed, each with its claim code."""

    port: int
    codes: dict[str, str]


async def _post(port: int, path: str, body: dict[str, Any], token: str) -> dict[str, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/runs/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        f"Authorization: Bearer {token}\r\n\r\n"
    )
    writer.write(head.encode() + content)
    answer = await reader.read()
    writer.close()
    status, _, rest = answer.partition(b"\r\n\r\n")
    if not status.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(f"{path}: {answer[:500]!r}")
    found: dict[str, Any] = json.loads(rest)
    return found


async def _run(fleet: Fleet) -> None:
    at_once, tokens = asyncio.Semaphore(CLAIMS_AT_ONCE), {}

    async def claim(run: str, code: str) -> None:
        async with at_once:
            path, body = f"{run}/attempts/1/claim", {"agent": os.urandom(16).hex(), "host": "h"}
            tokens[run] = (await _post(fleet.port, path, body, code))["token"]

    async def pulse(run: str, token: str, delay: float) -> None:
        await asyncio.sleep(delay)
        ran = delay
        while True:
            ran += PULSE_SECONDS
            path = f"{run}/attempts/1/pulse?wait={WAIT_SECONDS:g}"
            await _post(fleet.port, path, {"ran_seconds": ran, "heard": None}, token)
            await asyncio.sleep(PULSE_SECONDS)

    await asyncio.gather(*(claim(run, code) for run, code in fleet.codes.items()))
    print("claimed", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    cycle = WAIT_SECONDS + PULSE_SECONDS
    tasks = [
        asyncio.create_task(pulse(run, token, cycle * number / len(tokens)))
        for number, (run, token) in enumerate(tokens.items())
    ]
    ends = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    done, _ = await asyncio.wait([ends, *tasks], return_when=asyncio.FIRST_COMPLETED)
    for task in done - {ends}:
        task.result()  # raises what went wrong
    os._exit(0)


class Agents:
    """The process from outside: they have claimed, `start` sends pulses, `check` that all live."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self._process = process

    def start(self) -> None:
        """Have the pulses begin."""
        assert self._process.stdin
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def check(self) -> None:
        """Raise if one of them was refused."""
        if self._process.poll() is not None:
            raise RuntimeError("the agents ended; their traceback is above")


@contextmanager
def claimed(fleet: Fleet) -> Iterator[Agents]:
    """Agents that have claimed every attempt, ended when the block is left."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.agents"], cwd=ROOT, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin and process.stdout
    try:
        pickle.dump(fleet, process.stdin)
        process.stdin.flush()
        if process.stdout.readline() != b"claimed\n":
            raise RuntimeError("the agents could not claim; their traceback is above")
        yield Agents(process)
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


if __name__ == "__main__":
    uvloop.run(_run(pickle.load(sys.stdin.buffer)))
