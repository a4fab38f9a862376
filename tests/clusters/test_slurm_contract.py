"""The promises of every launcher (tests/support/launcher_contract.py), kept on a real Slurm."""

import sys
from collections.abc import Iterator

import pytest

from tests.support.launcher_contract import LauncherContract, Site
from tests.support.slurm import SlurmCluster


class TestSlurm(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, slurm: SlurmCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
        folder = tmp_path_factory.mktemp("nodes")
        table = (
            f'[launchers.site]\nkind = "slurm"\ndirectory = "{folder}"\nlook_seconds = 0.5\n'
            f'python = "{sys.executable}"\ncall_seconds = 5\n'
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
            yield Site(table, late_seconds=6.0)
        slurm.run("scancel", "--user=root", check=False)
