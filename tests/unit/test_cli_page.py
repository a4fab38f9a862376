"""The page of the command line is true: its commands can be given, its exit codes are those."""

import re
import shlex

import click
import pytest

from app.cli.errors import Exit
from app.cli.main import COMMANDS, cli
from app.web import guide

PAGE = guide.read("cli")
LINES = [
    line.partition("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    for line in block.splitlines()
]


@pytest.mark.parametrize("line", LINES)
def test_every_command_of_the_page_can_be_given(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "llm-train"
    context = cli.make_context(program, list(words))
    name, command, rest = cli.resolve_command(context, words)
    assert command is not None and name is not None
    command.make_context(name, rest, parent=context)


def test_the_page_tells_every_exit_code() -> None:
    told = {
        int(code) for row in re.findall(r"^\| ([\d, ]+) \|", PAGE, re.M) for code in row.split(",")
    }
    assert told == {*map(int, Exit), 130}


def test_every_command_has_a_help_and_is_listed_once() -> None:
    names = [name for group in COMMANDS.values() for name in group]
    assert len(names) == len(set(names))
    for name in names:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None and command.name == name and command.help
