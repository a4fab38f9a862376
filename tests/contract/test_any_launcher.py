"""The promises of every launcher (tests/support/launcher_contract.py), kept on this machine.

Slurm and Ray keep the same ones in tests/clusters; what only this machine can promise is in
test_local_agents.py and test_local_launcher.py.
"""

import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.recipes import LauncherTable, RecipeError
from app.launchers import BUILT_IN, GROUP, base, make_launcher
from app.launchers.base import LauncherContext
from tests.support import launcher_contract, shed
from tests.support.launcher_contract import LauncherContract, Site
from tests.support.newcomer import block, installed
from tests.support.server import REPOSITORY


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

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"wall": 1}, "unknown option 'wall'; known are directory."),
            ({}, "the option 'directory' is required."),
        ],
    )
    def test_a_wrong_option_is_named(
        self, options: dict[str, Any], sentence: str, site: Site, tmp_path: Path
    ) -> None:
        with pytest.raises(RecipeError) as caught:
            make_launcher(LauncherTable("site", "shed", options), LauncherContext(tmp_path, {}))
        assert str(caught.value) == f"[launchers.site] {sentence}"


def test_the_written_class_holds_a_launcher_to_the_contract(tmp_path: Path) -> None:
    example = re.search(r"(?m)(^ {4}.*\n|^\n)+^ {4}.*\n", launcher_contract.__doc__ or "")
    assert example is not None
    (tmp_path / "test_mine.py").write_text(textwrap.dedent(example[0]))
    with installed(tmp_path / "site", base.__doc__ or "", GROUP, shed):
        path = os.pathsep.join([str(REPOSITORY), os.environ["PYTHONPATH"]])
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "no_descendant",
             str(tmp_path / "test_mine.py")],
            cwd=tmp_path, env={**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": ""},
            capture_output=True, text=True,
        )  # fmt: skip
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout


def test_every_built_in_launcher_is_held_to_the_contract() -> None:
    on_clusters = {"slurm", "ray"}  # in tests/clusters
    assert {"local"} | on_clusters == set(BUILT_IN)
