"""`python -m tests.bench`: every row of the table in README.md, measured side by side.

Exit status 1 when a figure misses its target; with `--quick` only when one is far off.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench import (
    clusters,
    dashboard,
    ingest,
    peers,
    points,
    processes,
    rows,
    scale,
    tenants,
)
from tests.bench.fixture import SIZES, Workbench, workbench
from tests.bench.report import FAR_OFF, Figure, machine, markdown, plain

ROWS: dict[str, Callable[[Workbench], list[Figure]]] = {
    "submit": rows.submit,
    "read": rows.read,
    "ingest": ingest.ingest,
    "retry": ingest.retry,
    "list": rows.listing,
    "history": rows.history,
    "graphql": rows.graphql,
    "reads": ingest.reads_while_ingesting,
    "users": tenants.authenticated,
    "start": processes.start,
    "size": processes.size,
    "launch": processes.launch,
    "cluster": clusters.cluster,
    "dashboard": dashboard.dashboard,
}
# A browser measures its neighbours on a small machine, a thousand agents take minutes: the whole
# bench measures them.
QUICK = [name for name in ROWS if name not in ("cluster", "dashboard")]
# Nor what depends little on the database, on another one again; and reads under load, whose p99 is
# that of PostgreSQL's processes, the service and a hundred clients on the same cores.
QUICK_OF = {
    "sqlite": QUICK,
    "postgresql": [name for name in QUICK if name not in ("start", "size", "launch", "reads")],
}
PEERS = {"mlflow": peers.mlflow, "trackio": peers.trackio}


def measure(row: Callable[[Workbench], list[Figure]], bench: Workbench, tries: int) -> list[Figure]:
    """The figures of a row. One far off, or broken, is measured again: noise passes, a defect
    stays."""
    for left in reversed(range(tries)):
        try:
            figures = row(bench)
        except Exception as error:
            if not left:
                raise
            print(f"{error};", end=" ", file=sys.stderr, flush=True)
            continue
        if not left or all(figure.verdict != "FAR OFF" for figure in figures):
            return figures
        print("far off;", end=" ", file=sys.stderr, flush=True)
    raise AssertionError("tries is 1 or more")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"90 s; fails only below {FAR_OFF:g} of a target",
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=[*ROWS, *PEERS],
        metavar="NAME",
        help=", ".join([*ROWS, *PEERS]),
    )
    parser.add_argument(
        "--database", choices=("sqlite", "postgresql"), default="sqlite", help="on which database"
    )
    parser.add_argument("--peers", action="store_true", help="MLflow and Trackio too, from PyPI")
    parser.add_argument(
        "--scale", type=int, nargs="?", const=1_000_000, metavar="RUNS",
        help="instead: searches, counts and lists of a million runs, or of RUNS, and the bytes of "
        "a hundred points for each",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--markdown", action="store_true", help="print the table for the README")
    asked = parser.parse_args()

    # An installed service has its bytecode, which pip writes; without it every start compiles.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    began, figures, broken = time.monotonic(), [], []
    with tempfile.TemporaryDirectory(prefix="llm-train-bench-") as name:
        on = machine(Path(name))
        if asked.scale is not None:
            figures = [
                *scale.runs(Path(name), asked.database, asked.scale),
                *points.points(Path(name), asked.database, asked.scale * points.A_RUN // 2),
            ]
            print(plain(figures), on, sep="\n")
            return int(any(figure.verdict in ("MISSED", "FAR OFF") for figure in figures))
        rows = asked.only or [
            *(QUICK_OF[asked.database] if asked.quick else ROWS),
            *(PEERS if asked.peers else ()),
        ]
        # The list of 100,000 runs takes longer to make than most rows, and one row reads it.
        sizes = [size for size in SIZES if size != "100k" or "list" in rows]
        with workbench(Path(name), asked.quick, asked.database, sizes) as bench:
            for row in rows:
                print(f"{row} …", end=" ", file=sys.stderr, flush=True)
                at = time.monotonic()
                try:
                    figures += measure((ROWS | PEERS)[row], bench, tries=3 if asked.quick else 1)
                except Exception as error:  # the other rows are worth having
                    broken.append(row)
                    print(f"could not be measured: {error}", end=" ", file=sys.stderr)
                print(f"{time.monotonic() - at:.0f} s", file=sys.stderr)
    print((markdown if asked.markdown else plain)(figures))
    print(f"\n{on}; {time.monotonic() - began:.0f} s")
    if asked.json:
        found = {
            "machine": on,
            "figures": [figure.as_json() for figure in figures],
            "broken": broken,
        }
        asked.json.write_text(json.dumps(found, indent=1))
    failing = ("FAR OFF",) if asked.quick else ("MISSED", "FAR OFF")
    return int(bool(broken) or any(figure.verdict in failing for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
