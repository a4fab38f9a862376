"""A node that is cut off from everybody, and that comes back when the next attempt trains.

Its slurmd, its agent and its trainer live in a network namespace. The files are shared, and stay in
sight: what the first attempt saves meanwhile lies beside the checkpoints of the second.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ministack import Gate
from tests.support.network import Network, network
from tests.support.server import alive, wait_until
from tests.support.slurm import FAR, SlurmCluster, slurm_cluster
from tests.support.slurm_home import SlurmHome, output, slurm_home, steps

pytestmark = pytest.mark.heavy


@pytest.fixture
def far() -> Iterator[Network]:
    with network() as far:
        yield far


@pytest.fixture
def slurm(tmp_path: Path, far: Network) -> Iterator[SlurmCluster]:
    """Two nodes, one of them far."""
    with slurm_cluster(tmp_path / "slurm", 1, far) as cluster:
        yield cluster


@pytest.fixture
def home(tmp_path: Path, slurm: SlurmCluster, far: Network) -> Iterator[SlurmHome]:
    with slurm_home(tmp_path, slurm) as home:
        file = home.path / "recipes.toml"
        shared = 'files = "shared"\nlook_seconds = 0.5'
        file.write_text(file.read_text().replace("look_seconds = 0.5", shared))
        with Gate(f"http://127.0.0.1:{home.port}", far.here) as gate:
            home.settings["PUBLIC_URL"] = gate.url
            yield home


def saved_by(attempt: int, folder: Path) -> set[str]:
    """The checkpoints on disk that an attempt has committed."""
    files = {path.parent.name: path.read_text() for path in folder.glob("step-*/manifest.json")}
    return {name for name, text in files.items() if json.loads(text)["attempt"] == attempt}


def test_a_node_that_was_cut_off_and_comes_back_disturbs_nothing(
    home: SlurmHome, slurm: SlurmCluster, far: Network
) -> None:
    slurm.run("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=later")
    with home.serve() as service:
        run = service.submit("finishes", steps=900, step_seconds=0.1)
        service.stepping(run, 12, 60)
        assert slurm.run("squeue", "-h", "-n", f"{run}.1", "-o", "%N").split() == [FAR]
        slurm.run("scontrol", "update", "NodeName=n1", "State=RESUME")
        first = home.trainer(run)
        far.cut()
        wait_until(
            lambda: service.status(run)["attempt"] == 2, lambda: str(service.status(run)), 120
        )
        service.stepping(run, service.status(run)["step"] + 5, 60)
        assert alive(first.pid), "nobody could reach it, and it trains on"
        folder = service.data_dir / "ckpts" / service.experiment / run
        stray = wait_until(
            lambda: saved_by(1, folder) - set(service.checkpoints(run)),
            "what it saves is in sight", 60,
        )  # fmt: skip
        far.mend()
        wait_until(lambda: not alive(first.pid), "its agent learns that it is over", 60)
        assert service.ended(run, 180)["status"] == "succeeded"
        assert home.starts(run) == [1, 2]
        found = service.checkpoints(run)
        assert {each["state"] for each in found.values()} == {"ready"}
        assert not stray & set(found) and set(found) >= saved_by(2, folder)
        begins = max(found[name]["step"] for name in saved_by(1, folder) & set(found)) + 1
        log = steps(output(service, run))
        heard = len(log) - len(range(begins, 901))
        assert log[heard:] == list(range(begins, 901)), "nothing of the first after that"
        assert log[:heard] == list(range(1, heard + 1)) and heard < 900
