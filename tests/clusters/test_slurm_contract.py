"""The promises of every launcher (tests/support/launcher_contract.py), kept on a real Slurm."""

from collections.abc import Iterator

import pytest

from tests.support.launcher_contract import LauncherContract, Site
from tests.support.slurm import SlurmCluster
from tests.support.slurm_home import slurm_site


class TestSlurm(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
        with slurm_site(slurm, tmp_path_factory.mktemp("nodes"), late_seconds=6.0) as site:
            yield site
