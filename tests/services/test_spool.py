"""What a trainer could not deliver: whatever stands in its spool, its end is told in time."""

import asyncio
import errno
import json
import os
import threading
import tracemalloc
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.db.database import Database
from app.db.tables import Run
from app.domain.lifecycle import Reason
from app.services import limits, metrics
from app.supervisor.reconcile import reconcile
from app.supervisor.state import SupervisorState
from tests.support.database import postgresql_heavy
from tests.support.stage import Stage, record_exit
from tests.support.supervisor import Recorder, jobs, open_state

pytestmark = [pytest.mark.anyio, postgresql_heavy]


async def exited(stage: Stage, state: SupervisorState) -> tuple[Run, Path]:
    """A run whose trainer has just exited with code 0; its spool, which is yet to be made."""
    run = await stage.run("running")
    directory = state.run_dir(run.id) / "attempt-1"
    directory.mkdir(parents=True)
    record_exit(directory, exit_code=0)
    return run, directory / "reports.jsonl"


@pytest.mark.parametrize("kind", [os.mkdir, os.mkfifo])
async def test_a_spool_that_is_no_file_holds_up_no_end(
    db: Database, tmp_path: Path, kind: Callable[[Path], None]
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    run, spool = await exited(stage, state)
    kind(spool)
    release = threading.Timer(30, lambda: kind is os.mkdir or spool.write_bytes(b""))
    release.start()  # a step that waits for a writer would wait for ever
    await reconcile(state)
    has_waited = release.finished.is_set()
    release.cancel()
    assert (await stage.get(run)).status_reason == Reason.UNFINISHED
    assert not has_waited


async def test_a_spool_that_cannot_be_read_is_waited_for_and_given_up_after_a_minute(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    runs = [await exited(stage, state) for _ in range(2)]
    really, broken = os.open, {run.id for run, _ in runs}
    for _, path in runs:
        path.write_text(json.dumps({"attempt": 1, "batch": 2, "finished": True}) + "\n")

    def fails(path: Any, *more: Any, **named: Any) -> int:
        if path == "reports.jsonl":
            folder = Path(f"/proc/self/fd/{named['dir_fd']}").readlink()
            if any(run_id in folder.parts for run_id in broken):
                raise OSError(errno.EIO, "Input/output error")
        return really(path, *more, **named)

    monkeypatch.setattr(os, "open", fails)
    await reconcile(state)
    state.listening_seconds += 59
    await reconcile(state)
    assert [(await stage.get(run)).status for run, _ in runs] == ["running", "running"]

    broken.remove(runs[0][0].id)
    await reconcile(state)
    state.listening_seconds += 1
    await reconcile(state)
    assert [(await stage.get(run)).status for run, _ in runs] == ["succeeded", "failed"]


async def test_points_are_taken_in_though_more_checkpoints_are_announced_than_a_run_may_have(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_HISTORY_BYTES", 0)
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    run, spool = await exited(stage, state)
    report: dict[str, Any] = {"attempt": 1, "batch": 2, "finished": True}
    report["metrics"] = {"loss": {"steps": [6], "values": [1.0]}}
    report["checkpoints"] = [{"name": "step-6", "step": 6}]
    report["effective_hyperparams"] = {"seed": 1}
    spool.write_text(json.dumps(report) + "\n")
    await reconcile(state)
    await jobs(state)  # a tick waits for 0.2 s only
    await reconcile(state)
    ended = await stage.get(run)
    assert (ended.status, ended.step) == ("succeeded", 6)
    assert [row.key for row in await db.read(metrics.list_latest, run.id)] == ["loss"]


async def test_a_line_that_is_no_request_is_never_in_memory(db: Database, tmp_path: Path) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    run, spool = await exited(stage, state)
    with spool.open("wb") as file:  # the holes that a power cut leaves read as zeros
        for batch in (2, 3):
            file.write(json.dumps({"attempt": 1, "batch": batch, "step": 5 + batch}).encode())
            file.write(b"\n")
            file.truncate(file.seek(128 << 20, os.SEEK_CUR))
            file.write(b"\n")
        file.write(json.dumps({"attempt": 1, "batch": 4, "finished": True}).encode())
    tracemalloc.start()
    try:
        await reconcile(state)
        await jobs(state)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    await reconcile(state)
    ended = await stage.get(run)
    assert (ended.status, ended.step, ended.last_batch) == ("succeeded", 8, 4)
    assert peak < 64 << 20


async def test_a_spool_of_30_gb_delays_neither_other_runs_nor_its_own_end(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sparse, so that a trainer makes it in no time; and one of a million lines of nothing."""
    monkeypatch.setattr("app.supervisor.spool.LONGEST_LINE", 64 << 20)  # 1 GB takes 6 s
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    huge, spool = await exited(stage, state)
    with spool.open("wb") as file:
        file.truncate(30 << 30)
    noisy, spool = await exited(stage, state)
    spool.write_bytes(b"\n" * 1_000_000)
    read = psutil.Process().io_counters().read_chars
    tick_is_over, start_job = asyncio.Event(), SupervisorState.start_job

    def start_held(state: SupervisorState, about: str, work: Coroutine[Any, Any, object]) -> Any:
        async def held() -> None:  # else a short one may have ended before it is looked for
            async with asyncio.timeout(30):
                await tick_is_over.wait()
            await work

        return start_job(state, about, held())

    with monkeypatch.context() as patch:
        patch.setattr(SupervisorState, "start_job", start_held)
        await reconcile(state)
    assert len(state.jobs) == 2, "the tick is over, and both are read beside it"
    tick_is_over.set()
    await jobs(state)
    await reconcile(state)
    read = psutil.Process().io_counters().read_chars - read
    assert read < 3 * (64 << 20), "no more of it than the longest line that a report may be"
    for run in (huge, noisy):
        assert (await stage.get(run)).status_reason == Reason.UNFINISHED
