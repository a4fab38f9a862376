"""What cannot be read now is not damage: it is waited for, for a bounded time, and said.

The files are real, and so is the error: a symbolic link in the place of a run's directory.
Control: with every OSError taken for damage all of these are red, and with no end of patience
`test_the_promise_…` is.
"""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from llm_train import checkpoint

from app.db.database import Database
from app.db.tables import Run
from app.domain import paths
from app.domain.paths import CheckpointPath
from app.domain.requests import ResumeRequest, VerifyRequest
from app.errors import CheckpointUnreadable
from app.services import resuming, runs, verification, verifications
from app.services.verification import VerificationResult
from app.services.verifications import Progress
from app.storage.base import CheckpointStorage
from app.storage.readers import Readers
from app.supervisor import schedule, verifying
from app.supervisor.reconcile import reconcile
from app.supervisor.state import READERS, SupervisorState
from app.supervisor.verifying import begin
from tests.support import supervisor as supervisor_support
from tests.support.database import postgresql_heavy
from tests.support.disk import exchange
from tests.support.stage import RECIPES, Stage, record_exit
from tests.support.supervisor import Recorder, open_state

pytestmark = [pytest.mark.anyio, postgresql_heavy]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(verifying, "LONGEST_PAUSE", 0.01)


def place_of(run: Run, data_dir: Path) -> Path:
    return data_dir / "ckpts" / run.experiment_id / run.id


async def save(stage: Stage, run: Run, data_dir: Path, name: str, step: int) -> None:
    """The trainer really commits a checkpoint, and reports it."""
    temporary = checkpoint.begin(place_of(run, data_dir), name)
    (temporary / "state.bin").write_bytes(bytes(100))
    _, manifest = checkpoint.commit(temporary, name, step)
    said = {"name": name, "step": step, "sha256": manifest.sha256}
    await stage.report(run, checkpoints=[said])


@contextmanager
def away(run: Run, data_dir: Path) -> Iterator[None]:
    """The directory of the run's checkpoints cannot be read."""
    place, loop = place_of(run, data_dir), data_dir / "loop"
    loop.symlink_to(loop)
    exchange(place, loop)
    try:
        yield
    finally:
        exchange(place, loop)  # at once: at no time is there nothing, which would be damage
        loop.unlink()


async def jobs(state: SupervisorState) -> None:
    await asyncio.wait_for(supervisor_support.jobs(state), 60)


async def ticks(state: SupervisorState, number: int = 70) -> None:
    """Let so many ticks pass, a second each."""
    for _ in range(number):
        state.listening_seconds += 1
        await asyncio.sleep(0.02)


async def parent_with(stage: Stage, state: SupervisorState, data_dir: Path, *steps: int) -> Run:
    """A run that has ended and left checkpoints, verified."""
    run = await stage.run("running")
    for step in steps:
        await save(stage, run, data_dir, f"step-{step:06d}", step)
    await verifying.verify(state)
    await jobs(state)
    await stage.report(run, batch=2, step=10, finished=True)
    return await stage.ends(run, exit_code=0)


async def states(stage: Stage, run: Run) -> dict[str, str]:
    found = await stage.checkpoints(run)
    return {each.ckpt_path.rpartition("/")[2]: each.state for each in found}


async def test_an_announced_one_stays_pending_until_it_can_be_read(
    db: Database, tmp_path: Path
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    run = await stage.run("running")
    await save(stage, run, tmp_path, "step-000005", 5)
    with away(run, tmp_path):
        announced = await stage.named(run, "step-000005")
        begin(state, paths.parse(announced.ckpt_path), announced.sha256)
        await ticks(state)
        assert await states(stage, run) == {"step-000005": "pending"}
    await jobs(state)
    await verifying.verify(state)
    await jobs(state)
    assert await states(stage, run) == {"step-000005": "ready"}


async def test_a_small_one_waits_for_no_large_ones(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    run, go = await stage.run("running"), threading.Event()
    look = verification.verify_files

    def slowly(
        storage: CheckpointStorage, path: CheckpointPath, expected: str | None
    ) -> VerificationResult:
        assert path.name == "step-000009" or go.wait(60)
        return look(storage, path, expected)

    monkeypatch.setattr(verification, "verify_files", slowly)
    for step in range(1, READERS + 1):
        name = f"step-{step:06d}"
        await save(stage, run, tmp_path, name, step)
        os.truncate(place_of(run, tmp_path) / name / "state.bin", 1 << 30)  # a hole, as if 100 GB
    await verifying.verify(state)
    await save(stage, run, tmp_path, "step-000009", 9)
    await verifying.verify(state)
    try:
        async with asyncio.timeout(60):
            while (await states(stage, run))["step-000009"] == "pending":
                await ticks(state, 1)
        found = await states(stage, run)
        assert found.pop("step-000009") == "ready" and set(found.values()) == {"pending"}
    finally:
        go.set()
        await jobs(state)


async def test_a_launch_waits_for_its_checkpoint_and_says_why(db: Database, tmp_path: Path) -> None:
    launcher = Recorder()
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    parent = await parent_with(stage, state, tmp_path, 5)
    child = await db.write(resuming.resume, parent.id, ResumeRequest(), RECIPES)
    with away(parent, tmp_path):
        await schedule.launch(state)
        async with asyncio.timeout(60):
            while not state.unreadable:
                await ticks(state, 1)
        await schedule.launch(state)
        waits = await stage.get(child)
        assert (waits.status, waits.status_reason) == ("queued", "waiting_for_checkpoint")
        assert "is not a directory of the service" in (waits.status_detail or "")
        assert "tried again" in (waits.status_detail or "")
    await jobs(state)
    assert launcher.launched == [child.id] and state.unreadable == {}
    begun = await stage.get(child)
    assert (begun.start_step, begun.status_detail) == (5, None)
    assert await states(stage, parent) == {"step-000005": "ready"}


async def test_a_launch_gives_up_after_a_minute_and_the_checkpoint_stays_what_it_is(
    db: Database, tmp_path: Path
) -> None:
    launcher = Recorder()
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    grandparent = await parent_with(stage, state, tmp_path, 3)
    parent = await db.write(resuming.resume, grandparent.id, ResumeRequest(), RECIPES)
    parent = await stage.claim(parent)
    await stage.report(parent, batch=1, step=5, total_steps=10)
    await save(stage, parent, tmp_path, "step-000005", 5)
    await verifying.verify(state)
    await jobs(state)
    await stage.report(parent, batch=2, step=10, finished=True)
    await stage.ends(parent, exit_code=0)
    child = await db.write(resuming.resume, parent.id, ResumeRequest(), RECIPES)
    with away(parent, tmp_path):
        await schedule.launch(state)
        await ticks(state)
        await jobs(state)
    begun = await stage.get(child)
    assert (begun.status, begun.start_step) == ("starting", 3)
    assert "could not be read" in (begun.status_detail or "")
    assert "This starts from" in (begun.status_detail or "")
    assert await states(stage, parent) == {"step-000005": "ready"}


async def test_with_nothing_else_to_start_from_the_run_fails_and_says_why(
    db: Database, tmp_path: Path
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    parent = await parent_with(stage, state, tmp_path, 5)
    child = await db.write(resuming.resume, parent.id, ResumeRequest(), RECIPES)
    with away(parent, tmp_path):
        await schedule.launch(state)
        await ticks(state)
        await jobs(state)
    failed = await stage.get(child)
    assert (failed.status, failed.status_reason) == ("failed", "checkpoint_missing")
    assert "could not be read" in (failed.status_detail or "")
    assert await states(stage, parent) == {"step-000005": "ready"}


async def test_the_promise_of_a_cancel_is_settled_in_bounded_time(
    db: Database, tmp_path: Path
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    run = await stage.run("running")
    await save(stage, run, tmp_path, "step-000005", 5)
    await verifying.verify(state)
    await jobs(state)
    await db.write(runs.cancel, run.id)
    await save(stage, run, tmp_path, "cancel-1", 6)
    directory = state.run_dir(run.id) / "attempt-1"
    directory.mkdir(parents=True)
    record_exit(directory, exit_code=0, stop_sent=True)
    with away(run, tmp_path):
        await reconcile(state)
        await ticks(state, 30)
        await reconcile(state)
        assert (await stage.get(run)).status == "cancelling"
        await ticks(state)
        await jobs(state)
        await reconcile(state)
        assert (await stage.get(run)).status == "cancelled"
    promised = await stage.named(run, "cancel-1")
    assert (promised.state, promised.step) == ("ready", 5)
    assert promised.reason is not None and "could not be read" in promised.reason
    assert await states(stage, run) == {"step-000005": "ready", "cancel-1": "ready"}


async def test_verify_says_that_it_cannot_tell_and_changes_nothing(
    db: Database, tmp_path: Path
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    run = await parent_with(stage, state, tmp_path, 3, 5)
    request = VerifyRequest(run_id=run.id)
    arguments = (db, Readers(1), state.storage, stage.experiment, request)
    with away(run, tmp_path), pytest.raises(CheckpointUnreadable, match="could not be read"):
        await verification.verify_all(*arguments)
    assert set((await states(stage, run)).values()) == {"ready"}
    verified = await verification.verify_all(*arguments)
    assert [each.checkpoint.state for each in verified] == ["ready", "ready"]


async def test_one_that_cannot_be_read_throws_away_nothing_that_is_found(
    db: Database, tmp_path: Path
) -> None:
    """It may take hours: each result is on record before the next checkpoint is read."""
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    first = await parent_with(stage, state, tmp_path, 1)
    second = await parent_with(stage, state, tmp_path, 2, 3)
    (place_of(second, tmp_path) / "step-000002/state.bin").write_bytes(b"damaged")

    on_record = []
    with away(first, tmp_path):
        everything = (db, Readers(1), state.storage, stage.experiment, VerifyRequest())
        async for each in verification.verify_each(*everything):
            found = await states(stage, second)
            on_record.append((each.unreadable is None, found["step-000002"], found["step-000003"]))
        verified = await verification.verify_all(*everything)
    assert on_record == [
        (False, "ready", "ready"), (True, "lost", "ready"), (True, "lost", "ready"),
    ]  # fmt: skip
    assert [each.unreadable is None for each in verified] == [False, True, True]
    assert await states(stage, first) == {"step-000001": "ready"}, "it stays what it is"


async def test_a_verification_in_the_background_goes_on_where_a_dead_server_left_it(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    first = await parent_with(stage, state, tmp_path, 1)
    second = await parent_with(stage, state, tmp_path, 2, 3)
    (place_of(second, tmp_path) / "step-000002/state.bin").write_bytes(b"damaged")
    started, _, _ = await db.write(verifications.start, stage.experiment, VerifyRequest())
    again = await db.write(verifications.start, stage.experiment, VerifyRequest())
    assert again.verification.id == started.id, "the same is asked for once"

    async def progress() -> Progress:
        return await db.read(verifications.get, started.id, stage.experiment)

    verify_files, go = verification.verify_files, threading.Event()
    read: list[str] = []

    def slowly(
        storage: CheckpointStorage, path: CheckpointPath, expected: str | None
    ) -> verification.VerificationResult:
        read.append(path.name)
        assert path.name != "step-000003" or go.wait(60)
        return verify_files(storage, path, expected)

    monkeypatch.setattr(verification, "verify_files", slowly)
    try:
        with away(first, tmp_path):
            await verifying.verify_requested(state)
            async with asyncio.timeout(60):
                while "step-000003" not in read:
                    await ticks(state, 1)
        found = await progress()
        assert (found.verification.total, found.counts) == (3, {"unreadable": 1, "lost": 1})
        assert found.verification.finished_at is None
        state.close()  # the server dies in the middle of the third
    finally:
        go.set()
    await jobs(state)

    await verifying.verify_requested(restarted := open_state(db, tmp_path, Recorder()))
    await jobs(restarted)
    found = await progress()
    assert found.verification.finished_at is not None
    outcomes = {each.ckpt_path.rpartition("/")[2]: each.outcome for each in found.findings}
    assert outcomes == {"step-000001": "unreadable", "step-000002": "lost", "step-000003": "ready"}
    assert read.count("step-000002") == 1, "what has a finding is not read again"
    assert await states(stage, first) == {"step-000001": "ready"}
