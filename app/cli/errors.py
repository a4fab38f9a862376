"""Failures of commands: one line on stderr, and an exit code.

0 done · 1 refused · 2 usage · 3 not found · 4 the run failed · 5 the run was cancelled · 6 the
service does not answer · 130 Ctrl-C
"""

from enum import IntEnum
from typing import IO, Any

import click


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    NOT_FOUND = 3
    RUN_FAILED = 4
    RUN_CANCELLED = 5
    NO_SERVICE = 6


class Refused(click.ClickException):
    """The command cannot do what it was asked to; the message says why, in one line."""

    def __init__(self, message: object, code: Exit = Exit.REFUSED) -> None:
        super().__init__(str(message))
        self.code = code

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the message on stderr."""
        click.echo(f"llm-train: {self.message}", err=True, file=file)


def show_usage_error(error: click.UsageError) -> None:
    """Print what is wrong with the command line in one line."""
    path = error.ctx.command_path if error.ctx else "llm-train"
    message = error.format_message().rstrip(".")
    click.echo(f"{path}: {message}; see {path} --help", err=True)
