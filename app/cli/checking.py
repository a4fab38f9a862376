"""`llm-train launchers`: is what a recipe's launcher needs there? A tiny real run says so.

    engine → submit → claim → pulse → log → stop → store, a line for each step

A service of its own runs for it, on a free port, with a database and a data directory that are
removed afterwards: the check needs no running service, and disturbs none. Launchers and stores are
those of the operator's file.
"""

import json
import os
import re
import secrets
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import click

from app.cli.errors import Refused

T = TypeVar("T")
_RECIPE = "launcher-check"
# Standard library only: nothing is installed for it. Asked to stop, it saves what a resume could
# start from, by the protocol of app/sdk/llm_train/checkpoint.py.
_TRAINER = """
import hashlib, json, os, signal, sys, time
stops = []
signal.signal(signal.SIGTERM, lambda *_: stops.append(1))
run = os.environ["LLM_TRAIN_RUN_DIR"]
spec = json.load(open(os.path.join(run, "spec.json")))
print("the trainer of the check runs on " + os.uname().nodename, flush=True)
until = time.monotonic() + 600
while not stops and time.monotonic() < until:
    time.sleep(0.1)
content = b"what a trainer saves"
folder = os.path.join(spec["checkpoint_dir"], spec["stop_checkpoint"])
os.makedirs(folder + ".tmp-check")
open(os.path.join(folder + ".tmp-check", "state.bin"), "wb").write(content)
listed = {"path": "state.bin", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
manifest = {"format": 1, "step": 1, "created_at": "2026-01-01T00:00:00Z", "files": [listed]}
json.dump(manifest, open(os.path.join(folder + ".tmp-check", "manifest.json"), "w"))
os.rename(folder + ".tmp-check", folder)
print("saved", flush=True)
"""


@click.group()
def launchers() -> None:
    """Look after the launchers of LLM_TRAIN_RECIPES."""


@launchers.command()
@click.argument("name")
@click.option(
    "--wait", type=click.FloatRange(min=1), default=300.0, show_default=True,
    help="Seconds for which a step may take; the cluster's queue is one.",
)  # fmt: skip
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=0,
    help="The port of the service of this check, which the nodes must reach; 0: a free one.",
)  # fmt: skip
def check(name: str, wait: float, port: int) -> None:
    """Run a tiny job end to end on the launcher NAME, and say what is wrong."""
    from app.domain.paths import parse as parse_path
    from app.domain.recipe_file import read_configuration
    from app.domain.recipes import RecipeError
    from app.launchers import make_launcher
    from app.launchers.base import LauncherContext
    from app.settings import load_settings
    from app.storage import get_storage

    settings = load_settings()
    try:
        configured = read_configuration(settings.recipes)
        tables = configured.launchers
        if name not in tables:
            raise Refused(f"there is no [launchers.{name}]; there are: {', '.join(sorted(tables))}")
        launcher = make_launcher(tables[name], LauncherContext(settings.data_dir, os.environ))
    except RecipeError as error:
        raise Refused(error) from error
    _tell("engine", lambda: _describe(launcher))
    port = port or _find_free_port()
    url, token = f"http://127.0.0.1:{port}", secrets.token_urlsafe(24)
    public = _public_url(settings.public_url, port) or url
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    # Below the data directory, for the launchers whose nodes share that.
    with tempfile.TemporaryDirectory(prefix="check-", dir=settings.data_dir) as name_of_folder:
        folder = Path(name_of_folder).absolute()
        (folder / "recipes.toml").write_text(_make_recipes(settings.recipes, name))
        environment = {
            "RECIPES": str(folder / "recipes.toml"), "DATA_DIR": str(folder / "data"),
            "DATABASE_URL": f"sqlite:///{folder / 'check.db'}", "STORAGE": settings.storage,
            "HOST": "127.0.0.1" if public == url else "0.0.0.0",  # noqa: S104 - the nodes' way
            "PORT": str(port), "PUBLIC_URL": public, "API_TOKEN": token,
        }  # fmt: skip
        with _serving(environment, _Api(url, token), folder / "log") as api:
            saved = _run(api, wait, public, folder / "check.db", launcher)
        storage = get_storage(settings.storage, folder / "data", configured.stores)
        path = parse_path(saved)
        storage.delete(path, storage.manifest(path).sha256)  # a bucket is not the folder's
    click.echo(f"{name} works.")


class _Wrong(Exception):
    """A failed check, in one sentence."""


def _tell(step: str, work: Callable[[], str]) -> None:
    """Print the line of one step. Raises Refused where it fails."""
    began = time.monotonic()
    try:
        told = work()
    except Exception as error:
        words = str(error).strip() or type(error).__name__
        click.echo(f"{step:<8}wrong   {words}")
        raise Refused(f"the check ended at the step {step!r}") from error
    click.echo(f"{step:<8}ok      {told} ({time.monotonic() - began:.1f} s)")


def _describe(launcher: Any) -> str:
    capacity = launcher.offer()
    kind = type(launcher).__name__
    if capacity is None:
        return f"{kind} answers, and has a queue of its own."
    return (
        f"{kind} answers: {capacity.cpus:g} CPUs, {capacity.memory_gb:.0f} GB, "
        f"{len(capacity.gpus)} GPUs."
    )


class _CheckedRun:
    """One run that is taken through its life, a step a method. Each returns the step's sentence.

    A step raises _Wrong with what was seen last.
    """

    def __init__(self, api: "_Api", wait: float, public: str, database: Path) -> None:
        """Submit the run. A step may take `wait` seconds; nodes reach the service at `public`."""
        self._api, self._wait, self._public, self._database = api, wait, public, database
        body: dict[str, Any] = {"name": "check", "task_type": "check"}
        made = api.call("POST", "/v1/experiments", body)
        self._experiment = f"/v1/experiments/{made['experiment_id']}"
        body = {"model": "none", "recipe": _RECIPE}
        runs = f"{self._experiment}/runs"
        self._path = f"{runs}/{api.call('POST', runs, body)['run_id']}"
        self.saved = ""  # the path of its checkpoint, once `store` has found it

    def submit(self) -> str:
        """Wait until the launcher has taken the job."""
        now = self._wait_until(lambda now: now["attempt"] > 0 or now["status"] != "queued")
        return _explain(now) if now["status"] == "queued" else "The job is with the launcher."

    def claim(self) -> str:
        """Wait until an agent has claimed the attempt."""
        unheard = f"No agent has claimed the run at {self._public}. "
        now = self._wait_until(lambda now: now["status"] != "queued", unheard)
        if now["status"] == "failed":
            raise _Wrong(_explain(now))
        return f"An agent has claimed the run at {self._public}."

    def pulse(self) -> str:
        """Wait until the agent has said that it lives, beside its trainer."""
        known = _wait_until(
            lambda: _get_pulse(self._database),
            lambda pulse: pulse is None or bool(pulse),
            self._wait,
            lambda _: f"The agent is silent; the run: {_explain(self._status())}",
        )
        if known is None:
            return "The agent shares this service's files, and is seen there."
        return f"The agent said that it lives after {known:.1f} s."

    def log(self) -> str:
        """Wait until the trainer's output has come."""
        output = _wait_until(
            lambda: str(self._api.call("GET", f"{self._path}/logs", is_text=True)),
            lambda text: "the trainer of the check runs on" in text,
            self._wait,
            lambda text: f"No output has come; the run: {_explain(self._status())}",
        )
        return f"{output.splitlines()[-1]}."

    def stop(self) -> str:
        """Cancel the run, and wait until it has ended."""
        self._api.call("POST", f"{self._path}/cancel", {})
        now = self._wait_until(lambda now: now["status"] == "cancelled")
        return f"The trainer has heard it and ended: {_explain(now)}"

    def store(self) -> str:
        """Find the checkpoint that the cancelled trainer has saved."""
        checkpoints = self._api.call("GET", f"{self._experiment}/detail")["checkpoints"]
        ready = [
            checkpoint["ckpt_path"] for checkpoint in checkpoints if checkpoint["state"] == "ready"
        ]
        if not ready:
            states = [f"{saved['state']}: {saved.get('state_reason')}" for saved in checkpoints]
            raise _Wrong(f"No checkpoint has arrived ({'; '.join(states) or 'none'}).")
        self.saved = ready[0]
        return f"{self.saved} has arrived and is verified."

    def end(self, launcher: Any) -> None:
        """Cancel the run after a step that failed: its job must not stay, claimed or not."""
        from app.launchers.base import Key

        with suppress(Exception):
            self._api.call("POST", f"{self._path}/cancel", {})
            now = _wait_until(
                self._status, lambda now: now["finished_at"] is not None, 30, _explain
            )
            if launcher.owns_queue or not launcher.shares_files:  # jobs outlive the service
                launcher.kill([Key(self._path.rpartition("/")[2], max(now["attempt"], 1))])

    def _status(self) -> Any:
        return self._api.call("GET", f"{self._path}/status")

    def _wait_until(self, is_done: Callable[[Any], bool], before: str = "") -> Any:
        return _wait_until(self._status, is_done, self._wait, lambda now: before + _explain(now))


def _explain(status: Any) -> str:
    return str(status["status_detail"] or status["status"])


def _get_pulse(database: Path) -> float | None:
    """Return how long the run's agent says that it has run, 0 before its first pulse; None if the
    run has no attempt that is reached over HTTP."""
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        row = connection.execute("SELECT ran_seconds FROM attempt").fetchone()
    return None if row is None else float(row[0] or 0.0)


def _run(api: "_Api", wait: float, public: str, database: Path, launcher: Any) -> str:
    """Take one run through its life, and tell each step; return the path of its checkpoint."""
    run = _CheckedRun(api, wait, public, database)
    for step in (run.submit, run.claim, run.pulse, run.log, run.stop):
        try:
            _tell(step.__name__, step)
        except Refused:
            run.end(launcher)
            raise
    _tell("store", run.store)
    return run.saved


def _wait_until(
    ask: Callable[[], T], is_done: Callable[[T], bool], seconds: float, words: Callable[[T], str]
) -> T:
    """Ask until it is done. Raises _Wrong with what was seen last."""
    deadline = time.monotonic() + seconds
    while not is_done(now := ask()):
        if time.monotonic() > deadline:
            raise _Wrong(f"Not within {seconds:g} s. {words(now)}")
        time.sleep(0.2)
    return now


class _Api:
    """Requests to the service of the check."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url, self._token = url, token

    def call(self, method: str, path: str, body: object = None, is_text: bool = False) -> Any:
        """Return the JSON, or the text, of an answer."""
        from app.cli import client

        if is_text:
            return client.fetch_text(self._url, self._token, path)
        return client.call(self._url, self._token, method, path, body)


@contextmanager
def _serving(settings: dict[str, str], api: "_Api", log: Path) -> Iterator["_Api"]:
    """Run the service of the check; it ends afterwards, and what it launched with it."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("LLM_TRAIN_")}
    environment |= {f"LLM_TRAIN_{name}": value for name, value in settings.items()}
    with log.open("wb") as output:
        service = subprocess.Popen(
            [sys.executable, "-m", "app.main"], stdin=subprocess.DEVNULL, stdout=output,
            stderr=output, env=environment,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while True:
            with suppress(Exception):
                api.call("GET", "/healthz")
                break
            if service.poll() is not None or time.monotonic() > deadline:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                words = "".join(last).removeprefix("llm-train: ")
                raise Refused(f"the service of the check does not start: {words}")
            time.sleep(0.1)
        yield api
    finally:
        service.terminate()
        try:
            service.wait(20)
        except subprocess.TimeoutExpired:
            service.kill()
            service.wait()


def _make_recipes(file: Path | None, launcher: str) -> str:
    """Return the operator's launchers and stores, and the recipe of the check."""
    text = "" if file is None else file.read_text("utf-8-sig")
    document = tomllib.loads(text)
    kept = {key: document[key] for key in ("launchers", "stores") if key in document}
    lines: list[str] = []
    for kind, tables in kept.items():
        for name, table in tables.items():
            values = [f"{json.dumps(key)} = {_toml(value)}" for key, value in table.items()]
            lines += [f"[{kind}.{json.dumps(name)}]", *values, ""]
    command = json.dumps(["{python}", "-c", _TRAINER])
    lines += [
        f"[recipes.{_RECIPE}]", f"command = {command}", f"launcher = {json.dumps(launcher)}",
        "heartbeat_seconds = 0", "grace_seconds = 30",
    ]  # fmt: skip
    return "\n".join(lines)


def _toml(value: Any) -> str:
    """Return a value of an operator's table as TOML."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _public_url(public: str | None, port: int) -> str | None:
    """Return the operator's public URL with the port of the check."""
    if public is None:
        return None
    host = urlsplit(public).hostname or "127.0.0.1"
    return f"http://{f'[{host}]' if re.search(':', host) else host}:{port}"


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
        return port
