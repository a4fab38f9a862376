"""Fixtures of the tests of the trainer's side: a server that takes reports, and LLM_TRAIN_*."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.trainer import courier, delivery
from tests.support.reports import ReportServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReportServer]:
    """A server that takes reports; a reporter beside it has no second to lose."""
    monkeypatch.setattr(courier, "SEAL_SECONDS", 0.05)
    monkeypatch.setattr(courier, "BACKOFF_SECONDS", (0.02, 0.1))
    monkeypatch.setattr(delivery, "TIMEOUT_SECONDS", 0.3)
    server = ReportServer()
    yield server
    server.stop()
    assert server.errors == []


@pytest.fixture
def environment(
    server: ReportServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """The environment of a trainer that the service launched, and its signal handlers."""
    for name in list(os.environ):
        if name.startswith("LLM_TRAIN_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LLM_TRAIN_API_URL", server.url)
    monkeypatch.setenv("LLM_TRAIN_RUN_ID", "run_1")
    monkeypatch.setenv("LLM_TRAIN_RUN_TOKEN", "secret")
    monkeypatch.setenv("LLM_TRAIN_ATTEMPT", "1")
    monkeypatch.setenv("LLM_TRAIN_RUN_DIR", str(tmp_path))
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
