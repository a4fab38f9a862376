"""The page of the command line is true: its commands can be given, its exit codes are those.

The commands that other pages name exist as well, with their options.
"""

import re
import shlex

import click
import pytest

from app.cli.errors import Exit
from app.cli.main import COMMANDS, cli
from app.web import guide
from tests.support.pages import PAGES

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


@pytest.mark.parametrize("page", PAGES)
def test_every_command_that_a_page_names_exists_with_its_options(page: str) -> None:
    """Of a command in the text only a part may be given, so nothing but the names is compared."""
    named = re.findall(r"(?m)(?:`|^)llm-train ([a-z][^`#\n]*)", PAGES[page])
    for words in map(str.split, named):
        command: click.Command | None = cli
        while isinstance(command, click.Group) and words:
            command = command.get_command(click.Context(command), words.pop(0))
        assert command is not None, named
        options = {
            name
            for parameter in command.params
            for name in (*parameter.opts, *parameter.secondary_opts)
        }
        used = {word for word in words if re.match(r"-{1,2}[a-z]", word)}
        assert used <= options, f"{command.name}: {used - options}"


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
