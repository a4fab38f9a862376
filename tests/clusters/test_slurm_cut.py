"""A node that is cut off from everybody, and that comes back when the next attempt trains.

Its slurmd, its agent and its trainer live in a network namespace, and reach the service through a
witness. Three would end the old trainer: its agent, by the service's order; Slurm, which ends what
it has taken for lost; and nobody need, for all that it says is refused. Each alone hides that
another fails, so they come one after the other here: first it may speak, then its agent is told,
and Slurm's daemon on the node is frozen until both have been seen.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.network import Network, network
from tests.support.server import alive, wait_until
from tests.support.service import Service
from tests.support.slurm import FAR, SlurmCluster, slurm_cluster
from tests.support.slurm_home import SlurmHome, output, slurm_home, steps
from tests.support.witness import Witness

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
def home(tmp_path: Path, slurm: SlurmCluster) -> Iterator[SlurmHome]:
    with slurm_home(tmp_path, slurm) as home:
        yield home


@pytest.fixture
def witness(home: SlurmHome, far: Network) -> Iterator[Witness]:
    """It stands between the service and all its agents and trainers."""
    with Witness(f"http://127.0.0.1:{home.port}", far.here) as witness:
        home.settings["PUBLIC_URL"] = witness.url
        yield witness


@contextmanager
def frozen(slurm: SlurmCluster, name: str) -> Iterator[None]:
    """A node whose daemon of Slurm does nothing."""
    slurm.daemon(name).suspend()
    try:
        yield
    finally:
        slurm.daemon(name).resume()


def saved_by(attempt: int, folder: Path) -> set[str]:
    """The checkpoints on the service's disk that an attempt has committed."""
    files = {path.parent.name: path.read_text() for path in folder.glob("step-*/manifest.json")}
    return {name for name, text in files.items() if json.loads(text)["attempt"] == attempt}


def begin_far_away(service: Service, slurm: SlurmCluster) -> str:
    """A run that trains on the far node; the other one takes the next attempt."""
    slurm.run("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=later")
    run = service.submit("finishes", steps=9000, step_seconds=0.1)
    service.stepping(run, 12, 60)
    assert slurm.run("squeue", "-h", "-n", f"{run}.1", "-o", "%N").split() == [FAR]
    slurm.run("scontrol", "update", "NodeName=n1", "State=RESUME")
    return run


def all_is_refused(witness: Witness, far: Network, verbs: set[str], since: int) -> Any:
    """True once the far node has tried each of these; not one of its requests was granted."""
    told = [each for each in witness.answers[since:] if each.client == far.address]
    assert {each.status for each in told} <= {409}, told
    return {verb for verb in verbs if any(f"/{verb}" in each.path for each in told)} == verbs


@pytest.mark.parametrize("files", ["shared", "none"])
def test_a_node_that_was_cut_off_and_comes_back_disturbs_nothing(
    home: SlurmHome, slurm: SlurmCluster, far: Network, witness: Witness, files: str
) -> None:
    """Shared files stay in sight of the far node: what its trainer saves meanwhile lies beside the
    checkpoints of the second attempt. Without, its agent comes with them when it is back."""
    file = home.path / "recipes.toml"
    file.write_text(
        file.read_text().replace("look_seconds = 0.5", f'files = "{files}"\nlook_seconds = 0.5')
    )
    with home.serve() as service:
        run = begin_far_away(service, slurm)
        first, folder = home.trainer(run), service.data_dir / "ckpts" / service.experiment / run
        far.cut()
        wait_until(lambda: service.status(run)["attempt"] == 2, lambda: str(service.status(run)))
        service.stepping(run, service.status(run)["step"] + 5, 60)
        assert alive(first.pid), "nobody could reach it, and it trains on"
        stray: set[str] = set()
        if files == "shared":
            stray = wait_until(
                lambda: saved_by(1, folder) - set(service.checkpoints(run)), "it saves"
            )
        with frozen(slurm, FAR):
            witness.held, since = (far.address, "/pulse"), len(witness.answers)
            far.mend()
            verbs = {"reports", "log", *(["checkpoints"] if files == "none" else [])}
            wait_until(
                lambda: all_is_refused(witness, far, verbs, since),
                lambda: str(witness.answers[since:]),
            )  # fmt: skip
            assert alive(first.pid), "all is refused, and it trains on"
            witness.held = None
            wait_until(lambda: not alive(first.pid), "its agent learns that it is over")
        last = service.stepping(run, service.status(run)["step"] + 5, 60)["step"]
        service.cancel(run)
        last = service.ended(run, 60)["step"]
        assert home.starts(run) == [1, 2]
        found = service.checkpoints(run)
        assert {each["state"] for each in found.values()} == {"ready"}
        assert not stray & set(found) and set(found) >= saved_by(2, folder)
        before = saved_by(1, folder) & set(found)
        assert files == "shared" or before == saved_by(1, folder), "nothing of it came later"
        begins = max(found[name]["step"] for name in before) + 1
        for told in (steps(output(service, run)), [step for step, _ in service.losses(run)]):
            heard = len(told) - len(range(begins, last + 1))
            assert told[heard:] == list(range(begins, last + 1)), "nothing of the first after that"
            assert told[:heard] == list(range(1, heard + 1)) and heard < last
