"""Commands that show runs: `ls`, `show`, `watch`, `logs`, `compare`, `diff`."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from app.cli import api, screen

if TYPE_CHECKING:
    from llm_train.runs import Run

REFRESH_SECONDS = 2.0
STATUSES = ("queued", "starting", "running", "cancelling", "succeeded", "failed", "cancelled")
_LISTED = ("RUN", "STATUS", "STEP", "LOSS", "AGE", "MODEL", "NAME")
TAIL_BYTES = 200
"""So many bytes a line of the end of a log may have, before more is asked for."""
MOST_BYTES = 500_000


def _format_age(moment: str) -> str:
    seconds = int((datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds())
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(0, seconds)}s"


def _format_steps(row: dict[str, Any]) -> str:
    total = row["total_steps"]
    return f"{row['step']}/{total}" if total else str(row["step"])


@click.command()
@click.option(
    "-s", "--status", "statuses", multiple=True, type=click.Choice(STATUSES),
    help="Only these; may be repeated.",
)  # fmt: skip
@click.option(
    "-e", "--experiment", shell_complete=api.complete_experiment, help="Only of this one."
)
@click.option("-t", "--tag", "tags", multiple=True, help="Only with this tag; may be repeated.")
@click.option("--search", help="Only with this text.")
@click.option(
    "-n", "--limit", default=20, show_default=True, type=click.IntRange(1, 10_000),
    help="At most so many.",
)  # fmt: skip
@click.option("-a", "--all", "archived", is_flag=True, help="Archived ones, too.")
@click.option("-q", "--quiet", is_flag=True, help="Only ids.")
@click.option("-w", "--watch", "watching", is_flag=True, help="Again every two seconds.")
@api.JSON
@api.calls_service
def ls(
    statuses: tuple[str, ...], experiment: str | None, tags: tuple[str, ...], search: str | None,
    limit: int, archived: bool, quiet: bool, watching: bool, as_json: bool,
) -> None:  # fmt: skip
    """List runs, newest first."""
    client = api.client()
    filters = {
        "status": list(statuses), "tags": list(tags), "search": search, "keys": ["loss"],
        "archived": "any" if archived else None,
    }  # fmt: skip
    with _choose_drawing(watching and not as_json and not quiet) as draw:
        while True:
            rows = [run.data for run in client.runs(experiment, limit=limit, **filters)]
            if as_json:
                (api.print_json_line if watching else api.print_json)(rows)
            elif quiet:
                click.echo("".join(row["run_id"] + "\n" for row in rows), nl=False)
            else:
                draw(_LISTED, _format_rows(rows))
            if not watching:
                return
            time.sleep(REFRESH_SECONDS)


def _choose_drawing(live: bool) -> AbstractContextManager[Callable[[Any, Any], None]]:
    """Return what draws a table: live ones in each other's place, where somebody looks."""
    if live and screen.is_terminal():
        return _drawing_live()
    return nullcontext(api.print_table)


@contextmanager
def _drawing_live() -> Iterator[Callable[[Any, Any], None]]:
    with screen.show_live() as draw:
        yield lambda head, rows: draw(screen.draw_table(head, rows))


def _format_rows(rows: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    return [
        (
            row["run_id"][-6:],
            api.color_status(row["status"]),
            _format_steps(row),
            api.format_number(row["metrics"]["loss"]["value"]) if row["metrics"] else "",
            _format_age(row["created_at"]),
            api.plain(row["model"]),
            api.plain(row["name"] or ""),
        )
        for row in rows
    ]


@click.command()
@api.RUN
@api.JSON
@api.calls_service
def show(run: str, as_json: bool) -> None:
    """Show one run: status, metrics, hyperparameters, receipts."""
    shown = api.client().run(run)
    data = shown.data
    if as_json:
        api.print_json(data)
        return
    lines = [
        ("status", f"{api.color_status(data['status'])} {data['status_detail'] or ''}".rstrip()),
        ("experiment", data["experiment_id"]),
        ("name", data["name"]),
        ("tags", ", ".join(data["tags"])),
        ("model", data["model"]),
        ("recipe", data["recipe"] or "external"),
        ("step", _format_steps(data)),
        ("resumed from", data["ckpt_path"]),
        ("checkpoint", data["newest_ckpt_path"]),
        ("notes", data["notes"]),
    ]
    lines += [(f"param {key}", value) for key, value in data["hyperparams"].items()]
    missing = "not reported by the trainer" if shown.ended else "not reported yet"
    for key, receipt in data["overrides"].items():
        seen = {True: "applied", False: "IGNORED", None: missing}[receipt["applied"]]
        lines.append((f"override {key}", f"{receipt['requested']} ({seen})"))
    lines += [(key, api.format_number(metric["value"])) for key, metric in data["metrics"].items()]
    click.echo(data["run_id"])
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        if value not in (None, ""):
            styled = value if name == "status" else api.plain(value)
            click.echo(f"  {api.plain(name):<{width}}  {styled}")


@click.command()
@api.RUN
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document for each change.")
@api.calls_service
def watch(run: str, as_json: bool) -> None:
    """Show a run's progress until it has ended; its outcome is the exit code."""
    watched = api.client().run(run)
    if as_json:
        _print_changes(watched)
        api.end_with(watched)
    watched = screen.watch_run(watched) if screen.is_terminal() else watched.watch()
    if watched.data["status_detail"]:
        click.echo(api.plain(watched.data["status_detail"]), err=True)
    api.end_with(watched)


def _print_changes(run: "Run") -> None:
    """Print a run whenever its step or its status is another one, until it has ended."""
    told: object = None
    while True:
        data = run.refresh().data
        if told != (told := (data["status"], data["status_reason"], data["attempt"], data["step"])):
            api.print_json_line(data)
        if run.ended:
            return
        time.sleep(screen.RUN_SECONDS)


@click.command()
@api.RUN
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option(
    "-n", "--tail", type=click.IntRange(min=-1), default=100, show_default=True,
    help="The last lines; -1: all.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document for each line.")
@api.calls_service
def logs(run: str, follow: bool, tail: int, as_json: bool) -> None:
    """Print what a run's trainer printed."""
    logged = api.client().run(run)
    write, end = _make_json_printer() if as_json else (_write_bytes, lambda: None)
    for part in _log(logged, tail, follow):
        write(part)
    end()
    if follow:
        api.end_with(logged.refresh())


def _log(run: "Run", tail: int, follow: bool) -> Iterator[bytes]:
    """Yield the last lines of a run's output, and what follows if asked for."""
    connection, path = run.connection, f"{run.path}/logs"

    def read(offset: int) -> tuple[bytes, int]:
        with connection.open("GET", path, query={"offset": offset}) as response:
            return response.read(), int(response.headers["X-Next-Offset"])

    size = TAIL_BYTES * max(tail, 1)
    content, after = read(0 if tail < 0 else -size)
    while after > len(content) and 0 <= content.count(b"\n") <= tail and size < MOST_BYTES:
        size *= 4
        content, after = read(-size)
    lines = content.splitlines(keepends=True)
    yield b"".join(lines if tail < 0 else lines[-tail:] if tail else [])
    if not follow:
        # More than one answer holds comes in pieces.
        while tail < 0 and content:
            content, after = read(after)
            yield content
        return
    query = {"offset": after, "follow": "true"}
    with connection.open("GET", path, query=query, timeout=86_400) as response:
        while chunk := response.read1(65_536):
            yield chunk


def _write_bytes(part: bytes) -> None:
    sys.stdout.buffer.write(part)
    sys.stdout.buffer.flush()


def _make_json_printer() -> tuple[Callable[[bytes], None], Callable[[], None]]:
    """Return what prints whole lines as JSON, and what prints the last one without an end."""
    rest = b""

    def write(part: bytes) -> None:
        nonlocal rest
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            api.print_json_line({"line": line.rstrip(b"\r").decode(errors="replace")})

    return write, lambda: write(b"\n") if rest else None


def _format_cells(values: list[Any]) -> list[str]:
    return ["–" if value is None else api.plain(value) for value in values]


@click.command()
@api.RUNS
@click.option("-a", "--all", "everything", is_flag=True, help="Also what is the same.")
@api.JSON
@api.calls_service
def compare(runs: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Show where runs differ, and the last values of their metrics."""
    client = api.client()
    compared_runs = [client.run(run) for run in runs]
    compared = client.compare(*compared_runs, everything=everything)
    last = {
        key: [run.data["metrics"].get(key, {}).get("value") for run in compared_runs]
        for key in dict.fromkeys(key for run in compared_runs for key in run.data["metrics"])
    }
    if as_json:
        api.print_json({**compared, "metrics": last})
        return
    rows = [(api.plain(row["key"]), *_format_cells(row["values"])) for row in compared["params"]]
    for key, values in last.items():
        shown = ("–" if value is None else api.format_number(value) for value in values)
        rows.append((f"{api.plain(key)} (last)", *shown))
    api.print_table(("", *(run.id[-6:] for run in compared_runs)), rows)


@click.command()
@click.argument("run", shell_complete=api.complete_run)
@click.argument("other", shell_complete=api.complete_run)
@api.JSON
@api.calls_service
def diff(run: str, other: str, as_json: bool) -> None:
    """Show what ONE run has and the OTHER has differently, as lines with - and +."""
    client = api.client()
    compared = client.compare(client.run(run), client.run(other))
    if as_json:
        api.print_json(compared)
        return
    for row in compared["params"]:
        for sign, value, colour in zip("-+", row["values"], ("red", "green"), strict=True):
            if value is not None:
                line = f"{sign} {row['section']}.{row['key']}: {value}"
                click.secho(api.plain(line), fg=colour)
