"""One service with the recipes of all real trainers, and their tiny inputs, for each test process.

These tests need the extra `trainers` and are not part of the README's command: .ci/run starts them.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.real_trainers import recipes
from tests.support.service import Home, Service


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a model, a tokenizer and a data set; see inputs.py."""
    folder = tmp_path_factory.mktemp("inputs")
    script = Path(__file__).parent / "inputs.py"
    subprocess.run([sys.executable, script, folder], check=True, timeout=120)
    return folder


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Iterator[Service]:
    """A running service; each test submits runs of its own."""
    folder = tmp_path_factory.mktemp("service")
    place = Home(folder, settings={"RECIPES": str(recipes(folder, inputs))})
    with place.serve() as service:
        yield service
