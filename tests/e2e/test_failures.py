"""Each thing that a newcomer can get wrong is one clear line, from real processes."""

import ctypes
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import psutil
import pytest
from sqlalchemy import inspect
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from app.db import migrate
from app.main import bind
from app.settings import load_settings
from tests.support.clock import is_soon
from tests.support.commands import demo_program, llm_train
from tests.support.database import Databases, postgresql_only
from tests.support.forks import start_python
from tests.support.interpreter import run_python
from tests.support.server import (
    PATIENCE_SECONDS,
    REPOSITORY,
    alive,
    end_trainers,
    running_server,
    wait_until,
)

SERVE = ["-m", "app.main"]
CLI = ["-m", "app.cli.main"]
TOKEN = "a-token-of-some-length"
EXPERIMENT = "exp_" + "0" * 26


def environment(tmp_path: Path, **settings: str) -> dict[str, str]:
    """A clean environment with settings: `PORT="1"` is LLM_TRAIN_PORT; lower case is literal."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("LLM_TRAIN_")}
    told = {
        "LLM_TRAIN_PORT": "0",
        "LLM_TRAIN_DATA_DIR": str(tmp_path / "data"),
        "LLM_TRAIN_DATABASE_URL": f"sqlite:///{tmp_path / 'app.db'}",
    }
    return clean | told | {f"LLM_TRAIN_{name}": value for name, value in settings.items()}


def line(command: list[str], env: dict[str, str], status: int = 1, output: str = "") -> str:
    """The one line that a command says on stderr, and nothing else; `output`: but this."""
    done = run_python(*command, environment=env)
    assert done.returncode == status and output in done.stdout, done.stderr
    assert output or not done.stdout
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("llm-train"), done.stderr
    return done.stderr.removesuffix("\n")


Here = Callable[..., str]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    """The line with which a start in this process ends: as `line`, without a process."""

    def start(**settings: str) -> str:
        for name, value in environment(tmp_path, **settings).items():
            if name.startswith("LLM_TRAIN_"):
                monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            bind(load_settings())
        told = ended.value.code
        assert isinstance(told, str) and told.startswith("llm-train: ") and "\n" not in told
        return told

    return start


@pytest.mark.parametrize("command", [SERVE, [*CLI, "serve"]], ids=["app.main", "llm-train serve"])
def test_the_port_is_taken(tmp_path: Path, command: list[str]) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        told = line(command, environment(tmp_path, PORT=port))
    assert f"127.0.0.1:{port}: address already in use" in told and "LLM_TRAIN_PORT" in told


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"HOST": "192.0.2.1", "API_TOKEN": TOKEN}, "192.0.2.1:0: cannot assign requested address"),
        ({"HOST": "no-such-name.invalid", "API_TOKEN": TOKEN}, "no-such-name.invalid:0: "),
        ({"HOST": "0.0.0.0"}, "set LLM_TRAIN_API_TOKEN"),
        ({"HOST": "::"}, "set LLM_TRAIN_API_TOKEN"),
        ({"HOST": ""}, "LLM_TRAIN_HOST: "),
        ({"HOST": "ü..b", "API_TOKEN": TOKEN}, "LLM_TRAIN_HOST: 'ü..b' is no address"),
        ({"HOST": "0.0.0.0", "API_TOKEN": "short"}, "LLM_TRAIN_API_TOKEN: "),
        ({"API_TOKEN": "with spaces inside it"}, "LLM_TRAIN_API_TOKEN: "),
        ({"PORT": "eighty"}, "LLM_TRAIN_PORT: "),
        ({"PORT": "65536"}, "LLM_TRAIN_PORT: "),
        ({"MAX_LOCAL_RUNS": "0"}, "LLM_TRAIN_MAX_LOCAL_RUNS: "),
        ({"LOG_LEVEL": "loud"}, "LLM_TRAIN_LOG_LEVEL: "),
        ({"ALLOWED_HOSTS": "http://a.example"}, "LLM_TRAIN_ALLOWED_HOSTS: 'http://a.example'"),
        ({"ALLOWED_HOSTS": "*"}, "LLM_TRAIN_ALLOWED_HOSTS: '*'"),
        ({"DATABASE_URL": "mysql://x"}, "sqlite:///FILE or postgresql+psycopg://"),
        ({"DATABASE_URL": "sqlite:///:memory:"}, "sqlite:///FILE or postgresql+psycopg://"),
        ({"DATABASE_URL": "sqlite:////no/such/place/app.db"}, "no directory /no/such/place"),
        ({"DATABASE_URL": "postgresql+psycopg://me:geheim@127.0.0.1:1/x"}, "PostgreSQL database"),
        ({"DATABASE_URL": "sqlite:////dev"}, "the database /dev cannot be used: unable to open"),
        ({"DATABASE_URL": "postgresql://h:port/x"}, "PostgreSQL database cannot be used: "),
        ({"DATA_DIR": "/dev/null/data"}, "LLM_TRAIN_DATA_DIR: /dev/null/data: not a directory"),
        ({"DATA_DIR": "/dev/null", "SECRET": "s" * 32}, "_DATA_DIR: /dev/null: not a directory"),
        ({"EXTERNAL_GRACE_SECONDS": "-1"}, "LLM_TRAIN_EXTERNAL_GRACE_SECONDS: "),
        ({"EXTERNAL_HEARTBEAT_SECONDS": "nan"}, "LLM_TRAIN_EXTERNAL_HEARTBEAT_SECONDS: "),
        ({"SECRET": "geheim"}, "LLM_TRAIN_SECRET: "),
        ({"MAX_BODY_BYTES": "1"}, "LLM_TRAIN_MAX_BODY_BYTES: "),
        ({"INTROSPECTION": "maybe"}, "LLM_TRAIN_INTROSPECTION: "),
        ({"RECIPES": "/no/such/recipes.toml"}, "_RECIPES: /no/such/recipes.toml: no such file"),
        ({"RECIPES": "/dev"}, "LLM_TRAIN_RECIPES: /dev: is a directory"),
        ({"RECIPES": sys.executable}, f"LLM_TRAIN_RECIPES: {sys.executable}: not UTF-8"),
        ({"RECIPES": str(REPOSITORY / "README.md")}, "README.md: not valid TOML"),
        ({"FAILPOINT": "launch.spawned:dance"}, "'dance' is no action"),
    ],
    ids=lambda value: "&".join(map("=".join, value.items())) if isinstance(value, dict) else "",
)  # fmt: skip
def test_a_setting_that_cannot_be(here: Here, settings: dict[str, str], expected: str) -> None:
    told = here(**settings)
    assert expected.lower() in told.lower()
    assert "geheim" not in told  # no password in a log


def test_a_variable_that_is_no_setting_is_told_once(tmp_path: Path) -> None:
    told = line(
        [*CLI, "migrate"], environment(tmp_path, DATABSE_URL="x", FRUIT="x"), 0, migrate.HEAD
    )
    assert told == (
        "llm-train: ignored, as no such setting exists: "
        "LLM_TRAIN_DATABSE_URL (did you mean LLM_TRAIN_DATABASE_URL?), LLM_TRAIN_FRUIT"
    )
    assert (tmp_path / "app.db").exists()


def test_a_recipes_file_that_is_wrong_names_the_place(here: Here, tmp_path: Path) -> None:
    file = tmp_path / "recipes.toml"
    file.write_text('[recipes.mine]\ncommand = "train.sh"\n')
    told = here(RECIPES=str(file))
    assert f"{file}: [recipes.mine] command:" in told


def test_a_file_that_is_no_database(here: Here, tmp_path: Path) -> None:
    (tmp_path / "app.db").write_text("Dear diary, " * 1000)
    assert "file is not a database" in here()
    assert (tmp_path / "app.db").read_text().startswith("Dear diary")


def test_a_database_of_a_newer_version_is_left_alone(here: Here, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as database:
        database.execute("CREATE TABLE alembic_version (version_num TEXT)")
        database.execute("INSERT INTO alembic_version VALUES ('9999')")
        database.commit()
    assert "newer version" in here()


def like_anyone() -> None:
    """Takes from root what makes it write where it may not; changes nothing for others."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


STARTS = """
import json, os, sys
from app.main import bind
from app.settings import load_settings
for settings in map(json.loads, sys.argv[1:]):
    os.environ |= settings
    try:
        bind(load_settings())
    except SystemExit as ended:
        print(ended.code)
"""
"""Says how starts with these settings end, each a line."""


def test_places_that_may_not_be_written(tmp_path: Path) -> None:
    sealed, file = tmp_path / "sealed", tmp_path / "sealed.db"
    sealed.mkdir()
    (sealed / "app.db").touch()
    sealed.chmod(0o555)
    file.touch(0o444)
    tried = [
        environment(tmp_path, DATABASE_URL=f"sqlite:///{sealed}/app.db"),
        environment(tmp_path, DATA_DIR=str(sealed), SECRET="s" * 32),
        environment(tmp_path, DATABASE_URL=f"sqlite:///{file}"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", STARTS, *map(json.dumps, tried)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=60, preexec_fn=like_anyone,
    )  # fmt: skip
    database, data_dir, of_file = done.stdout.splitlines()
    assert f"the database {sealed}/app.db cannot be used: Permission denied" in database
    assert f"LLM_TRAIN_DATA_DIR: {sealed}: Permission denied" in data_dir
    assert f"the database {file} cannot be used: Permission denied" in of_file
    assert not done.stderr


def test_a_second_server_on_the_same_database(tmp_path: Path) -> None:
    with running_server(tmp_path):
        told = line(SERVE, environment(tmp_path))
    assert f"{tmp_path}/app.db cannot be used: another server is using it" in told


@pytest.mark.parametrize(
    ("missing", "command", "advice"),
    [
        ("uvicorn", SERVE, "pip install llm-train-api"),
        ("sqlmodel", [*CLI, "serve"], "pip install llm-train-api"),
        ("strawberry", [*CLI, "export-schema"], "pip install llm-train-api"),
        ("numpy", [*CLI, "demo"], "llm-train-api[demo]"),
        ("psycopg", SERVE, "llm-train-api[postgres]"),
        ("opentelemetry.sdk", SERVE, "llm-train-api[otel]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_dependency_is_not_installed(
    tmp_path: Path, missing: str, command: list[str], advice: str
) -> None:
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules[{missing!r}] = None\n")
    asked_for = {
        "psycopg": {"DATABASE_URL": "postgresql+psycopg://127.0.0.1:1/x"},
        "opentelemetry.sdk": {"OTLP_ENDPOINT": "http://127.0.0.1:1"},
    }
    env = environment(tmp_path, **asked_for.get(missing, {})) | {"PYTHONPATH": str(tmp_path)}
    told = line(command, env)
    assert advice in told and (missing in told or missing in asked_for)


def test_extras_that_are_not_installed_are_not_missed_by_the_service(tmp_path: Path) -> None:
    extras = ("psycopg", "numpy", "rich", "opentelemetry.sdk", "opentelemetry.exporter")
    (tmp_path / "sitecustomize.py").write_text(
        f"import sys\nsys.modules |= dict.fromkeys({extras!r})\n"
    )
    with running_server(
        tmp_path, command=("env", f"PYTHONPATH={tmp_path}", sys.executable, *SERVE)
    ) as server:
        assert server.database_url.startswith("sqlite:")


@pytest.mark.parametrize(
    ("arguments", "status", "expected"),
    [
        (["train"], 2, "No such command 'train'"),
        (["serve", "--prot", "1"], 2, "No such option '--prot'"),
        (["serve", "--port", "x"], 2, "'--port': 'x' is not a valid integer"),
        (["serve", "--port", "99999"], 1, "LLM_TRAIN_PORT: "),
        (["migrate", "--to", "9999"], 1, "9999"),
        (["migrate", "--to", "-"], 1, "cannot be migrated"),
        (["migrate", "--to", "base"], 1, "add --yes"),
        (["verify", EXPERIMENT, "--run", "a\0"], 1, "--run: must not hold NUL"),
        (["verify", EXPERIMENT, "--path", "a\udcff"], 1, "--path: Input should be a valid string"),
        (["verify", "exp_\udcff"], 1, r"There is no experiment 'exp_\udcff'."),
        (["export-schema", "--check", "/no/such/schema.graphql"], 1, "is missing or stale"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_command_that_is_wrong(
    sqlite_databases: Databases,
    arguments: list[str],
    status: int,
    expected: str,
) -> None:
    done = llm_train(*arguments, DATABASE_URL=sqlite_databases.migrated())
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith("llm-train") and done.err.count("\n") == 1 and expected in done.err


@pytest.mark.parametrize("arguments", [["verify", EXPERIMENT], ["prune"], ["migrate"]])
def test_a_command_on_a_database_that_cannot_be(arguments: list[str]) -> None:
    done = llm_train(*arguments, DATABASE_URL="mysql://x")
    assert (done.status, done.out) == (1, "")
    assert re.fullmatch(r"llm-train: .*sqlite:///FILE or postgresql.*\n", done.err)


UPKEEP = [["verify", EXPERIMENT], ["prune"], ["prune", "--keep", "1", "--dry-run"]]


def foreign(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


@pytest.mark.parametrize("arguments", UPKEEP, ids=" ".join)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "there is no such file; set LLM_TRAIN_DATABASE_URL"),
        (lambda path: path.touch(), "there are no tables of this service in it; set LLM_TRAIN_DA"),
        (lambda path: foreign(path, "CREATE TABLE notes (text)"), "there are no tables of this s"),
        (
            lambda path: foreign(
                path, "CREATE TABLE alembic_version (version_num); "
                "INSERT INTO alembic_version VALUES ('ab12')",
            ),
            "its schema is ab12",
        ),
        (lambda path: path.write_text("not a database" * 100), "file is not a database"),
    ],
    ids=["none", "empty", "another program's", "another's with migrations", "no database"],
)  # fmt: skip
def test_upkeep_leaves_what_is_no_database_of_ours_as_it_is(
    tmp_path: Path, arguments: list[str], make: Callable[[Path], object], said: str
) -> None:
    file = tmp_path / "app.db"
    make(file)
    before = {each: each.read_bytes() for each in tmp_path.iterdir()}
    done = llm_train(*arguments, DATABASE_URL=f"sqlite:///{file}", DATA_DIR=f"{tmp_path}/data")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith(f"llm-train: the database {file} cannot be used: ")
    assert said in done.err and done.err.count("\n") == 1
    assert {each: each.read_bytes() for each in tmp_path.iterdir()} == before


@postgresql_only
@pytest.mark.parametrize("arguments", UPKEEP, ids=" ".join)
def test_upkeep_makes_no_tables_in_a_postgresql_database(
    tmp_path: Path, empty_database_url: str, arguments: list[str]
) -> None:
    done = llm_train(*arguments, DATABASE_URL=empty_database_url, DATA_DIR=f"{tmp_path}/data")
    assert (done.status, done.out) == (1, "")
    assert "there are no tables of this service" in done.err and done.err.count("\n") == 1
    assert migrate.revision(empty_database_url) is None
    with migrate.in_one_transaction(empty_database_url) as connection:
        assert inspect(connection).get_table_names() == []


def test_a_schema_under_a_server_is_left_alone(tmp_path: Path) -> None:
    with running_server(tmp_path) as server:
        told = line([*CLI, "migrate", "--to", "base", "--yes"], environment(tmp_path))
        assert "another server is using it" in told
        post(f"{server.url}/v1/experiments", {"name": "a", "task_type": "b"})


# Ctrl-C.


def interrupted(
    command: list[str],
    env: dict[str, str],
    ready: Callable[[str], bool],
    within: float,
    how: signal.Signals = signal.SIGINT,
    again: bool = False,
) -> str:
    """Return what a command had printed when Ctrl-C ended it, cleanly and soon.

    `again`: pressed until it has.
    """
    output = Path(env["LLM_TRAIN_DATA_DIR"]).parent / "output"
    with output.open("wb") as file:
        process = start_python(command, REPOSITORY, env | {"PYTHONUNBUFFERED": "1"}, file)
    try:
        wait_until(
            lambda: ready(output.read_text()) or process.poll() is not None,
            lambda: f"it is ready to be interrupted: {output.read_text()}",
        )
        assert process.poll() is None, output.read_text()
        process.send_signal(how)
        began = time.monotonic()
        while again and process.poll() is None and time.monotonic() - began < PATIENCE_SECONDS:
            process.send_signal(how)
            time.sleep(0.01)
        status = process.wait(60)
        assert is_soon(time.monotonic() - began, within)
    finally:
        process.kill()
        process.wait()
    assert status in (0, 130, -signal.SIGINT)
    assert "Traceback" not in output.read_text()
    return output.read_text()


@pytest.mark.parametrize("command", [SERVE, [*CLI, "serve"]], ids=["app.main", "llm-train serve"])
def test_ctrl_c_ends_a_quiet_server(tmp_path: Path, command: list[str]) -> None:
    told = interrupted(command, environment(tmp_path), lambda text: "serving on" in text, 3)
    first, last = (json.loads(each)["message"] for each in told.splitlines())
    assert first.startswith("serving on http://127.0.0.1:")
    assert last.startswith("stopped")


@pytest.mark.parametrize("command", [SERVE, [*CLI, "serve"]], ids=["app.main", "llm-train serve"])
def test_ctrl_c_while_it_is_still_starting(tmp_path: Path, command: list[str]) -> None:
    env = environment(tmp_path) | {"PYTHONVERBOSE": "1"}
    assert interrupted(command, env, lambda text: "import 'fastapi" in text, 3)


@pytest.mark.parametrize(
    ("when", "how", "again"),
    [
        pytest.param("Cancel it half-way", signal.SIGINT, False, marks=pytest.mark.heavy),
        ("Cancel it half-way", signal.SIGTERM, True),
        ("Ctrl-C ends it", signal.SIGINT, False),
    ],
    ids=["in the middle", "by a wrapper that says it again and again", "at the end"],
)
def test_an_interrupted_demo_closes_its_database(
    tmp_path: Path, when: str, how: signal.Signals, again: bool
) -> None:
    try:
        env = environment(tmp_path)
        command = ["-c", demo_program(steps=300)]
        interrupted(command, env, lambda text: when in text, 4, how, again)
        assert sorted(each.name for each in tmp_path.glob("app.db*")) == ["app.db", "app.db-owner"]
    finally:
        end_trainers(tmp_path / "data")


def test_open_streams_and_websockets_do_not_hold_up_the_end(tmp_path: Path) -> None:
    with running_server(tmp_path) as server, ExitStack() as opened:
        experiment = post(f"{server.url}/v1/experiments", {"name": "a", "task_type": "b"})
        runs = f"{server.url}/v1/experiments/{experiment['experiment_id']}/runs"
        run = post(runs, {"model": "m", "recipe": "demo", "resources": {"count": 64}})
        watched = f'subscription {{ run(id: "{run["run_id"]}") {{ status }} }}'
        for path, headers in (
            (
                f"/v1/experiments/{experiment['experiment_id']}/runs/{run['run_id']}/logs?follow=1",
                {},
            ),
            (f"/graphql?{urlencode({'query': watched})}", {"Accept": "text/event-stream"}),
        ):
            client = opened.enter_context(httpx.Client(timeout=60))
            stream = client.stream("GET", server.url + path, headers=headers)
            assert opened.enter_context(stream).status_code == 200
        sock = opened.enter_context(
            connect(
                f"ws{server.url[4:]}/graphql", subprotocols=[Subprotocol("graphql-transport-ws")]
            )
        )
        sock.send('{"type": "connection_init"}')
        assert "connection_ack" in str(sock.recv(20))
        began = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: not alive(server.pid), "it ended")
        assert is_soon(time.monotonic() - began, 10)
    told = [json.loads(each) for each in server.log.read_text().splitlines()]
    assert [each["level"] for each in told] == ["info", "info"], told


def test_reading_checkpoints_for_many_does_not_hold_up_the_end(tmp_path: Path) -> None:
    many = 40  # more than asyncio's own pool has threads, which the end itself needs
    never = tmp_path / "never"
    with (
        running_server(tmp_path, FAILPOINT=f"checkpoint.reading:wait:{never}") as server,
        ThreadPoolExecutor(many) as pool,
    ):
        experiment = post(f"{server.url}/v1/experiments", {"name": "a", "task_type": "b"})
        base = f"{server.url}/v1/experiments/{experiment['experiment_id']}"
        run = post(f"{base}/runs", {"model": "m"})
        path = f"/ckpts/{experiment['experiment_id']}/{run['run_id']}/a"
        marked = {"run_id": run["run_id"], "ckpt_path": path, "tag_type": "candidate"}
        post(f"{base}/checkpoints/mark", marked)
        (server.data_dir / path.lstrip("/")).mkdir(parents=True)
        verify = partial(
            httpx.post, f"{base}/checkpoints/verify", json={}, timeout=30, verify=False
        )
        asked = [pool.submit(verify) for _ in range(many)]
        process = psutil.Process(server.pid)
        wait_until(lambda: len(process.net_connections()) > many, "all are connected")
        httpx.get(f"{server.url}/healthz", timeout=60)  # answered after them
        began = time.monotonic()
        os.kill(server.pid, signal.SIGTERM)
        wait_until(lambda: not alive(server.pid), "it ended")
        assert is_soon(time.monotonic() - began, 10)
        assert all(each.exception(20) or each.result().status_code >= 500 for each in asked)


def post(url: str, body: Any) -> Any:
    # Without `verify=False` each call would load all certificates, for 30 ms and no TLS.
    return httpx.post(url, json=body, timeout=60, verify=False).raise_for_status().json()
