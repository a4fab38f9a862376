"""Fixtures that tests of several folders share."""

import gc
import os
import sys

import pytest
from hypothesis import HealthCheck, settings

# The tests start a thousand processes; without bytecode each would compile the service again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

gc.disable()  # half a million objects are made until all tests are collected, and they stay

# A machine where several processes test is slow now and then: that says nothing about the code.
settings.register_profile(
    "busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("busy")

pytest.register_assert_rewrite(
    "tests.support.launcher_contract",
    "tests.support.storage_contract",
    "tests.support.trainer_truth",
)

from tests.support.database import (  # noqa: E402
    anyio_backend,
    database_url,
    databases,
    db,
    empty_database_url,
    module_database_url,
    postgresql,
    postgresql_databases,
    sqlite_databases,
)
from tests.support.real_trainers import inputs  # noqa: E402
from tests.support.server import server  # noqa: E402


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what .ci/run selects: what needs more than the extra `test`, what is heavy somewhere."""
    for item in items:
        if item.path.parent.name in ("trainers", "clusters"):
            item.add_marker("gate")
        if isinstance(item, pytest.Function) and item.get_closest_marker("postgresql_heavy"):
            params = item.callspec.params if hasattr(item, "callspec") else {}
            if params.get("databases") == "postgresql":
                item.add_marker("heavy")


def pytest_collection_finish() -> None:
    """Collect garbage again, but do not walk what the imports and the collection have made."""
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000, 20, 100)  # most tests end before; the rest is as good a moment later


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped test is a failed one: it proves nothing there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


__all__ = [
    "anyio_backend",
    "database_url",
    "databases",
    "db",
    "empty_database_url",
    "inputs",
    "module_database_url",
    "postgresql",
    "postgresql_databases",
    "server",
    "sqlite_databases",
]
