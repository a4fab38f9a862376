"""The rows of a large cluster: a tick over a thousand runs, and a thousand agents.

The cluster is a folder of commands that answer as Slurm's do, of a queue in a file: no machine
here has room for a thousand jobs. What the service asks, reads and records is what it would be.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from app.agent.http import PULSE_SECONDS, WAIT_SECONDS
from app.domain.tokens import claim_code
from tests.bench.agents import Fleet, claimed
from tests.bench.fixture import Workbench, call
from tests.bench.load import request, run_load
from tests.bench.report import Figure, Target, figure
from tests.support.server import Server, free_port, running_server, wait_until

RUNS, QUICK_RUNS = 1_000, 100
CYCLES, QUIET_SECONDS, TICKS_SECONDS = 2.0, 8.0, 8.0
SECRET = "the secret of the bench, and of nothing else"
_RECIPES = """
[recipes.train]
command = ["{{python}}"]
launcher = "slurm"
heartbeat_seconds = 3600
start_seconds = 3600

[launchers.slurm]
kind = "slurm"
"""
_COMMANDS = {
    # name|id of each job, in the order of submission
    "sbatch": """
for word; do case $word in --job-name=*) name=${word#*=};; esac; done
cat > /dev/null
id=$(($(cat count) + 1)); echo $id > count
echo "$id|$(cat state)|0|$(cat node)|1:00|1-00:00:00|$name|" >> jobs
echo $id""",
    "squeue": """
case "$*" in
    *PENDING*) sed -n 's/^\\([0-9]*\\)|PENDING.*/\\1|100|main/p' jobs;;
    *) cat jobs;;
esac""",
    "sinfo": "echo 'main*|125|64|512000|gpu:a100:8|infinite'",
    "scontrol": "echo 'AccountingStorageType = accounting_storage/none'",
    "scancel": "",
}


class Slurm:
    """The folder. `run_all` starts every job that waits."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        for name, lines in _COMMANDS.items():
            file = folder / name
            file.write_text(f"#!/bin/sh\ncd {folder}\n{lines.strip()}\n")
            file.chmod(0o755)
        for name, text in (
            ("count", "0"),
            ("state", "PENDING|Resources"),
            ("node", ""),
            ("jobs", ""),
        ):
            (folder / name).write_text(f"{text}\n" if name != "jobs" else text)

    def names(self) -> list[str]:
        """Return the runs of all jobs."""
        rows = (self.folder / "jobs").read_text().splitlines()
        return [row.split("|")[7].partition(".")[0] for row in rows]

    def run_all(self) -> None:
        rows = (self.folder / "jobs").read_text().splitlines()
        running = [self._running(row, number) for number, row in enumerate(rows)]
        (self.folder / "new").write_text("".join(running))
        (self.folder / "new").rename(self.folder / "jobs")

    def _running(self, row: str, number: int) -> str:
        id, _, _, status, _, *rest = row.split("|")
        return "|".join([id, "RUNNING", "None", status, f"n{number // 8}", *rest]) + "\n"


@contextmanager
def fleet(bench: Workbench, runs: int) -> Iterator[tuple[Server, Slurm, Path]]:
    """A service of its own with so many runs in Slurm's queue; its ticks are lines of the file."""
    folder = bench.directory / f"fleet-{free_port()}"
    folder.mkdir()
    slurm, ticks, port = Slurm(folder / "slurm"), folder / "ticks", free_port()
    recipes = folder / "recipes.toml"
    recipes.write_text(_RECIPES)
    with running_server(
        folder, port=port, command=(
            "env", f"PATH={slurm.folder}:{os.environ['PATH']}",
            sys.executable, "-m", "tests.bench.ticking", str(ticks),
        ),
        RECIPES=str(recipes), SECRET=SECRET, PUBLIC_URL=f"http://127.0.0.1:{port}",
    ) as server:  # fmt: skip
        body = {"name": "fleet", "task_type": "bench"}
        experiment = call(server, "POST", "/v1/experiments", body)["experiment_id"]
        path = f"/v1/experiments/{experiment}/runs"
        ask = request("POST", path, b'{"model": "m", "recipe": "train"}')
        run_load(port, [[ask] * (runs // 4)] * 4).expect(201)
        wait_until(lambda: len(slurm.names()) == runs, "every run is in the queue", 300, 1.0)
        yield server, slurm, ticks


def cluster(bench: Workbench) -> list[Figure]:
    """Ticks over runs that wait, and over those that train; then what their agents cost."""
    runs = QUICK_RUNS if bench.quick else RUNS
    found: list[Figure] = []
    with fleet(bench, runs) as (server, slurm, ticks):
        found += tick_figures(ticks, f"{runs:,} runs that wait")
        slurm.run_all()
        codes = {run: claim_code(SECRET, run, 1) for run in slurm.names()}
        with claimed(Fleet(int(server.url.rpartition(":")[2]), codes)) as agents:
            # Shorter than the silence after which they would count as gone.
            without = cpu_share(server, QUIET_SECONDS)
            agents.start()
            time.sleep(1.0)
            during = cpu_share(server, CYCLES * (WAIT_SECONDS + PULSE_SECONDS))
            found += tick_figures(ticks, f"{runs:,} that train")
            agents.check()
    cost = max(100 * (during - without), 0.1)
    work = f"{runs:,} agents, of a core"
    found.append(figure("cluster", work, "%", [cost], target=Target("at most", 10, of="ours")))
    return found


def tick_figures(ticks: Path, of: str) -> list[Figure]:
    """Return what the ticks of the next seconds take of the event loop."""
    ticks.write_text("")
    time.sleep(TICKS_SECONDS)
    rows = [tuple(map(float, line.split())) for line in ticks.read_text().splitlines()]
    totals = [total for total, _ in rows]
    limit = Target("at most", 50, of="ours")
    return [
        figure("cluster", f"a tick over {of}, event loop", "ms p50", totals, target=limit),
        figure("cluster", f"the slowest of {len(rows)}", "ms", [max(totals)]),
        figure("cluster", "its longest part without a pause", "ms", [max(p for _, p in rows)]),
    ]


def cpu_share(server: Server, seconds: float) -> float:
    """Return how many cores the server takes in the next seconds."""
    process = psutil.Process(server.pid)
    before, began = sum(process.cpu_times()[:2]), time.monotonic()
    time.sleep(seconds)
    return (sum(process.cpu_times()[:2]) - before) / (time.monotonic() - began)
