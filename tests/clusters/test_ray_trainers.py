"""The truth table of the trainers that people use (tests/support/trainer_truth.py), under Ray."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster_trainers import ClusterService, cluster_trainers
from tests.support.ray import RayCluster, table
from tests.support.trainer_truth import *  # noqa: F403

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def service(
    ray: RayCluster, inputs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ClusterService]:
    nodes = tmp_path_factory.mktemp("nodes")
    folder = tmp_path_factory.mktemp("service")
    with cluster_trainers(folder, inputs, table(ray, nodes), nodes) as service:
        yield service
