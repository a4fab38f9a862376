"""Commands that set up and look around: `login`, `completion`, `recipes`, `experiments`."""

import json
import os
import sys
from pathlib import Path

import click
from click.shell_completion import get_completion_class

from app.cli import api, screen
from app.cli.errors import Refused

SHELLS = ("bash", "zsh", "fish")


@click.command()
@click.argument("url", required=False)
@click.option(
    "--token", help="The API token, or `-` to read it from stdin; left out: it is asked for."
)
@click.option("--forget", is_flag=True, help="Forget the login.")
@api.calls_service
def login(url: str | None, token: str | None, forget: bool) -> None:
    """Remember the address of a service and its API token, for all other commands."""
    from llm_train.client import Client
    from llm_train.requests import DEFAULT_URL, login_file

    file = login_file()
    if forget:
        file.unlink(missing_ok=True)
        return
    url = (url or os.environ.get("LLM_TRAIN_API_URL") or DEFAULT_URL).rstrip("/")
    if token == "-":  # noqa: S105 - stdin
        token = sys.stdin.readline().strip()
    if token is None:
        with screen.restoring_terminal():  # what is typed is not shown meanwhile
            token = click.prompt("API token (empty: none)", hide_input=True, default="")
    try:
        Client(url, token or None).recipes()
    except ValueError as error:
        raise Refused(error) from error
    _store(file, {"url": url, "token": token})
    click.echo(f"{url} answers; the login is kept in {file}", err=True)


def _store(file: Path, login: dict[str, str]) -> None:
    """Write the login so that only this user can ever read it."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = file.with_name(f".{file.name}.{os.getpid()}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as stream:
            json.dump(login, stream)
        new.replace(file)
    except OSError:
        new.unlink(missing_ok=True)
        raise


@click.command()
@click.argument("shell", type=click.Choice(SHELLS), required=False)
def completion(shell: str | None) -> None:
    """Print the completion script of a SHELL: `eval "$(llm-train completion bash)"`."""
    shell = shell or Path(os.environ.get("SHELL", "bash")).name
    shell_class = get_completion_class(shell)
    if shell_class is None:
        raise Refused(f"there is no completion for {shell}; choose {', '.join(SHELLS)}")
    root = click.get_current_context().find_root().command
    click.echo(shell_class(root, {}, "llm-train", "_LLM_TRAIN_COMPLETE").source())


@click.command()
@api.JSON
@api.calls_service
def recipes(as_json: bool) -> None:
    """List the recipes that a run may name."""
    rows = api.client().recipes()
    if as_json:
        api.print_json(rows)
        return
    head = ("RECIPE", "LAUNCHER", "DESCRIPTION")
    cells = [(row["name"], ", ".join(row["launchers"]), row["description"]) for row in rows]
    api.print_table(head, [[api.plain(cell) for cell in row] for row in cells])


@click.command()
@click.option("--search", help="Only with this text.")
@click.option("-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 10_000))
@api.JSON
@api.calls_service
def experiments(search: str | None, limit: int, as_json: bool) -> None:
    """List experiments, newest first."""
    rows = api.client().experiments(limit=limit, search=search)
    if as_json:
        api.print_json(rows)
        return
    head = ("EXPERIMENT", "NAME", "TASK", "OWNER")
    columns = ("experiment_id", "name", "task_type", "owner")
    api.print_table(head, [[api.plain(row[name] or "") for name in columns] for row in rows])
