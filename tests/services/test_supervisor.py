"""The supervisor's steps, one at a time.

Each was seen red: Busy taken for a bad line, a queue remembered past a cancel of the run that
the others wait behind, `starting` cleared by a `finally`, disks looked at on the event loop.
"""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.agent.process import NONCE
from app.db.database import Database
from app.domain.lifecycle import Reason
from app.domain.permissions import DEFAULT_PROJECT
from app.domain.queue import Holder
from app.domain.requests import ResumeRequest, RunRequest
from app.domain.resources import Allocation
from app.errors import Busy, ServiceError, Unavailable
from app.launchers.base import JobState, JobStatus, Key
from app.services import checkpoints, endings, live_runs, reports, resuming, runs
from app.services.live_runs import QueueCursor
from app.settings import PREFIX, TRAINERS
from app.storage import files
from app.supervisor import pools, schedule, start
from app.supervisor.reconcile import reconcile
from app.supervisor.verifying import verify
from tests.support.database import postgresql_heavy
from tests.support.stage import RECIPES, Stage, record_exit
from tests.support.supervisor import TINY, Recorder, jobs, launch, open_state

pytestmark = [pytest.mark.anyio, postgresql_heavy]


@pytest.mark.parametrize("trouble", [Busy("Too much waits."), Unavailable("It is away.")])
async def test_what_a_trainer_left_is_taken_in_before_its_end_is_judged(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: ServiceError
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, Recorder())
    run = await stage.run("running")
    directory = state.run_dir(run.id) / "attempt-1"
    directory.mkdir(parents=True)
    bodies = [{"attempt": 1, "batch": 2 + n, "step": 5 + n, "total_steps": 255} for n in range(250)]
    lines = [json.dumps(each) for each in bodies]
    lines[7], lines[8] = "no report", "[" * 100_000
    last: dict[str, Any] = {"attempt": 1, "batch": 252, "step": 255, "finished": True}
    last |= {"effective_hyperparams": {"seed": 2**70}, "metrics": {"loss": {"steps": [-1]}}}
    lines.append(json.dumps(last))
    (directory / "reports.jsonl").write_text("\n".join(lines))
    record_exit(directory, exit_code=0)
    write, calls = db.write, 0

    async def fails_at_times(use_case: Any, *args: Any) -> Any:
        nonlocal calls
        calls += use_case is reports.ingest
        if use_case is reports.ingest and calls in (1, 120):
            raise trouble
        return await write(use_case, *args)

    monkeypatch.setattr(db, "write", fails_at_times)
    for _ in range(2):
        await reconcile(state)
        await jobs(state)
        assert (await stage.get(run)).status == "running"
    await reconcile(state)
    await jobs(state)
    await reconcile(state)
    ended = await stage.get(run)
    assert (ended.status, ended.step, ended.last_batch) == ("succeeded", 255, 252)


async def test_who_waits_behind_a_run_is_free_when_that_one_is_cancelled(
    db: Database, tmp_path: Path
) -> None:
    launcher = Recorder()
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    holds = await stage.submit(resources={"count": 1})
    await launch(state)
    large = await stage.submit(resources={"count": 2})
    behind = await stage.submit(resources={"count": 1})
    for _ in range(2):
        await launch(state)
    waits = await stage.get(behind)
    said = "Waits behind an older run that needs GPUs. It is number 2 in the queue."
    assert waits.status_detail == said
    assert launcher.launched == [holds.id]
    await db.write(runs.cancel, large.id)
    await launch(state)
    assert launcher.launched == [holds.id, behind.id]


async def test_the_settings_know_what_a_trainer_gets(db: Database, tmp_path: Path) -> None:
    launcher = Recorder()
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    await stage.submit()
    await launch(state)
    names = {name for name in launcher.env if name.startswith(PREFIX)} | {NONCE}
    assert names == {PREFIX + name for name in TRAINERS}


async def test_a_start_cancelled_before_its_first_step_is_made_when_we_lead_again(
    db: Database, tmp_path: Path
) -> None:
    launcher = Recorder()
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    run = await stage.submit()
    state.begin_tick(leads=True)
    state.over_limit[run.id], state.pending_deletion = 1, True
    held = Holder(run.id, DEFAULT_PROJECT, run.priority, Allocation(), 0, "")
    start.begin_start(state, run, TINY, "local", held, [])
    state.begin_tick(leads=False)
    await jobs(state)
    assert (state.starting, state.over_limit, state.pending_deletion) == ({}, {}, False)
    state.begin_tick(leads=True)
    await launch(state)
    assert launcher.launched == [run.id]


async def test_no_disk_is_looked_at_on_the_event_loop(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs (NFS) would hold up every request."""
    looked: dict[str, threading.Thread] = {}

    class Alive(Recorder):
        def look(self, keys: Sequence[Key]) -> Mapping[Key, JobStatus]:
            looked["look"] = threading.current_thread()
            return {key: JobStatus(JobState.RUNNING, pid=1) for key in keys}

        def exit_fd(self, key: Key) -> None:
            looked["exit_fd"] = threading.current_thread()

    exists = files.exists

    def seen(folder: int, name: str) -> bool:
        looked[name] = threading.current_thread()
        return exists(folder, name)

    stage, state = await Stage.open(db), open_state(db, tmp_path, Alive())
    run = await stage.run("running")
    state.run_dir(run.id).mkdir(parents=True)
    await stage.report(run, checkpoints=[{"name": "announced", "step": 5}])
    (tmp_path / "ckpts" / run.experiment_id / run.id).mkdir(parents=True)
    monkeypatch.setattr(files, "exists", seen)
    await reconcile(state)
    await verify(state)
    assert looked.keys() >= {"look", "exit_fd", "announced"}
    assert threading.main_thread() not in looked.values()


async def test_a_path_that_stands_for_another_is_not_looked_for(db: Database) -> None:
    stage = await Stage.open(db)
    parent = await stage.run("cancelling")
    child = await db.write(resuming.resume, parent.id, ResumeRequest(), RECIPES)
    await db.write(runs.cancel, child.id)
    (promised,) = await stage.checkpoints(child)
    assert promised.state == "pending" and promised.stored_as_id is not None
    assert [each.run_id for each in await db.read(checkpoints.list_pending)] == [parent.id]


async def test_who_has_reported_meanwhile_is_not_silent(db: Database) -> None:
    stage = await Stage.open(db)
    seen = await stage.run("running")
    await stage.report(seen, batch=2, step=6)
    assert not await db.write(endings.request_termination, seen, Reason.HEARTBEAT_LOST, "Silence.")
    now = await stage.get(seen)
    assert now.status_reason is None
    assert await db.write(endings.request_termination, now, Reason.HEARTBEAT_LOST, "Silence.")
    assert (await stage.get(seen)).termination_reason == "heartbeat_lost"


async def test_a_start_that_the_disk_refuses_says_so_and_is_made_when_it_can(
    db: Database, tmp_path: Path
) -> None:
    launcher = Recorder()
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    run = await stage.submit()
    in_the_way = tmp_path / "runs"
    in_the_way.touch()
    for _ in range(2):
        await launch(state)
    waits = await stage.get(run)
    assert (waits.status, waits.status_reason) == ("queued", "waiting_for_resources")
    assert waits.status_detail == "Its directory cannot be written: Not a directory."
    in_the_way.unlink()
    await launch(state)
    assert launcher.launched == [run.id]


async def test_a_run_whose_id_is_older_than_those_that_wait_is_found(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock was set back, or a transaction of another server took longer."""
    monkeypatch.setattr(schedule, "COUNT_SECONDS", 0.0)
    launcher = Recorder()
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    await stage.submit(resources={"count": 99})
    await launch(state)
    now = time.time_ns()
    with monkeypatch.context() as clock:
        clock.setattr(time, "time_ns", lambda: now - 3600 * 10**9)
        late = await stage.submit()
    await launch(state)
    assert launcher.launched == [late.id]


async def test_a_run_of_an_unknown_recipe_waits_for_a_server_that_knows_it(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "COUNT_SECONDS", 0.0)
    launcher = Recorder()
    stage, state = await Stage.open(db), open_state(db, tmp_path, launcher)
    state.recipes = {"other": TINY}
    run = await stage.submit(resources={"count": 2})
    await launch(state)
    # What stays in the queue is counted, so that it need not be looked at again.
    assert state.queue is not None
    (head,) = await db.read(live_runs.list_queued, QueueCursor(), 1)
    assert await schedule._get_snapshot(state, await pools.look(state, head)) is state.queue
    younger = await db.write(
        runs.submit, stage.experiment, RunRequest(model="m", recipe="other"), state.recipes
    )
    await launch(state)
    waits = await stage.get(run)
    assert (waits.status, waits.status_reason) == ("queued", "waiting_for_resources")
    assert waits.status_detail == (
        "The recipe 'tiny' is not configured on this server: add it to the file of "
        "LLM_TRAIN_RECIPES and restart the server, or cancel the run."
    )
    assert launcher.launched == [younger.id]
    await launch(open_state(db, tmp_path, launcher))
    assert launcher.launched == [younger.id, run.id]
    events = [each.type for each in await stage.events() if each.run_id == run.id]
    assert events == ["run.queued", "run.waiting", "run.starting"]
