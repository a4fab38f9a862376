"""The promises of every launcher (tests/support/launcher_contract.py), kept on this machine.

Slurm and Ray keep the same ones in tests/clusters; what only this machine can promise is in
test_local_agents.py and test_local_launcher.py.
"""

from collections.abc import Iterator

import pytest

from app.launchers import BUILT_IN, GROUP, base
from tests.support import shed
from tests.support.launcher_contract import LauncherContract, Site
from tests.support.newcomer import block, installed


class TestLocal(LauncherContract):
    @pytest.fixture(scope="class")
    @classmethod
    def site(cls) -> Site:
        return Site("", "local")


class TestNewcomer(LauncherContract):
    """A launcher of another package, made and installed by the steps of its room alone."""

    @pytest.fixture(scope="class")
    @classmethod
    def site(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
        folder, steps = tmp_path_factory.mktemp("newcomer"), base.__doc__ or ""
        with installed(folder / "site", steps, GROUP, shed):
            table = block(steps, "launchers.site")
            yield Site(table.replace("/var/lib/shed", str(folder / "machine")))


def test_every_built_in_launcher_is_held_to_the_contract() -> None:
    on_clusters = {"slurm", "ray"}  # in tests/clusters
    assert {"local"} | on_clusters == set(BUILT_IN)
