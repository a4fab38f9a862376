"""Real servers for the tests of this folder, which `.ci/run` installs and starts by name."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import buckets
from tests.support.ministack import CREDENTIALS, Gate, ministack
from tests.support.ray import RayCluster, ray_cluster
from tests.support.service import Service
from tests.support.slurm import SlurmCluster, slurm_cluster
from tests.support.slurm_home import SlurmHome, slurm_home

FEW = ("hf", "loop-ddp", "mlflow", "mlflow-proves")
"""Of the real trainers: one alone, one with ranks, and the one that knows MLflow alone."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave FEW of the real trainers in the gate: each of their runs takes seconds to start.

    `LLM_TRAIN_TEST_TRAINERS=all` takes each of them.
    """
    if os.environ.get("LLM_TRAIN_TEST_TRAINERS") == "all":
        return
    left: list[pytest.Item] = []
    out: list[pytest.Item] = []
    for item in items:
        is_real = item.path.name in ("test_slurm_trainers.py", "test_ray_trainers.py")
        parameters = getattr(getattr(item, "callspec", None), "params", {})
        (out if is_real and parameters.get("trainer", FEW[0]) not in FEW else left).append(item)
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
