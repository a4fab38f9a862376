"""A service whose recipes run on a real Slurm, and what its jobs leave.

The trainers are those of tests.support.trainers: on a node they find the repository by its path,
and the service by its public URL. Each start of one is a line of `ledger`.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.support import trainers
from tests.support.launcher_contract import POLL_SECONDS, Site
from tests.support.server import environment_of, wait_until
from tests.support.service import Home, Service, recipes
from tests.support.slurm import SlurmCluster

_TABLE = """
[launchers.slurm]
kind = "slurm"
directory = "{nodes}"
python = "{python}"
look_seconds = 0.5
call_seconds = 5
default_minutes = 10
gpu_types = {{ "NVIDIA A100" = "a100" }}
"""


class SlurmHome(Home):
    """What outlives a server: its directory, its port, and the nodes' directories."""

    @property
    def nodes(self) -> Path:
        """Where agents keep their files."""
        return self.path / "nodes"

    def starts(self, run: str) -> list[int]:
        """The attempts of a run of which a trainer really began."""
        ledger = self.path / "ledger.txt"
        lines = ledger.read_text().splitlines() if ledger.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith(f"{run} ")]

    def processes(self) -> list[psutil.Process]:
        """The agents and trainers of this home that live."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                words = [*process.cmdline(), process.environ().get("LLM_TRAIN_RUN_DIR", "")]
                ours = any(word.startswith(str(self.nodes)) for word in words)
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def trainer(self, run: str) -> psutil.Process:
        """The only trainer of a run."""
        found = [p for p in self.processes() if environment_of(p).get("LLM_TRAIN_RUN_ID") == run]
        assert len(found) == 1, found
        return found[0]


def steps(log: str) -> list[int]:
    """The steps that a run's trainers printed, in order."""
    return [int(number) for number in re.findall(r"^step (\d+)/", log, re.MULTILINE)]


def output(service: Service, run: str) -> str:
    """A run's log."""
    path = f"{service.url}/v1/experiments/{service.experiment}/runs/{run}/logs"
    return service.http.get(path).text


@contextmanager
def slurm_home(root: Path, slurm: SlurmCluster, options: str = "") -> Iterator[SlurmHome]:
    """A place for servers; their jobs and what these left are gone afterwards."""
    home = SlurmHome(root, poll_seconds=POLL_SECONDS)
    home.nodes.mkdir()
    ledger = f'env = {{ TRAINERS_LEDGER = "{root / "ledger.txt"}" }}'
    lines = f'launcher = "slurm"\nmax_attempts = 2\nretry_seconds = 0\n{ledger}\n'
    own = dict.fromkeys(trainers.NAMES, lines)
    own["obedient"] += "heartbeat_seconds = 60\ngrace_seconds = 12\n"
    own["finishes"] += "start_seconds = 20\nheartbeat_seconds = 20\ngrace_seconds = 12\n"
    file = recipes(root, **own)
    table = _TABLE.format(nodes=home.nodes, python=sys.executable)
    file.write_text(f"{file.read_text()}{table}{options}")
    home.settings |= {"RECIPES": str(file), "PUBLIC_URL": f"http://127.0.0.1:{home.port}"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
        try:
            yield home
        finally:
            slurm.run("scancel", "--user=root", check=False)
            with suppress(AssertionError):
                wait_until(lambda: not slurm.jobs(), "the end of all jobs", every=0.2)
            for process in home.processes():
                with suppress(psutil.NoSuchProcess):
                    process.kill()


@contextmanager
def slurm_site(slurm: SlurmCluster, nodes: Path, late_seconds: float = 1.0) -> Iterator[Site]:
    """A launcher on the cluster, for tests of any launcher; its jobs end with it."""
    table = (
        f'[launchers.site]\nkind = "slurm"\ndirectory = "{nodes}"\nlook_seconds = 0.5\n'
        f'python = "{sys.executable}"\ncall_seconds = 5\n'
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
        yield Site(table, late_seconds=late_seconds)
    slurm.run("scancel", "--user=root", check=False)
