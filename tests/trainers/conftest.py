"""One service with the recipes of all real trainers, and their tiny inputs, for each test process.

These tests need the extra `trainers` and are not part of the README's command: .ci/run starts them.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.real_trainers import recipes
from tests.support.service import Home, Service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> Iterator[Service]:
    """A running service; each test submits runs of its own."""
    folder = tmp_path_factory.mktemp("service")
    place = Home(folder, settings={"RECIPES": str(recipes(folder, inputs))})
    with place.serve() as service:
        service.poll_seconds = 0.2  # each look costs what a trainer could use
        yield service
