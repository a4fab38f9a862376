"""Figures, their targets, and how they are printed."""

import os
import platform
import sqlite3
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

FAR_OFF = 0.43


@dataclass(frozen=True)
class Target:
    """`at least 0.5 of the ratio`, `at most 90 of our value`."""

    bound: Literal["at least", "at most"]
    limit: float
    of: Literal["ratio", "ours"] = "ratio"

    def __str__(self) -> str:
        sign = "≥" if self.bound == "at least" else "≤"
        return f"{sign} {self.limit:g}" + (" ×" if self.of == "ratio" else "")


@dataclass(frozen=True)
class Figure:
    """One measured line. Without a target it is information."""

    row: str
    work: str
    unit: str
    ours: float
    bare: float | None = None
    target: Target | None = None
    ratio: float | None = None

    @property
    def score(self) -> float | None:
        """1 is the target exactly; less misses it."""
        if self.target is None:
            return None
        value = self.ours if self.target.of == "ours" else self.ratio
        assert value is not None, f"{self.row} has a target for a ratio and no bare cell"
        limit = self.target.limit
        return value / limit if self.target.bound == "at least" else limit / value

    @property
    def verdict(self) -> str:
        score = self.score
        if score is None:
            return ""
        if score >= 1:
            return "pass"
        # A time alone may be that of a slow machine, which a ratio tells from slow code.
        of_machine = self.bare is None and self.unit.startswith("ms")
        return "FAR OFF" if score < FAR_OFF and not of_machine else "MISSED"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "score": self.score, "verdict": self.verdict}


def figure(
    row: str,
    work: str,
    unit: str,
    ours: Sequence[float],
    bare: Sequence[float] = (),
    target: Target | None = None,
) -> Figure:
    """Medians of what was measured in turns; the ratio is the median of the pairs' ratios."""
    if not bare:
        return Figure(row, work, unit, statistics.median(ours), target=target)
    ratio = statistics.median(one / other for one, other in zip(ours, bare, strict=True))
    return Figure(row, work, unit, statistics.median(ours), statistics.median(bare), target, ratio)


HEAD = ("work", "unit", "ours", "bare", "ratio", "target", "")


def cells(figure: Figure) -> tuple[str, ...]:
    return (
        figure.work,
        figure.unit,
        number(figure.ours),
        number(figure.bare),
        number(figure.ratio),
        str(figure.target or ""),
        figure.verdict,
    )


def number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def plain(figures: Sequence[Figure]) -> str:
    rows = [HEAD, *map(cells, figures)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 2 <= index <= 4 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def markdown(figures: Sequence[Figure]) -> str:
    rows = [HEAD, ("---", "---", "---:", "---:", "---:", "---", "---"), *map(cells, figures)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def machine(directory: Path) -> str:
    """Return what the figures were measured on."""
    return (
        f"{cpu()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at the start; "
        f"fdatasync {fdatasync_ms(directory):.2f} ms; "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{platform.system()} {platform.release()}"
    )


def cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def fdatasync_ms(directory: Path) -> float:
    """The median time to append 4 KiB and have them on disk."""
    sync = getattr(os, "fdatasync", os.fsync)
    times = []
    with (directory / "fdatasync").open("wb", buffering=0) as file:
        for _ in range(200):
            file.write(bytes(4096))
            start = time.perf_counter()
            sync(file.fileno())
            times.append(time.perf_counter() - start)
    return statistics.median(times) * 1_000
