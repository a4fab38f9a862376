"""Output for terminals: tables that fit, and runs as they progress. Drawn by rich.

Output to a pipe is plain lines (`app.cli.api.format_table`) and never comes from here. rich is
imported only here, by the functions that draw.
"""

import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llm_train.runs import Run
    from rich.console import RenderableType
    from rich.table import Table

RUN_SECONDS = 0.5
METRICS = 12
_BAR = 40
_LEAST = 4


def is_terminal() -> bool:
    """Return True if somebody looks at what is printed."""
    return sys.stdout.isatty()


def draw_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    """Return aligned columns; of lines that are too long for the terminal, the ends are left out.

    Cells hold no markup; colours of `click.style` are kept.
    """
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    cells = [[Text.from_ansi(str(cell)) for cell in row] for row in rows]
    widths = [
        max([len(name), *(row[column].cell_len for row in cells)])
        for column, name in enumerate(head)
    ]
    room = shutil.get_terminal_size().columns
    for name, width in zip(head, _fit(widths, room - 2 * (len(head) - 1)), strict=True):
        drawn.add_column(name, no_wrap=True, overflow="ellipsis", width=width)
    for row in cells:
        drawn.add_row(*row)
    return drawn


def _fit(widths: list[int], room: int) -> list[int]:
    """Return widths that fit: the widest columns give, so that an id stays whole.

    rich takes from all alike.
    """
    fitted = list(widths)
    while sum(fitted) > room and max(fitted) > _LEAST:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print aligned columns on a terminal."""
    from rich.console import Console

    Console(highlight=False).print(draw_table(head, rows))


@contextmanager
def show_live() -> "Iterator[Callable[[RenderableType], None]]":
    """Yield a function that draws in the place of what it drew before.

    Ctrl-C raises KeyboardInterrupt in here, so that the terminal gets its cursor back.
    """
    from rich.console import Console
    from rich.live import Live

    with (
        restoring_terminal(),
        Live(console=Console(highlight=False), auto_refresh=False) as live,
    ):
        yield lambda drawn: live.update(drawn, refresh=True)


@contextmanager
def restoring_terminal() -> Iterator[None]:
    """Make Ctrl-C raise KeyboardInterrupt in here, so that the terminal is left as it was."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def watch_run(run: "Run") -> "Run":
    """Draw a run until it has ended, and return it."""
    with show_live() as draw:
        while True:
            draw(draw_run(run.refresh().data))
            if run.ended:
                return run
            time.sleep(RUN_SECONDS)


def draw_run(data: dict[str, Any]) -> "RenderableType":
    """Return a run's status, progress and newest metrics."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    from app.cli import api

    title = Text.assemble(
        (api.plain(data["name"] or data["model"]), "bold"), " ", (data["run_id"][-6:], "dim"), "  ",
        Text.from_ansi(api.color_status(data["status"])),
    )  # fmt: skip
    lines: list[RenderableType] = [title]
    if data["status_detail"]:
        lines.append(Text(api.plain(data["status_detail"]), style="dim"))
    steps = Table.grid(padding=(0, 2, 0, 0))
    total = data["total_steps"]
    if total:
        text = f"{data['step']} of {total} steps"
        left = data["eta_seconds"]
        bar = ProgressBar(total=total, completed=min(data["step"], total), width=_BAR)
        steps.add_row(bar, text, "" if left is None else f"{format_duration(left)} left")
    else:
        steps.add_row(f"{data['step']} steps")
    lines.append(steps)
    metrics = Table.grid(padding=(0, 2, 0, 0))
    shown = sorted(data["metrics"], key=lambda key: key.startswith("system/"))[:METRICS]
    for key in shown:
        metrics.add_row(Text(api.plain(key)), api.format_number(data["metrics"][key]["value"]))
    hidden = len(data["metrics"]) - len(shown)
    if hidden:
        metrics.add_row(Text(f"and {hidden} more", style="dim"), "")
    return Group(*lines, metrics)


def format_duration(seconds: float) -> str:
    """Return a time for people, in two units."""
    whole = int(seconds)
    for size, unit, smaller, name in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // smaller} {name}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
