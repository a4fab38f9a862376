"""`llm-train`: the command line, a module for each group of commands.

How to add a command:
1. write it with `@click.command()` in the module of its group, or in a new one; a module imports
   what is heavy inside its commands, since every start pays for it;
2. add it to COMMANDS; its name is the function's, with `-` for `_`;
3. what it refuses is raised as `Refused` (app/cli/errors.py), which knows the exit codes.
"""

import gc
import importlib
import signal
import sys
from collections.abc import Sequence
from keyword import iskeyword
from typing import Any

import click

from app.cli.errors import Exit, Refused, show_usage_error

COMMANDS = {
    "Runs": {
        "submit": "submitting", "ls": "showing", "show": "showing", "watch": "showing",
        "logs": "showing", "cancel": "submitting", "resume": "submitting", "rerun": "submitting",
        "mark": "submitting", "delete": "deleting", "redact": "deleting",
        "update": "submitting", "compare": "showing", "diff": "showing", "export": "exporting",
        "export-release": "exporting",
        "open": "opening", "recipes": "access", "experiments": "access", "login": "access",
        "completion": "access", "mcp": "agents",
    },
    "The team": {
        "user": "team", "token": "team", "project": "projects", "audit": "team", "usage": "team",
    },
    "Alerts and webhooks": {"alerts": "alerting", "webhooks": "alerting"},
    "The service": {
        "serve": "serving", "demo": "serving", "launchers": "checking", "help": "pages",
        "export-schema": "pages",
    },
    "The database and the checkpoints of a service": {
        "migrate": "database", "backup": "database", "restore": "database",
        "verify": "checkpoints", "prune": "checkpoints", "move-checkpoints": "moving",
        "export-checkpoint": "moving", "import-checkpoint": "moving",
    },
    "Other stores": {"import": "importing"},
}  # fmt: skip
"""The module of each command, by the heading it is listed under."""

_MODULES = {name: module for group in COMMANDS.values() for name, module in group.items()}


class Commands(click.Group):
    """Imports the module of a command when that is used."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return every name, in the order of COMMANDS."""
        return list(_MODULES)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Return a command, or None if there is none of this name."""
        if name not in _MODULES:
            return None
        module = importlib.import_module(f"app.cli.{_MODULES[name]}")
        command: click.Command = getattr(
            module, f"{name}_" if iskeyword(name) else name.replace("-", "_")
        )
        return command

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings."""
        for heading, names in COMMANDS.items():
            with formatter.section(heading):
                commands = [(name, self.get_command(context, name)) for name in names]
                formatter.write_dl(
                    [
                        (name, command.get_short_help_str(58))
                        for name, command in commands
                        if command
                    ]
                )


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        from app.version import VERSION  # which reads the disk

        click.echo(f"llm-train {VERSION}")
        context.exit()


@click.command(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
    help="Print the version.",
)  # fmt: skip
def cli() -> None:
    """A control plane for LLM training."""


def main(arguments: Sequence[str] | None = None) -> Any:
    """Run the command line of `llm-train`."""
    # Ctrl-C ends the process at once: a command keeps no state, and `serve` has uvicorn's handler.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # until start-up has made what stays
    try:
        # Commands end by themselves; with `standalone_mode` click would print usage errors in
        # four lines.
        status = cli.main(arguments, prog_name="llm-train", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        status = Exit.USAGE
    except Refused as error:
        error.show()
        status = error.code
    except click.UsageError as error:
        show_usage_error(error)
        status = Exit.USAGE
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except click.Abort as error:
        if isinstance(error.__context__, KeyboardInterrupt):
            status = 130
        else:  # Ctrl-D, or the end of a file, where something was asked
            click.echo(err=True)
            Refused("nobody answered; nothing was done").show()
            status = Exit.REFUSED
    sys.exit(int(status) if isinstance(status, int) else 0)


if __name__ == "__main__":
    main()
