"""Clients that never give up, and the audit of what became of all they asked for.

    with Writers(urls, experiments=2) as writers:      # they write from here on
        ...kill and start servers...
    writers.audit(database_url)

Each of the threads submits, marks, resumes and cancels external runs, every request under an
Idempotency-Key of its own. What was not answered is sent again, to the next server, until it is:
so each key must have exactly one effect, and what was acknowledged must be there for good.
"""

import random
import sqlite3
import threading
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import psycopg

from tests.support.database import dsn
from tests.support.server import wait_until

PATIENCE_SECONDS = 180.0


@dataclass(frozen=True)
class Acknowledged:
    """A request and its first answer."""

    path: str
    body: dict[str, Any]
    status: int
    content: bytes


class Writers:
    """Threads that write to one service, which may consist of several servers."""

    def __init__(
        self, urls: list[str], *, threads: int = 8, experiments: int = 2, seed: int = 0
    ) -> None:
        self.urls = urls
        self.done: dict[str, Acknowledged] = {}
        self.errors: list[str] = []
        self.retries = 0
        self._seed = seed
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(number,)) for number in range(threads)
        ]
        with httpx.Client(timeout=30, verify=False) as http:
            self.experiments = [
                str(
                    self._send(http, f"exp-{seed}-{number}", "/experiments", _EXPERIMENT)[
                        "experiment_id"
                    ]
                )
                for number in range(experiments)
            ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Returns when all that was begun is answered."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def wait_for(self, more: int, timeout: float = PATIENCE_SECONDS) -> None:
        """Returns when so many more requests are answered."""
        target = len(self.done) + more
        wait_until(lambda: self.errors or len(self.done) >= target, "they are answered", timeout)

    def _write(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        try:
            with httpx.Client(timeout=30, verify=False) as http:
                for turn in range(10**9):
                    if self._stop.is_set():
                        return
                    self._one_story(http, chance, f"{self._seed}-{number}-{turn}")
        except Exception as error:
            self.errors.append(f"writer {number}: {error!r}")

    def _one_story(self, http: httpx.Client, chance: random.Random, key: str) -> None:
        experiment = chance.choice(self.experiments)
        runs = f"/experiments/{experiment}/runs"
        run = self._send(http, f"{key}-submit", runs, {"model": f"{key}-submit"})["run_id"]
        path = f"/ckpts/{experiment}/{run}/a"
        if chance.random() < 0.4:
            tag = f"{key}-mark"
            mark = {"run_id": run, "ckpt_path": path, "tag_type": "release", "release_tag": tag}
            self._send(http, tag, f"/experiments/{experiment}/checkpoints/mark", mark)
        if chance.random() < 0.2:
            resume = {"ckpt_path": path, "notes": f"{key}-resume"}
            self._send(http, f"{key}-resume", f"{runs}/{run}/resume", resume)
        if chance.random() < 0.2:
            self._send(http, f"{key}-cancel", f"{runs}/{run}/cancel", {})

    def _send(self, http: httpx.Client, key: str, path: str, body: dict[str, Any]) -> Any:
        deadline = time.monotonic() + PATIENCE_SECONDS
        server = hash(key)
        while True:
            try:
                answer = http.post(
                    f"{self.urls[server % len(self.urls)]}/v1{path}",
                    json=body,
                    headers={"Idempotency-Key": key},
                )
                if answer.status_code < 300:
                    self.done[key] = Acknowledged(path, body, answer.status_code, answer.content)
                    return answer.json()
                code = answer.json().get("code")
                again = code in ("idempotency_key_in_flight", "unavailable", "busy")
                assert again, f"{answer.request.url}: {answer.text}"
            except httpx.TransportError:
                server += 1
            assert time.monotonic() < deadline, f"{key} was not answered in {PATIENCE_SECONDS} s"
            self.retries += 1
            time.sleep(0.1)

    def audit(self, database_url: str) -> None:
        """Nothing acknowledged is missing, nothing happened twice, the history has no gaps."""
        assert not self.errors, self.errors
        mine = "experiment_id IN ({})".format(", ".join(f"'{each}'" for each in self.experiments))
        with closing(_connect(database_url)) as database:

            def count(column: str, table: str, where: str) -> Counter[str]:
                rows = database.execute(
                    f"SELECT {column} FROM {table} WHERE {where} AND {mine}"
                ).fetchall()
                return Counter(str(row[0]) for row in rows)

            found = (
                count("model", "run", "parent_run_id IS NULL")
                + count("notes", "run", "notes IS NOT NULL")
                + count("release_tag", "checkpoint", "release_tag IS NOT NULL")
            )
            cancelled = count("run_id", "event", "type = 'run.cancelled'")
            seqs = database.execute(
                "SELECT experiment_id, count(*), min(seq), max(seq) FROM event"
                f" WHERE {mine} GROUP BY experiment_id"
            ).fetchall()
        effects = {key for key in self.done if not key.startswith("exp-")}
        cancels = {key for key in effects if key.endswith("-cancel")}
        lost = (effects - cancels) - found.keys()
        assert not lost, f"{len(lost)} acknowledged and lost: {sorted(lost)[:3]}"
        assert not found.keys() - effects, "somebody else wrote here"
        doubled = [key for key, times in (found + cancelled).items() if times > 1]
        assert not doubled, f"{len(doubled)} done twice: {doubled[:3]}"
        assert cancelled.total() == len(cancels), "every acknowledged cancel, and no other"
        assert len(seqs) == len(self.experiments)
        for experiment, events, first, last in seqs:
            assert (first, last) == (1, events), f"{experiment} has gaps"

    def replay(self, most: int = 100) -> None:
        """Ask a sample again: the first answer comes, byte for byte."""
        sample = random.Random(self._seed).sample(sorted(self.done), min(most, len(self.done)))
        with httpx.Client(timeout=30, verify=False) as http:
            for key in sample:
                first = self.done[key]
                answer = http.post(
                    f"{self.urls[0]}/v1{first.path}",
                    json=first.body,
                    headers={"Idempotency-Key": key},
                )
                assert answer.headers.get("idempotent-replayed") == "true", key
                assert (answer.status_code, answer.content) == (first.status, first.content)


_EXPERIMENT = {"name": "writers", "task_type": "test"}


def _connect(url: str) -> Any:
    if url.startswith("sqlite"):
        return sqlite3.connect(url.removeprefix("sqlite:///"))
    return psycopg.connect(dsn(url))
