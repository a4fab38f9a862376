"""The recipes of real trainers (real_trainers.py) on a launcher whose nodes are this machine.

    with cluster_trainers(folder, inputs, table, nodes) as service:
        run = service.submit("hf", …)

The launcher's table is called `site`; `nodes` is its `directory`, where each job makes its own.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields
from pathlib import Path

import psutil

from tests.support.real_trainers import recipes
from tests.support.server import wait_until
from tests.support.service import Home, Service


@dataclass
class ClusterService(Service):
    """A service whose trainers are found by what they have in their environment."""

    nodes: Path = Path()

    def run_dir(self, run: str) -> Path:
        """Where the newest attempt of a run has its files, on its node."""
        found = wait_until(lambda: list(self.nodes.glob(f"*/runs/{run}")), f"{run} is on a node")
        return max(found, key=lambda path: path.stat().st_mtime)

    def trainer(self, run: str, attempt: int = 1) -> psutil.Process:
        """The trainer's process, a child of its agent."""
        found = wait_until(lambda: self._trainer(run), f"the trainer of {run}")
        assert found is not None
        return found

    def _trainer(self, run: str) -> psutil.Process | None:
        processes = _processes(run)
        pids = {process.pid for process in processes}
        for process in processes:
            with suppress(psutil.Error):
                if process.ppid() not in pids:
                    return process
        return None

    def agent(self, run: str, attempt: int = 1) -> psutil.Process:
        """The agent's process."""
        parent = self.trainer(run, attempt).parent()
        assert parent is not None
        return parent


def _processes(run: str) -> list[psutil.Process]:
    """The living processes of a run's trainer."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            ours = process.environ().get("LLM_TRAIN_RUN_ID") == run
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@contextmanager
def cluster_trainers(
    folder: Path, inputs: Path, table: str, nodes: Path
) -> Iterator[ClusterService]:
    """A running service whose recipes of real trainers go to the launcher of `table`."""
    file = recipes(folder, inputs, 'launcher = "site"\n')
    file.write_text(f"{file.read_text()}\n{table}")
    place = Home(folder, settings={"RECIPES": str(file)})
    place.settings["PUBLIC_URL"] = f"http://127.0.0.1:{place.port}"
    with place.serve() as service:
        values = {field.name: getattr(service, field.name) for field in fields(Service)}
        yield ClusterService(**{**values, "poll_seconds": 0.2}, nodes=nodes)
