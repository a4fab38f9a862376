"""Real servers for the tests of this folder, which `.ci/run` installs and starts by name."""

import os
from collections.abc import Iterator

import pytest

from tests.support import buckets
from tests.support.ministack import CREDENTIALS, Gate, ministack


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an S3 server, whose credentials this process has."""
    directory = tmp_path_factory.mktemp("ministack")
    with pytest.MonkeyPatch.context() as patch, ministack(directory) as url:
        for name, value in {**CREDENTIALS, buckets.SERVER: url}.items():
            patch.setenv(name, value)
        yield url


@pytest.fixture
def gate(s3: str) -> Iterator[Gate]:
    """A way to that server that can be shut."""
    with Gate(s3) as gate:
        yield gate


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
