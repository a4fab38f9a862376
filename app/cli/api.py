"""Code shared by commands that call a service: the client, errors, references, tables, JSON."""

import functools
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click
from click.shell_completion import CompletionItem

from app.cli.errors import Exit, Refused

if TYPE_CHECKING:
    from llm_train.client import Client
    from llm_train.runs import Run

P = ParamSpec("P")
T = TypeVar("T")

COMPLETION_SECONDS = 1.5
"""A shell does not wait longer for names to complete."""
OUTCOMES = {"failed": Exit.RUN_FAILED, "cancelled": Exit.RUN_CANCELLED}
_COLOURS = {
    "running": "blue", "starting": "blue", "succeeded": "green", "failed": "red",
    "queued": "yellow", "cancelling": "magenta", "cancelled": "bright_black",
}  # fmt: skip
# Escape sequences in a name or a note would act in the terminal that lists it.
_CONTROL = {code: "�" for code in (*range(32), *range(127, 160))}


def client(timeout: float = 30.0) -> "Client":
    """Return the client of the service that is configured. Raises Refused for a bad address."""
    from llm_train.client import Client

    try:
        return Client(timeout=timeout)
    except ValueError as error:
        raise Refused(f"LLM_TRAIN_API_URL: {error}") from error


def calls_service(command: Callable[P, T]) -> Callable[P, T]:
    """Make a command that ends with the service's own sentence and the exit code for it."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        from llm_train.requests import ApiError, NoService

        try:
            return command(*args, **kwargs)
        except NoService as error:
            hint = "" if error.status else "; LLM_TRAIN_API_URL names another"
            raise Refused(f"{error}{hint}", Exit.NO_SERVICE) from error
        except ApiError as error:
            wanting = error.status == 404 or error.code == "ambiguous"
            raise Refused(error, Exit.NOT_FOUND if wanting else Exit.REFUSED) from error

    return run


def complete_run(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the ends of the newest runs' ids, and their names."""
    items = []
    for row in _fetch_completions(lambda: [run.data for run in client(COMPLETION_SECONDS).runs()]):
        about = " ".join(filter(None, (row["status"], row["name"], row["model"])))
        items += [(row["run_id"][-6:], about), (row["name"] or "", about)]
    items.append(("@last", "the newest run"))
    return _match_items(items, incomplete)


def complete_recipe(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the names of the recipes."""
    rows = _fetch_completions(lambda: client(COMPLETION_SECONDS).recipes())
    return _match_items([(row["name"], row["description"]) for row in rows], incomplete)


def complete_experiment(
    _: click.Context, __: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Return the names of the newest experiments."""
    rows = _fetch_completions(lambda: client(COMPLETION_SECONDS).experiments(limit=50))
    return _match_items([(row["name"], row["task_type"]) for row in rows], incomplete)


def _fetch_completions(read: Callable[[], Iterable[Mapping[str, Any]]]) -> list[Mapping[str, Any]]:
    from llm_train.requests import ApiError

    try:
        return list(read())
    except (ApiError, Refused):
        return []


def _match_items(items: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    matching = {value: about for value, about in items if value and value.startswith(incomplete)}
    return [CompletionItem(plain(value), help=plain(about)) for value, about in matching.items()]


RUN = click.argument("run", shell_complete=complete_run)
RUNS = click.argument("runs", nargs=-1, required=True, shell_complete=complete_run)
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def parse_parameters(
    _: click.Context, parameter: click.Parameter, options: Sequence[str]
) -> dict[str, Any]:
    """Return NAME=VALUE options as a dictionary; a VALUE that is JSON is what it says."""
    named = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not (name and equals):
            raise click.BadParameter(f"{option!r} is not NAME=VALUE")
        named[name] = _parse_value(value)
    return named


def _parse_value(text: str) -> Any:
    def refuse(constant: str) -> Any:
        raise click.BadParameter(f"{constant} is no number that JSON has")

    try:
        return json.loads(text, parse_constant=refuse)
    except ValueError:
        return text


def print_json(document: Any) -> None:
    """Print a JSON document."""
    click.echo(json.dumps(document, ensure_ascii=False, indent=2))


def plain(value: object) -> str:
    """Return a text without characters that a terminal would obey."""
    return str(value).translate(_CONTROL)


def format_number(value: float | None) -> str:
    """Return a metric's value for people."""
    return "NaN" if value is None else f"{value:.4g}"


def color_status(name: str) -> str:
    """Return a status in its colour, which `click.echo` leaves out where nobody sees it."""
    return click.style(name, fg=_COLOURS.get(name))


def print_json_line(document: Any) -> None:
    """Print a JSON document on a line of its own, at once: one of a stream."""
    click.echo(json.dumps(document, ensure_ascii=False))
    sys.stdout.flush()


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns; on a terminal as wide as it is, in a pipe plain and nothing cut."""
    from app.cli import screen

    if screen.is_terminal():
        screen.print_table(head, rows)
    else:
        click.echo(format_table(head, rows))


def call(method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Return the service's answer to one request. Raises ApiError."""
    return client().connection.request(method, path, body)


def find_id(rows: list[dict[str, Any]], what: str, key: str, reference: str) -> str:
    """Return the id of the row that a reference names, by its id or its name. Raises Refused."""
    for row in rows:
        if reference in (row[key], row["name"]):
            return str(row[key])
    raise Refused(f"there is no {what} {reference!r}", Exit.NOT_FOUND)


def find_project_id(reference: str) -> str:
    """Return the id of a project that is named by it or by its name. Raises Refused."""
    return find_id(call("GET", "/v1/projects")["projects"], "project", "project_id", reference)


def cells_of(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    """Return the head and the cells of a table of these columns."""
    head = [name.upper().replace("_", " ") for name in columns]
    return head, [[_format_cell(row[name]) for name in columns] for row in rows]


def _format_cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "-"
    return "-" if value is None else plain(value)


def format_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns as plain lines."""
    lines = [list(head), *(list(map(str, row)) for row in rows)]
    widths = [max(len(click.unstyle(line[i])) for line in lines) for i in range(len(head))]
    out = []
    for line in lines:
        padded = [
            cell + " " * (width - len(click.unstyle(cell)))
            for cell, width in zip(line, widths, strict=True)
        ]
        out.append("  ".join(padded).rstrip())
    return "\n".join(out)


def end_with(run: "Run") -> None:
    """End the command with the exit code of a run's outcome."""
    raise SystemExit(int(OUTCOMES.get(run.status, Exit.DONE)))
