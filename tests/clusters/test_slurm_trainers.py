"""The truth table of the trainers that people use (tests/support/trainer_truth.py), under Slurm."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster_trainers import ClusterService, cluster_trainers
from tests.support.slurm import SlurmCluster
from tests.support.slurm_home import slurm_site
from tests.support.trainer_truth import *  # noqa: F403

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def service(
    slurm: SlurmCluster, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterService]:
    nodes = tmp_path_factory.mktemp("nodes")
    with (
        slurm_site(slurm, nodes) as site,
        cluster_trainers(tmp_path_factory.mktemp("service"), inputs, site.table, nodes) as service,
    ):
        yield service
