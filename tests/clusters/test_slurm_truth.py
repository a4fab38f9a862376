"""The truth table of trainers (tests/support/truth.py) under a real Slurm."""

from collections.abc import Iterator

import pytest

from tests.support.launcher_contract import Site
from tests.support.slurm import SlurmCluster
from tests.support.slurm_home import slurm_site
from tests.support.truth import TruthTable


class TestSlurm(TruthTable):
    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
        with slurm_site(slurm, tmp_path_factory.mktemp("nodes")) as site:
            yield site
