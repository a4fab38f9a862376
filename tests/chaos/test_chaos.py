"""A short storm, audited, and the audit itself: each planted breach is found."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos import hostile, races
from tests.chaos.audit import audit
from tests.chaos.storm import Story, storm
from tests.support.server import REPOSITORY

pytestmark = pytest.mark.heavy

SEED = 20_260_101


@pytest.mark.parametrize("arguments", ["--kills 20", "--server-kills 40"])
@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_a_longer_storm(arguments: str, database: str) -> None:
    command = [sys.executable, "-m", "tests.chaos", *arguments.split(), "--database", database]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)


def test_no_hostile_caller_escapes(tmp_path: Path, database_url: str) -> None:
    rows = hostile.hostile(tmp_path, database_url)
    print(hostile.table(rows))
    assert [escape for row in rows for escape in row.escapes] == []
    assert all(row.attempts > 30 for row in rows)
    assert sum(row.attempts for row in rows) > 2_000


def test_an_attempt_that_succeeds_and_one_that_changes_something_are_counted_as_escapes(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: callers who may do what they try."""
    real = hostile.Siege.__init__

    def everybody_is_alice(siege: hostile.Siege, url: str) -> None:
        real(siege, url)
        siege.tenants.bob = siege.viewer = siege.tenants.alice

    monkeypatch.setattr(hostile.Siege, "__init__", everybody_is_alice)
    kinds = {name: kind for name, kind in hostile.KINDS.items() if "maintainer" in name}
    (row,) = hostile.hostile(tmp_path, database_url, kinds)
    assert any(": 200 " in escape for escape in row.escapes)
    assert any(escape.startswith("alice's data were") for escape in row.escapes)


class Scene(NamedTuple):
    """A storm that is over, and what it left."""

    directory: Path
    story: Story
    url: str

    def audit(self) -> list[str]:
        return asyncio.run(audit(self.story, self.url, self.directory / "data"))

    def sql(self, statement: str) -> list[tuple[str, ...]]:
        with closing(sqlite3.connect(self.directory / "app.db", isolation_level=None)) as db:
            return db.execute(statement).fetchall()


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    directory = tmp_path_factory.mktemp("storm")
    url = f"sqlite:///{directory / 'app.db'}"
    yield Scene(directory, storm(directory, 5, SEED, DATABASE_URL=url), url)


def test_nothing_is_lost_doubled_orphaned_or_stuck_in_a_storm(scene: Scene) -> None:
    assert scene.audit() == []
    assert sum(scene.story.kills.values()) >= 5
    assert len(scene.story.acknowledged) > 20 and len(scene.story.runs) > 5


def test_the_audit_finds_each_planted_breach(scene: Scene) -> None:
    """Runs last: it breaks what it finds."""
    assert scene.audit() == []
    (run, checkpoint), *_ = scene.sql(
        "SELECT run_id, ckpt_path FROM checkpoint WHERE state = 'ready' AND stored_as_id IS NULL"
    )
    ledger = scene.directory / "data" / "runs" / run / "launches.txt"
    ledger.write_text(ledger.read_text() * 2)
    assert any("launched 2 times" in each for each in scene.audit())

    files = scene.directory / "data" / checkpoint.lstrip("/")
    content = bytearray((files / "state.json").read_bytes())
    content[0] ^= 1
    (files / "state.json").write_bytes(content)
    assert any("ready and not whole" in each for each in scene.audit())

    scene.sql(f"UPDATE run SET status = 'running' WHERE id = '{run}'")
    assert any(f"{run}: running after" in each for each in scene.audit())

    twice, once = [each.key for each in scene.story.acknowledged if each.kind == "submit"][:2]
    scene.sql(f"UPDATE run SET notes = '{twice}' WHERE notes = '{once}'")
    found = scene.audit()
    assert f"submit {twice}: 2 runs" in found and f"submit {once}: 0 runs" in found

    scene.sql("DELETE FROM event WHERE seq = 2")
    assert any("seq has gaps" in each for each in scene.audit())


def test_cancels_race_with_everything(tmp_path: Path) -> None:
    assert races.cancels(tmp_path, 16, SEED, f"sqlite:///{tmp_path}/app.db") == []


def test_no_damage_is_offered_as_ready(tmp_path: Path) -> None:
    assert races.damages(tmp_path, 60, SEED, f"sqlite:///{tmp_path}/app.db") == []


def test_a_restart_costs_no_point(tmp_path: Path) -> None:
    assert races.restarts(tmp_path, 2, SEED, f"sqlite:///{tmp_path}/app.db", 300) == []
