"""The daily commands against a real service: submit, look, steer, export; exit codes and --json."""

import csv
import io
import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support import commands
from tests.support.commands import Done
from tests.support.dashboard import external
from tests.support.server import (
    PATIENCE_SECONDS,
    REPOSITORY,
    Server,
    end_trainers,
    running_server,
    wait_until,
)

SLOW = ("-p", "steps=100000", "-p", "step_delay_ms=5")
Llm = Callable[..., Done]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("daily")
    with running_server(place) as server:
        yield server
    end_trainers(place / "data")


@pytest.fixture
def llm(served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Llm:
    """A command of somebody who has no login."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return lambda *arguments: commands.llm_train(*arguments, API_URL=served.url)


@pytest.fixture(scope="module")
def finished(served: Server) -> str:
    """A run that has succeeded, named `first`."""
    given = ("-r", "demo", "-p", "steps=40", "-p", "learning_rate=3e-3", "--name", "first")
    done = commands.llm_train("submit", *given, "--tag", "a", "--wait", API_URL=served.url)
    assert (done.status, done.err.split()[0]) == (0, "succeeded")
    return done.out.strip()


def process(served: Server, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "app.cli.main", *arguments]
    environment = os.environ | {"LLM_TRAIN_API_URL": served.url}
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, timeout=60, check=False
    )


def document(done: Done) -> Any:
    assert done.status == 0, done.err
    return json.loads(done.out)


def test_a_run_is_named_in_four_ways(llm: Llm, finished: str) -> None:
    for name in (finished, finished[-6:], finished[-6:].upper(), "first", "@last:succeeded"):
        expected = 3 if name.isupper() and name.lower() != name else 0
        done = llm("show", name, "--json")
        assert done.status == expected, name
        if not expected:
            assert json.loads(done.out)["run_id"] == finished


def test_what_is_not_there_and_what_is_ambiguous_is_exit_code_3(llm: Llm, finished: str) -> None:
    for _ in range(2):
        assert llm("submit", "-e", "twins", "--name", "twin").status == 0
    for name in (
        "nothing",
        "run_0cc4q1x3h7p2n4s6v8y0c1e3gj",
        "zzzz",
        "@last:failed",
        "twin",
        "a\0",
    ):
        done = llm("show", name)
        assert (done.status, done.out) == (3 if "\0" not in name else 1, "")
        assert done.err.startswith("llm-train: ") and done.err.count("\n") == 1


def test_an_override_without_a_receipt_says_whether_one_may_come(llm: Llm) -> None:
    parent = document(llm("submit", "-e", "receipts", "--json"))
    path = f"/ckpts/{parent['experiment_id']}/{parent['run_id']}/step-1"
    child = llm("resume", parent["run_id"], "--from", path, "-p", "lr=0.1").out.strip()
    assert "0.1 (not reported yet)" in llm("show", child).out
    assert llm("cancel", child).status == 0
    assert "0.1 (not reported by the trainer)" in llm("show", child).out


def test_runs_are_listed_plainly_where_nobody_looks(llm: Llm, finished: str) -> None:
    done = llm("ls", "-s", "succeeded", "-t", "a")
    head, row = done.out.splitlines()
    assert head.split() == ["RUN", "STATUS", "STEP", "LOSS", "AGE", "MODEL", "NAME"]
    assert row.split()[:3] == [finished[-6:], "succeeded", "40/40"] and row.endswith("first")
    assert "\x1b" not in done.out
    assert llm("ls", "-q", "-t", "a").out == f"{finished}\n"
    (only,) = document(llm("ls", "-t", "a", "--json"))
    assert only["run_id"] == finished


def test_a_name_cannot_speak_to_the_terminal(llm: Llm) -> None:
    assert llm("submit", "-e", "evil", "--name", "\x1b[2Jgone\x9b31m").status == 0
    for command in (("ls",), ("show", "@last")):
        done = llm(*command)
        assert done.status == 0 and "\x1b" not in done.out and "\x9b" not in done.out


def test_a_run_is_cancelled_resumed_and_marked(llm: Llm, served: Server) -> None:
    first = llm("submit", "-r", "demo", *SLOW, "--notes", "to be stopped").out.strip()
    wait_until(lambda: document(llm("show", first, "--json"))["metrics"], "a report")
    done = llm("cancel", first, "--json")
    (told,) = document(done)
    assert told["status"] == "cancelled" and told["checkpoint"]["ckpt_path"]
    steps = document(llm("show", first, "--json"))["step"] + 10
    given = ("-p", f"steps={steps}", "-p", "step_delay_ms=0")
    done = llm("resume", first[-8:], *given, "--wait", "--json")
    child = document(done)
    assert child["parent_run_id"] == first
    assert child["overrides"]["steps"]["requested"] == steps
    marked = document(llm("mark", child["run_id"], "candidate", "-k", "val=0.5", "--json"))
    assert (marked["tag_type"], marked["metrics"]) == ("candidate", {"val": 0.5})
    assert llm("cancel", child["run_id"]).status == 1, "it has ended"
    shown = llm("diff", first, child["run_id"]).out.splitlines()
    assert "- hyperparams.steps: 100000" in shown and f"+ hyperparams.steps: {steps}" in shown
    compared = document(llm("compare", first, child["run_id"], "--json"))
    given_keys = {row["key"] for row in compared["params"] if row["section"] == "hyperparams"}
    assert given_keys == {"steps", "step_delay_ms"}  # whose source has come is another matter
    assert llm("update", first, "--archive", "--name", "old").status == 0
    assert first not in llm("ls", "-q", "-n", "1000").out
    assert first in llm("ls", "-q", "-n", "1000", "--all").out
    assert document(llm("show", "old", "--json"))["run_id"] == first
    for _ in range(2):
        assert llm("update", first, "--restore").status == 0
        assert first in llm("ls", "-q", "-n", "1000").out
    live = llm("submit", "-e", "archive").out.strip()
    refused = llm("update", live, "--archive")
    assert refused.status == 1 and "cancel it before it is archived" in refused.err
    assert live in llm("ls", "-q", "-n", "1000").out


def test_the_outcome_is_the_exit_code(llm: Llm, served: Server) -> None:
    failed = llm("submit", "-r", "demo", "-p", "steps=-1", "--wait")
    assert failed.status == 4 and "failed" in failed.err
    run = llm("submit", "-r", "demo", *SLOW).out.strip()
    watching = subprocess.Popen(
        [sys.executable, "-m", "app.cli.main", "watch", run], cwd=REPOSITORY,
        env=os.environ | {"LLM_TRAIN_API_URL": served.url}, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert watching.stdout is not None and watching.stdout.readline()
    assert llm("cancel", run).status == 0
    assert watching.wait(PATIENCE_SECONDS) == 5
    watching.stdout.close()


def test_a_log_is_printed_followed_and_its_end_asked_for(served: Server, finished: str) -> None:
    whole = process(served, "logs", finished, "-n", "-1").stdout
    assert whole and process(served, "logs", finished, "-n", "2").stdout == b"".join(
        whole.splitlines(keepends=True)[-2:]
    )
    followed = process(served, "logs", "-f", "-n", "-1", finished)
    assert (followed.returncode, followed.stdout) == (0, whole)


def test_every_point_is_exported(llm: Llm, finished: str, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(llm("export", finished, "-k", "loss").out)))
    assert [int(row["step"]) for row in rows] == list(range(1, 41))
    file = tmp_path / "m.jsonl"
    assert llm("export", finished, "-k", "loss", "-o", str(file)).status == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["value"] for line in lines] == [float(row["value"]) for row in rows]
    done = llm("export", finished, "-o", str(tmp_path / "m.parquet"))
    if find_spec("pyarrow") is None:
        assert done.status == 1 and "pip install pyarrow" in done.err
    else:
        read: Any = import_module("pyarrow.parquet").read_table
        assert read(tmp_path / "m.parquet").num_rows >= 40


def test_an_export_is_exact_also_where_a_spreadsheet_would_compute(
    served: Server, llm: Llm, finished: str
) -> None:
    """It is for programs; the table of usage is what people open in a spreadsheet."""
    experiment = document(llm("show", finished, "--json"))["experiment_id"]
    trainer = external(served.url, experiment)
    trainer.points("=1+1", [1, 2], [-0.5, 2.0])
    rows = list(csv.DictReader(io.StringIO(llm("export", trainer.run).out)))
    assert [(row["key"], row["value"]) for row in rows] == [("=1+1", "-0.5"), ("=1+1", "2.0")]


def test_recipes_and_experiments_are_listed(llm: Llm, finished: str) -> None:
    assert any(row["name"] == "demo" for row in document(llm("recipes", "--json")))
    assert any(row["name"] == "demo" for row in document(llm("experiments", "--json")))
    assert llm("recipes").out.startswith("RECIPE")


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["submit"], 2),
        (["submit", "-r", "demo", "-p", "lr"], 2),
        (["submit", "-r", "demo", "-p", "lr=NaN"], 2),
        (["submit", "-r", "no-such-recipe"], 1),
        (["ls", "-s", "sleeping"], 2),
        (["update", "first"], 2),
        (["mark", "first", "NOT A SLUG"], 1),
    ],
)
def test_a_wrong_command_is_said_to_be_wrong(
    llm: Llm, finished: str, arguments: list[str], status: int
) -> None:
    done = llm(*arguments)
    assert (done.status, done.out, done.err.count("\n")) == (status, "", 1)


def test_where_no_service_answers_the_exit_code_is_6(llm: Llm) -> None:
    done = commands.llm_train("ls", API_URL="http://127.0.0.1:9")
    assert done.status == 6 and "LLM_TRAIN_API_URL" in done.err
    assert commands.llm_train("ls", API_URL="ftp://x").status == 1


def test_a_login_is_kept_for_this_user_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "a-token-of-some-length"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    with running_server(tmp_path, api_token=token) as server:
        assert commands.llm_train("login", server.url, "--token", "a-wrong-token-here").status == 1
        assert commands.llm_train("ls", API_URL=server.url).status == 1
        assert commands.llm_train("login", server.url, "--token", token).status == 0
        file = tmp_path / "config/llm-train/login.json"
        assert file.stat().st_mode & 0o777 == 0o600
        assert commands.llm_train("ls").status == 0
        # The token goes to no other service.
        other = commands.llm_train("ls", API_URL=server.url.replace("127.0.0.1", "localhost"))
        assert other.status == 1
        assert commands.llm_train("login", "--forget").status == 0 and not file.exists()


def test_who_answers_no_question_has_done_nothing(
    served: Server, finished: str, tmp_path: Path
) -> None:
    """Ctrl-D on a real terminal, and a file that has ended: exit code 1, as from other commands."""
    for arguments, asked in ((["delete", finished], "Delete?"), (["login", served.url], "token")):
        status, shown = at_a_terminal(served, tmp_path, arguments, asked, b"\x04")
        assert status == 1, shown
        assert "nothing was done" in shown
    status, shown = at_a_terminal(served, tmp_path, ["delete", finished], "Delete?", b"\x03")
    assert status == -signal.SIGINT, shown  # which a shell tells as 130
    status, shown = at_a_terminal(served, tmp_path, ["login", served.url], "token", b"\x03")
    assert status == 130, shown
    assert process(served, "delete", finished).returncode == 1  # its stdin has ended
    assert process(served, "show", finished).returncode == 0


def at_a_terminal(
    served: Server, home: Path, arguments: list[str], asked: str, typed: bytes
) -> tuple[int, str]:
    """Run a command on a terminal of its own and type something where it asks."""
    ours, theirs = pty.openpty()
    # A session's first terminal is the one that a password is asked for on.
    line = 'exec "$0" -m app.cli.main "$@" < "$TERMINAL" > "$TERMINAL" 2>&1'
    environment = os.environ | {
        "LLM_TRAIN_API_URL": served.url,
        "XDG_CONFIG_HOME": str(home),
        "TERMINAL": os.ttyname(theirs),
    }
    command = ["sh", "-c", line, sys.executable, *arguments]
    shown = b""
    with subprocess.Popen(
        command, cwd=REPOSITORY, env=environment, start_new_session=True
    ) as child:
        try:
            while child.poll() is None:
                if select.select([ours], [], [], 0.1)[0]:
                    shown += os.read(ours, 4096)
                if typed and asked.encode() in shown:
                    if asked == "token":  # what came before the echo ended would be lost
                        wait_until(lambda: not _echoes(theirs), "it reads")
                    os.write(ours, typed)
                    typed = b""
            while select.select([ours], [], [], 0)[0]:
                shown += os.read(ours, 4096)
        finally:
            os.close(theirs)
            os.close(ours)
    return child.returncode, shown.decode()


def _echoes(terminal: int) -> bool:
    """True if what is typed is shown; while a token is typed it is not."""
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


def test_a_shell_completes_live_ids_and_recipes(served: Server, finished: str) -> None:
    script = process(served, "completion", "bash").stdout.decode()
    assert "_LLM_TRAIN_COMPLETE=bash_complete" in script

    def completed(words: str) -> str:
        environment = os.environ | {
            "LLM_TRAIN_API_URL": served.url, "_LLM_TRAIN_COMPLETE": "bash_complete",
            "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1),
        }  # fmt: skip
        command = [Path(sys.executable).with_name("llm-train")]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        ).stdout

    assert f"plain,{finished[-6:]}" in completed("llm-train show ")
    assert "plain,demo" in completed("llm-train submit -r d")
    assert "plain,compare" in completed("llm-train comp")


def test_a_run_is_submitted_again_as_it_was(llm: Llm, finished: str) -> None:
    again = document(llm("rerun", finished, "--json"))
    before = document(llm("show", finished, "--json"))
    assert again["run_id"] != finished
    for name in ("model", "recipe", "dataset", "hyperparams", "resources", "name", "tags"):
        assert again[name] == before[name], name
    llm("cancel", again["run_id"])
    llm("update", again["run_id"], "--name", "again")  # `first` is one run's name for the rest
