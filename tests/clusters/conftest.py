"""Real servers for the tests of this folder, which `.ci/run` installs and starts by name."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]

from tests.support import buckets
from tests.support.ministack import CREDENTIALS, Gate, ministack
from tests.support.ray import RayCluster, ray_cluster
from tests.support.service import Service
from tests.support.slurm import SlurmCluster, slurm_cluster
from tests.support.slurm_home import SlurmHome, slurm_home

FEW = ("hf", "loop-ddp", "mlflow", "mlflow-proves")
"""Of the real trainers: one alone, one with ranks, and the one that knows MLflow alone."""
_ENGINES = ("test_slurm_trainers.py", "test_ray_trainers.py")
_WAITING = ("test_slurm_longer", "test_slurm_cut", "test_slurm_accounting", "test_slurm_chaos")
"""These heavy ones wait for minutes while others compute."""
_LONG = (
    *_WAITING,
    "test_ray_trainers", "test_ray", "test_ray_longer",
    "test_slurm_trainers", "test_slurm", "test_slurm_contract",
)  # fmt: skip
"""These take minutes: they begin, and others fill the gaps that they leave. The last test of Ray
leaves it a dead node."""
_ALONE = ("trainers", "services", "chaos", "stateful")
"""Folders whose tests share no more than a service."""


class Groups(LoadFileScheduling):  # type: ignore[misc]
    """The tests of a module go to one worker, and all of Ray: its clusters take long to start.

    So do those that wait: two of them at a time would leave the processor without work. Trainers
    and a long test of another folder go alone.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = PurePath(nodeid.partition("::")[0])
        if file.parent.name in _ALONE:
            return nodeid
        if file.parent.name != "clusters":
            return str(file)
        if file.stem in _WAITING:
            return "waiting"
        return "ray" if file.stem.startswith("test_ray") else str(file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Groups:
    """Have xdist use it."""
    return Groups(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take FEW of the real trainers, the long modules first, and short tests of trainers last."""
    _leave_few(config, items)
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    folder, module = item.path.parent.name, item.path.stem
    if folder == "clusters" and module in _LONG:
        return _LONG.index(module)
    return len(_LONG) + (folder == "trainers")


def _leave_few(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave each cell of FEW in the gate on one of both engines: each takes seconds to start.

    Each engine has the whole truth table of tests/support/truth.py besides.
    `LLM_TRAIN_TEST_TRAINERS=all` takes each trainer on each engine.
    """
    if os.environ.get("LLM_TRAIN_TEST_TRAINERS") == "all":
        return
    left: list[pytest.Item] = []
    out: list[pytest.Item] = []
    cells = {name: 0 for name in _ENGINES}
    for item in items:
        if (name := item.path.name) not in _ENGINES:
            left.append(item)
            continue
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        is_few = parameters.get("trainer", FEW[0]) in FEW
        cells[name] += is_few
        is_here = cells[name] % len(_ENGINES) == _ENGINES.index(name)
        (left if is_few and is_here else out).append(item)
    config.hook.pytest_deselected(items=out)
    items[:] = left


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 server, whose credentials this process has."""
    directory = tmp_path_factory.mktemp("ministack")
    with pytest.MonkeyPatch.context() as patch, ministack(directory) as url:
        for name, value in {**CREDENTIALS, buckets.SERVER: url}.items():
            patch.setenv(name, value)
        yield url


@pytest.fixture
def gate(s3: str) -> Iterator[Gate]:
    """A way to that server that can be shut."""
    with Gate(s3) as gate:
        yield gate


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """Three nodes; what a test breaks of it, the test mends."""
    with slurm_cluster(tmp_path_factory.mktemp("slurm"), 3) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def ray() -> Iterator[RayCluster]:
    """A head; what a test breaks of it, the test mends."""
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as directory,
        ray_cluster(Path(directory)) as cluster,  # the paths of its sockets must be short
    ):
        yield cluster


@pytest.fixture
def home(tmp_path: Path, slurm: SlurmCluster) -> Iterator[SlurmHome]:
    with slurm_home(tmp_path, slurm) as home:
        yield home


@pytest.fixture
def service(home: SlurmHome) -> Iterator[Service]:
    """A server whose trainers run on Slurm."""
    with home.serve() as service:
        yield service


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
