"""Attempts of the local launcher, for its contract suites."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.launchers import Attempts, end_all
from tests.support.server import reap
from tests.support.supervisor import local_launcher


@pytest.fixture
def attempts(tmp_path: Path) -> Iterator[Attempts]:
    made = Attempts(local_launcher(tmp_path / "data", gpus=["A100"]), tmp_path / "data")
    made.root.mkdir(parents=True)
    yield made
    end_all(made.nonces)
    reap()
