"""The command line on a real terminal: tables that fit, runs that go on before one's eyes."""

import json
import re
from collections.abc import Iterator

import pytest

from tests.support.commands import llm_train
from tests.support.server import Server, end_trainers, running_server, wait_until
from tests.support.terminal import on_terminal

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
CURSOR_BACK = "\x1b[?25h"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("terminal")
    with running_server(place) as server:
        given = ("-e", "looked at", "-m", "a-model-with-quite-a-long-name-" * 3)
        llm_train("submit", *given, "--name", "[red]no markup[/red]", API_URL=server.url)
        yield server
    end_trainers(place / "data")


@pytest.fixture(scope="module")
def endless(served: Server) -> str:
    """A run that goes on and on, and has printed something."""
    given = ("-r", "demo", "-p", "steps=100000", "-p", "step_delay_ms=5")
    run = llm_train("submit", *given, API_URL=served.url).out.strip()
    wait_until(
        lambda: llm_train("logs", run, "--json", API_URL=served.url).out, "it has printed a line"
    )
    return run


def plain(screen: str) -> list[str]:
    return ESCAPE.sub("", screen).replace("\r", "").splitlines()


@pytest.mark.parametrize("columns", [60, 200])
def test_a_table_is_as_wide_as_the_terminal_and_has_colours(served: Server, columns: int) -> None:
    shown = on_terminal("ls", columns=columns, url=served.url)
    assert shown.status == 0
    head, row = plain(shown.screen)
    assert head.split()[:2] == ["RUN", "STATUS"]
    assert len(row.rstrip()) <= columns
    assert ("…" in row) == (columns == 60)
    assert "\x1b[1m" in shown.screen and "\x1b[33mqueued" in shown.screen
    if columns == 200:
        assert "[red]no markup[/red]" in row


def test_what_is_read_by_programs_is_the_same_on_a_terminal(served: Server) -> None:
    shown = on_terminal("ls", "--json", url=served.url)
    assert "\x1b" not in shown.screen
    assert json.loads(shown.screen)[0]["name"] == "[red]no markup[/red]"


def test_a_run_is_watched_to_its_end_in_one_place(served: Server) -> None:
    given = ("-r", "demo", "-p", "steps=60", "-p", "step_delay_ms=20", "--name", "seen")
    run = llm_train("submit", *given, API_URL=served.url).out.strip()
    shown = on_terminal("watch", run, url=served.url)
    assert shown.status == 0
    lines = plain(shown.screen)
    assert "60 of 60 steps" in lines[-2] or any("60 of 60 steps" in line for line in lines[-16:])
    assert any(line.startswith("loss") for line in lines)
    assert shown.screen.count("\x1b[1A") > 5, "it is drawn in its own place"
    assert CURSOR_BACK in shown.screen[shown.screen.rindex("60 of 60") :]


def test_ctrl_c_ends_a_live_list_and_gives_the_cursor_back(served: Server) -> None:
    shown = on_terminal(
        "ls", "-w", url=served.url, interrupt=lambda screen: screen.count("STATUS") > 1
    )
    assert shown.status == 130
    assert shown.screen.rindex(CURSOR_BACK) > shown.screen.rindex("\x1b[?25l")


@pytest.mark.parametrize(
    ("command", "seen"),
    [
        ("watch RUN", "of 100000 steps"),
        ("watch RUN --json", '"run_id"'),
        ("logs -f RUN", "\n"),
        ("submit -r demo -p steps=100000 -p step_delay_ms=5 --wait", "run_"),
        ("ls -w --json", '"run_id"'),
        ("login", "API token"),
    ],
)
def test_ctrl_c_is_exit_code_130_and_leaves_the_terminal_as_it_was(
    served: Server, endless: str, command: str, seen: str
) -> None:
    arguments = command.replace("RUN", endless).split()
    shown = on_terminal(*arguments, url=served.url, interrupt=lambda screen: seen in screen)
    assert (shown.status, shown.echoes) == (130, True), shown.screen


def test_streams_of_json_have_a_document_on_each_line(served: Server) -> None:
    given = ("-r", "demo", "-p", "steps=40", "-p", "step_delay_ms=10")
    run = llm_train("submit", *given, API_URL=served.url).out.strip()
    watched = llm_train("watch", run, "--json", API_URL=served.url)
    told = [json.loads(line) for line in watched.out.splitlines()]
    assert (watched.status, told[-1]["status"], told[-1]["step"]) == (0, "succeeded", 40)
    assert [row["step"] for row in told] == sorted(row["step"] for row in told)
    assert {row["run_id"] for row in told} == {run}
    logs = llm_train("logs", run, "--json", "-n", "-1", API_URL=served.url)
    lines = [json.loads(line)["line"] for line in logs.out.splitlines()]
    assert logs.status == 0 and lines
    (last,) = llm_train("logs", run, "--json", "-n", "1", "-f", API_URL=served.url).out.splitlines()
    assert json.loads(last)["line"] == lines[-1]
    failed = llm_train("submit", "-r", "demo", "-p", "steps=-1", API_URL=served.url).out.strip()
    assert llm_train("watch", failed, "--json", API_URL=served.url).status == 4
