"""Clients under a server that is killed again and again, together with its trainers.

Every request carries an Idempotency-Key and is repeated until it is answered; what was answered
is written down here, for the audit.
"""

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.support.server import wait_until
from tests.support.service import TERMINAL, Home, Service, home, orphans

CLIENTS = 6
EXPERIMENTS = 4
MOST_LIVE = 5
TRAINERS = ("finishes", "obedient", "crashes", "oom_like", "exits_zero_halfway",
            "spawns_grandchild", "silent", None)  # fmt: skip
RECIPES = {"crashes": "max_attempts = 2\nkeep_checkpoints = 1", "finishes": "max_attempts = 3"}


@dataclass(frozen=True)
class Acknowledged:
    """A request that was answered, and the answer's bytes."""

    kind: str
    key: str
    path: str
    body: dict[str, Any]
    status: int
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Story:
    """What the clients know: everything that was acknowledged."""

    acknowledged: list[Acknowledged] = field(default_factory=list)
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    experiments: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)
    slowest_start: float = 0.0
    trainers: tuple[str | None, ...] = TRAINERS
    """The recipes of its runs; None: an external one."""
    step_seconds: float = 0.02
    ledger: Path | None = None
    """The file of all starts, `run attempt`, where trainers have directories of their own."""
    lock: threading.Lock = field(default_factory=threading.Lock)


class Client(threading.Thread):
    """One client, at random operations until it is told to stop."""

    def __init__(self, story: Story, place: Home, seed: str) -> None:
        super().__init__(name=f"client {seed}", daemon=True)
        self.story, self.place = story, place
        self.random = random.Random(seed)
        self.http = httpx.Client(timeout=5)
        self.stopping = threading.Event()
        self.batches: Counter[str] = Counter()

    def run(self) -> None:
        while not self.stopping.is_set():
            try:
                self.step()
            except Exception as error:
                with self.story.lock:
                    self.story.broken.append(f"{self.name}: {error!r}")
                return

    def step(self) -> None:
        kind = self.random.choice(
            ("submit", "submit", "cancel", "resume", "mark", "report", "report", "again", "read")
        )
        run = self.any_run()
        if kind == "again":
            self.again()
        elif kind == "submit" or run is None:
            self.submit()
        else:
            getattr(self, kind)(run)

    def any_run(self) -> dict[str, Any] | None:
        with self.story.lock:
            runs = list(self.story.runs.values())
        return self.random.choice(runs[-20:]) if runs else None

    def submit(self) -> None:
        experiment = self.random.choice(self.story.experiments)
        with self.story.lock:
            # An external one waits for ever: such would keep all others out.
            own = [run for run in self.story.runs.values() if run["recipe"] is not None]
            recent = own[-3 * MOST_LIVE :]
        live = sum(self.status(each) not in TERMINAL for each in recent)
        if live >= MOST_LIVE:
            self.stopping.wait(0.05)
            return
        hyperparams = {
            "steps": self.random.randrange(4, 60),
            "step_seconds": self.story.step_seconds,
            "checkpoint_every": self.random.randrange(2, 20),
        }
        body = {
            "model": "m",
            "recipe": self.random.choice(self.story.trainers),
            "hyperparams": hyperparams,
        }
        self.post("submit", f"/experiments/{experiment}/runs", body)

    def cancel(self, run: dict[str, Any]) -> None:
        self.post("cancel", self.at(run) + "/cancel", {})

    def resume(self, run: dict[str, Any]) -> None:
        self.post("resume", self.at(run) + "/resume", {"override_hyperparams": {"steps": 30}})

    def mark(self, run: dict[str, Any]) -> None:
        name = f"step-{self.random.randrange(1, 30):06d}"
        path = f"/ckpts/{run['experiment_id']}/{run['run_id']}/{name}"
        body = {"run_id": run["run_id"], "ckpt_path": path, "tag_type": "candidate"}
        self.post("mark", f"/experiments/{run['experiment_id']}/checkpoints/mark", body)

    def report(self, run: dict[str, Any]) -> None:
        if run["recipe"] is not None:
            return
        # Each client is a trainer of its own for the service; steps are its batches.
        step = self.random.randrange(1, 1000)
        body = {"attempt": 1, "step": step, "total_steps": 1000,
                "points": [{"key": self.name, "step": step, "value": float(step)}]}  # fmt: skip
        headers = {"Authorization": f"Bearer {run['run_token']}"}
        self.post("report", f"/runs/{run['run_id']}/reports", body, headers)

    def read(self, run: dict[str, Any]) -> None:
        self.status(run)

    def again(self) -> None:
        """An old request once more: the answer must be the old one."""
        with self.story.lock:
            if not self.story.acknowledged:
                return
            old = self.random.choice(self.story.acknowledged)
        answer = self.insist(old.key, old.path, old.body, old.headers)
        if answer is not None and (answer.status_code, answer.content) != (old.status, old.content):
            with self.story.lock:
                self.story.broken.append(f"{old.kind} {old.key}: another answer: {answer.text}")

    def at(self, run: dict[str, Any]) -> str:
        return f"/experiments/{run['experiment_id']}/runs/{run['run_id']}"

    def status(self, run: dict[str, Any]) -> str:
        with suppress(httpx.TransportError):
            answer = self.http.get(f"{self.url}/v1{self.at(run)}/status")
            if answer.status_code == 404:
                with self.story.lock:
                    self.story.broken.append(f"{run['run_id']} was acknowledged and is lost")
            if answer.status_code == 200:
                return str(answer.json()["status"])
        return "unknown"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.place.port}"

    def post(
        self, kind: str, path: str, body: dict[str, Any], headers: dict[str, str] | None = None
    ) -> None:
        key = f"{self.random.getrandbits(64):016x}"
        if kind in ("submit", "resume"):
            body = body | {"notes": key}
        if kind == "mark":
            body = body | {"metrics": {key: 1.0}}
        answer = self.insist(key, path, body, headers or {})
        if answer is None or answer.status_code >= 400:
            return  # refused: nothing was changed, nothing was stored
        with self.story.lock:
            self.story.acknowledged.append(
                Acknowledged(
                    kind, key, path, body, answer.status_code, answer.content, headers or {}
                )
            )
            if kind in ("submit", "resume"):
                run = answer.json()
                self.story.runs[run["run_id"]] = run

    def insist(
        self, key: str, path: str, body: dict[str, Any], headers: dict[str, str]
    ) -> httpx.Response | None:
        """The answer, however often it takes; even when told to stop, since it may be done."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(httpx.TransportError):
                answer = self.http.post(
                    f"{self.url}/v1{path}", json=body, headers={"Idempotency-Key": key} | headers
                )
                code = answer.json().get("code")
                if answer.status_code < 500 and code not in ("idempotency_key_in_flight", "busy"):
                    return answer
                if answer.status_code == 500:
                    with self.story.lock:
                        self.story.broken.append(f"500 for {path}: {answer.text}")
                    return None
            time.sleep(0.02)
        raise AssertionError(f"no answer to {path} in 120 s")


@contextmanager
def load(
    place: Home,
    story: Story,
    seed: int,
    rest_seconds: float = 30.0,
    jobs: Callable[[], list[str]] = list,
) -> Iterator[None]:
    """Clients at work under what the block does; all of it must come to rest afterwards.

    `jobs`: those of an engine, of which none may stay.
    """
    with place.serve() as service:
        story.experiments = [service.open() for _ in range(EXPERIMENTS)]
        place.experiment = story.experiments[0]
        service.kill()
    clients = [Client(story, place, f"{seed}/{n}") for n in range(CLIENTS)]
    for client in clients:
        client.start()
    yield
    with place.serve() as service:
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join(150)
            client.http.close()
        come_to_rest(service, story, rest_seconds)
        try:  # the supervisor looks once a minute for jobs that no run wants
            wait_until(lambda: not jobs(), "every job has ended", rest_seconds, 0.2)
        except AssertionError:
            story.broken += [f"job left: {each}" for each in jobs()]
        check_replays(clients[0], story)


def storm(
    directory: Path, kills: int, seed: int, minutes: float | None = None, **settings: str
) -> Story:
    """Kill servers, agents and trainers `kills` times (or for `minutes`) under load."""
    dice = random.Random(seed)
    story = Story()
    with home(directory, **RECIPES) as place:
        place.settings |= {"MAX_LOCAL_RUNS": "3", "EXTERNAL_GRACE_SECONDS": "1"} | settings
        until = None if minutes is None else time.monotonic() + 60 * minutes

        def more() -> bool:
            if until is not None:
                return time.monotonic() < until
            return sum(story.kills.values()) < kills

        with load(place, story, seed):
            while more():
                since = time.monotonic()
                with place.serve() as service:
                    story.slowest_start = max(story.slowest_start, time.monotonic() - since)
                    while True:
                        time.sleep(dice.uniform(0.0, 0.8))
                        victim = dice.choice(("server", "server", "trainer", "agent"))
                        if victim == "server" or not more():
                            service.kill()
                            story.kills["server"] += 1
                            break
                        story.kills[victim] += kill_one(directory, victim, dice)
    return story


def kill_one(directory: Path, victim: str, dice: random.Random) -> int:
    """kill -9 to an agent, or to a process below one."""
    found = []
    for process in orphans(directory):
        with suppress(psutil.Error):
            is_agent = "agent.main" in " ".join(process.cmdline())
            if is_agent == (victim == "agent"):
                found.append(process)
    if not found:
        return 0
    with suppress(ProcessLookupError):
        os.kill(dice.choice(found).pid, signal.SIGKILL)
    return 1


def come_to_rest(service: Service, story: Story, seconds: float) -> None:
    """Cancel what is not over; whatever is not over then is stuck."""

    left = [f"/experiments/{r['experiment_id']}/runs/{r['run_id']}" for r in story.runs.values()]

    def live() -> list[str]:
        left[:] = [at for at in left if service.get(at + "/status")["status"] not in TERMINAL]
        return left

    for at in live():
        service.post(at + "/cancel")
    try:
        wait_until(lambda: not live(), "every run is over", seconds)
    except AssertionError:
        story.broken += [f"stuck: {each} {service.get(each + '/status')}" for each in live()]
    try:
        wait_until(lambda: not orphans(service.home), "every process is gone")
    except AssertionError:
        story.broken += [f"orphan: {each}" for each in orphans(service.home)]


def check_replays(client: Client, story: Story) -> None:
    """Every request once more: each must get the answer that it got."""
    with httpx.Client(timeout=20) as client.http:
        for old in list(story.acknowledged):
            answer = client.insist(old.key, old.path, old.body, old.headers)
            same = answer is not None and (answer.status_code, answer.content) == (
                old.status, old.content,
            )  # fmt: skip
            if not same:
                story.broken.append(f"{old.kind} {old.key}: another answer than the first")
