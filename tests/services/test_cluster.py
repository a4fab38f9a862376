"""An engine that owns its queue: a run is submitted at once, and starts when its agent claims it.

The engine is played by `Cluster`, which shares no files and only writes down what it is asked.
"""

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from app.agent.mailbox import ExitRecord
from app.db.database import Database
from app.db.sql import Tx
from app.db.tables import Run
from app.domain.attempts import ExitRequest
from app.domain.evidence import Cause
from app.domain.permissions import DEFAULT_PROJECT
from app.domain.recipes import Recipe
from app.domain.resources import Kind, Resources, Shortage
from app.domain.team import ProjectUpdate
from app.domain.tokens import claim_code
from app.launchers.base import (
    HttpMailboxAddress,
    Job,
    JobState,
    JobStatus,
    Key,
    Submission,
    Unreachable,
)
from app.services import attempts, projects, quotas, runs, usage
from app.settings import Settings
from app.supervisor import job_status, schedule
from app.supervisor.engines import end_jobs
from app.supervisor.reconcile import reconcile
from app.supervisor.state import SupervisorState
from tests.support.clock import is_soon
from tests.support.database import postgresql_heavy
from tests.support.stage import Stage
from tests.support.supervisor import Recorder, jobs, launch

pytestmark = [pytest.mark.anyio, postgresql_heavy]

SECRET = "s" * 32
PENDING = JobStatus(JobState.QUEUED, engine_id="4711", word="PENDING", reason_text="Resources")
RUNNING = JobStatus(JobState.RUNNING, engine_id="4711", word="RUNNING")


class Cluster:
    """An engine with a queue; what it says of every job is `status`."""

    name, owns_queue, shares_files = "slurm", True, False
    look_seconds: float = 0.0
    max_pending: int | None = None

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.jobs: list[Job] = []
        self.killed: list[Key] = []
        self.status = PENDING
        self.reachable = True

    def offer(self) -> None:
        return None

    def check(self, resources: Resources) -> Shortage | None:
        too_many = (resources.nodes or 1) > 3
        return (
            Shortage("Needs 9 nodes; the partition has 3.", True, Kind.NODES) if too_many else None
        )

    def submit(self, job: Job) -> Submission:
        self.jobs.append(job)
        return Submission("4711")

    def look(self, keys: Sequence[Key]) -> Mapping[Key, JobStatus]:
        self.answers.wait(60)
        if not self.reachable:
            raise Unreachable("slurmctld does not answer")
        return dict.fromkeys(keys, self.status)

    def choose_avoided(self, nodes: Sequence[str], resources: Resources) -> Sequence[str]:
        return nodes

    def stop(self, keys: Sequence[Key]) -> None:
        raise AssertionError("the mailbox is the way")

    def kill(self, keys: Sequence[Key]) -> None:
        self.killed += keys

    def strays(self) -> Sequence[Key]:
        return [job.key for job in self.jobs]


async def open_cluster(
    db: Database, data_dir: Path, **more: object
) -> tuple[Stage, SupervisorState, Cluster]:
    recipe = replace(Recipe("tiny", ("true",), launcher=("slurm",)), **more)  # type: ignore[arg-type]
    cluster, stage = Cluster(), await Stage.open(db)
    settings = Settings(data_dir=data_dir, public_url="https://train.example.com")
    state = SupervisorState(
        db, settings, {"tiny": recipe}, SECRET, {"slurm": cluster}, "http://127.0.0.1:1"
    )
    return stage, state, cluster


async def claim(stage: Stage, run: Run) -> Run:
    """The agent claims the run's current attempt."""
    code = claim_code(SECRET, run.id, run.attempt)
    await stage.db.write(attempts.claim, run.id, run.attempt, code, "a" * 16, "node-1")
    return await stage.get(run)


async def test_a_run_waits_in_the_queue_of_its_engine_and_starts_when_its_agent_claims_it(
    db: Database, tmp_path: Path
) -> None:
    stage, state, cluster = await open_cluster(db, tmp_path)
    run = await stage.submit()
    await launch(state)
    await launch(state)
    [job] = cluster.jobs
    assert job.config is None and job.key == (run.id, 1)
    assert job.mailbox == HttpMailboxAddress(
        "https://train.example.com", claim_code(SECRET, run.id, 1)
    )
    await reconcile(state)
    run = await stage.get(run)
    assert (run.status, run.status_reason) == ("queued", "waiting_for_cluster")
    assert run.status_detail == "slurm job 4711: Resources"
    assert (run.launcher, run.engine_id, run.claimed_at) == ("slurm", "4711", None)
    run = await claim(stage, run)
    assert (run.status, run.attempt) == ("starting", 1) and run.claimed_at is not None
    await stage.report(run, batch=1, step=10, total_steps=10)
    record = ExitRequest.model_validate(ExitRecord(exit_code=0).to_dict())
    await db.write(attempts.finish, run.id, 1, record, 0)
    await reconcile(state)
    await jobs(state)
    await reconcile(state)
    run = await stage.get(run)
    assert (run.status, run.launcher, run.engine_id) == ("succeeded", "slurm", "4711")


async def test_a_jobs_place_in_the_queue_is_told_and_its_change_is_no_event(
    db: Database, tmp_path: Path
) -> None:
    stage, state, cluster = await open_cluster(db, tmp_path)
    run = await stage.submit()
    await launch(state)

    async def told(status: JobStatus) -> tuple[str | None, int]:
        cluster.status = status
        await reconcile(state)
        now = await stage.get(run)
        history = await stage.events()
        return now.status_detail, sum(event.type == "run.waiting" for event in history)

    assert await told(replace(PENDING, position=7)) == (
        "slurm job 4711: Resources, place 7 in the queue", 1,
    )  # fmt: skip
    assert await told(replace(PENDING, position=3)) == (
        "slurm job 4711: Resources, place 3 in the queue", 1,
    )  # fmt: skip
    held = replace(PENDING, reason_text="JobHeldUser", position=9)
    assert await told(held) == ("slurm job 4711: JobHeldUser, place 9 in the queue", 2)
    state.attempts.clear()  # another server: what it says is right, and the change alone no event
    assert (await told(held))[1] == 2


async def test_gpus_that_only_the_recipe_asks_an_engine_for_count_for_the_quota(
    db: Database, tmp_path: Path
) -> None:
    needs = Resources(gpu_type="A100", count=2)
    stage, state, cluster = await open_cluster(db, tmp_path, resources=needs)
    await db.write(projects.update, DEFAULT_PROJECT, ProjectUpdate(max_gpus=3))
    first, second = await stage.submit(), await stage.submit()
    for _ in range(2):
        await launch(state)
    assert [job.key.run_id for job in cluster.jobs] == [first.id]
    assert (await stage.get(second)).status_reason == "waiting_for_quota"
    for _ in ("it waits in the engine's queue", "it trains"):
        use = await db.read(quotas.find_use, DEFAULT_PROJECT)
        assert (use.runs, use.gpus) == (1, 2)
        first = await claim(stage, await stage.get(first))
    await stage.report(first, batch=1, step=10, total_steps=10)
    record = ExitRequest.model_validate(ExitRecord(exit_code=0).to_dict())
    await db.write(attempts.finish, first.id, 1, record, 0)
    for _ in range(2):
        await reconcile(state)
        await jobs(state)
    assert (await db.read(quotas.find_use, DEFAULT_PROJECT)).gpus == 0
    (used,) = await db.read(usage.account, usage.By.RUN, usage.Period(), "", 10)
    assert used.gpu_used_seconds == 2 * used.used_seconds > 0


async def test_an_engine_that_cannot_be_reached_changes_no_state(
    db: Database, tmp_path: Path
) -> None:
    stage, state, cluster = await open_cluster(db, tmp_path)
    queued, run = await stage.submit(), await stage.submit()
    await launch(state)
    run = await claim(stage, await stage.get(run))
    await stage.report(run, batch=1, step=5, total_steps=10)
    cluster.reachable = False
    for _ in range(3):
        state.listening_seconds += 20
        await reconcile(state)
    assert (await stage.get(queued)).status == "queued"
    assert (await stage.get(run)).status == "running"


async def test_a_living_agent_is_believed_before_its_engine(db: Database, tmp_path: Path) -> None:
    """Two schedulers called a job ended while it trained: a second attempt would run beside it."""
    stage, state, cluster = await open_cluster(db, tmp_path, max_attempts=2)
    run = await stage.submit()
    await launch(state)
    run = await claim(stage, await stage.get(run))
    await stage.report(run, batch=1, step=5, total_steps=10)
    cluster.status = JobStatus(
        JobState.ENDED, "4711", cause=Cause.NODE_FAILED, reason_text="Node node-1 failed."
    )
    await reconcile(state)
    assert (await stage.get(run)).status == "running"
    state.listening_seconds += job_status.AGENT_SILENT_SECONDS + 1
    await reconcile(state)
    await jobs(state)
    await reconcile(state)
    run = await stage.get(run)
    assert (run.status, run.status_reason, run.submitted_at) == ("queued", "retrying", None)
    assert "Node node-1 failed." in (run.status_detail or "")


async def test_a_job_that_its_engine_does_not_know_is_submitted_again_and_a_trainer_is_not(
    db: Database, tmp_path: Path
) -> None:
    """One empty answer is not believed. To submit twice is harmless: one claim wins."""
    stage, state, cluster = await open_cluster(db, tmp_path)
    waits, trains = await stage.submit(), await stage.submit()
    await launch(state)
    trains = await claim(stage, await stage.get(trains))
    await stage.report(trains, batch=1, step=5, total_steps=10)
    cluster.status = JobStatus(JobState.ABSENT)
    await reconcile(state)
    assert len(cluster.jobs) == 2
    state.listening_seconds += job_status.MISSING_SECONDS + 1
    await reconcile(state)
    await jobs(state)
    assert [job.key for job in cluster.jobs[2:]] == [(waits.id, 1)]
    state.listening_seconds += job_status.AGENT_SILENT_SECONDS
    await reconcile(state)
    await jobs(state)
    await reconcile(state)
    lost = await stage.get(trains)
    assert (lost.status, lost.status_reason) == ("failed", "lost")


async def test_a_job_that_its_engine_ended_before_it_began_says_why(
    db: Database, tmp_path: Path
) -> None:
    stage, state, cluster = await open_cluster(db, tmp_path)
    run = await stage.submit()
    await launch(state)
    words = "Job 4711 was cancelled by root."
    cluster.status = JobStatus(
        JobState.ENDED, "4711", cause=Cause.STOPPED_ELSEWHERE, reason_text=words
    )
    await reconcile(state)
    run = await stage.get(run)
    assert (run.status, run.status_reason, run.status_detail) == (
        "failed", "stopped_elsewhere", words,
    )  # fmt: skip


async def test_a_cancel_in_the_queue_is_immediate_and_the_job_is_taken_back(
    db: Database, tmp_path: Path
) -> None:
    stage, state, cluster = await open_cluster(db, tmp_path)
    cancelled, stays = await stage.submit(), await stage.submit()
    await launch(state)
    await db.write(runs.cancel, cancelled.id)
    assert (await stage.get(cancelled)).status == "cancelled"
    await end_jobs(state)
    await jobs(state)
    assert cluster.killed == [(cancelled.id, 1)]
    assert (await stage.get(stays)).status == "queued"


async def test_what_an_engine_can_never_run_is_not_submitted(db: Database, tmp_path: Path) -> None:
    stage, state, cluster = await open_cluster(db, tmp_path)
    run = await stage.submit(resources={"nodes": 9})
    await launch(state)
    run = await stage.get(run)
    assert cluster.jobs == [] and run.status_reason == "waiting_for_resources"
    assert run.status_detail == "Needs 9 nodes; the partition has 3."


async def test_an_engine_that_hangs_holds_up_no_step_of_the_supervisor(
    db: Database, tmp_path: Path
) -> None:
    """A frozen controller keeps `squeue` waiting for a minute; runs elsewhere must not wait."""
    stage, state, cluster = await open_cluster(db, tmp_path)
    await stage.submit()
    await launch(state)
    cluster.answers.clear()
    began = time.monotonic()
    try:
        for _ in range(3):
            await reconcile(state)
        assert is_soon(time.monotonic() - began, 15)
    finally:
        cluster.answers.set()
    await jobs(state)
    await reconcile(state)
    assert len(cluster.jobs) == 1


async def test_no_more_jobs_wait_in_the_queue_of_an_engine_than_it_allows(
    db: Database, tmp_path: Path
) -> None:
    stage, state, cluster = await open_cluster(db, tmp_path)
    cluster.max_pending = 2
    first, _, third = [await stage.submit() for _ in range(3)]
    await launch(state)
    await launch(state)
    assert len(cluster.jobs) == 2
    waits = await stage.get(third)
    assert (waits.status_reason, waits.status_detail) == (
        "waiting_for_cluster", "At most 2 jobs wait in the queue of slurm at a time.",
    )  # fmt: skip
    await claim(stage, await stage.get(first))
    await launch(state)
    assert [job.key.run_id for job in cluster.jobs[2:]] == [third.id]


async def test_what_a_preemption_stopped_and_let_save_waits_for_the_engine_to_say_so(
    db: Database, tmp_path: Path
) -> None:
    """The agent tells first that its trainer ended with 0; by that alone it had given up.

    A preemption counts for none of the recipe's attempts: this recipe has one.
    """
    stage, state, cluster = await open_cluster(db, tmp_path)
    run = await stage.submit()
    for number in (1, 2):
        cluster.status = RUNNING
        await launch(state)
        run = await claim(stage, await stage.get(run))
        await stage.report(run, batch=1, step=5, total_steps=10)
        record = ExitRequest.model_validate(ExitRecord(exit_code=0, stop_sent=True).to_dict())
        await db.write(attempts.finish, run.id, number, record, 0)
        await reconcile(state)
        assert (await stage.get(run)).status == "running"
        cluster.status = JobStatus(
            JobState.ENDED, "4711", cause=Cause.PREEMPTED, reason_text="Slurm preempted job 4711."
        )
        await reconcile(state)
        await jobs(state)
        await reconcile(state)
        run = await stage.get(run)
        assert (run.status, run.status_reason, run.preemptions) == ("queued", "retrying", number)
        assert "Slurm preempted job 4711." in (run.status_detail or "")
        await db.write(_retry_now, run.id)


async def test_an_end_of_which_the_engine_says_nothing_more_is_recorded_all_the_same(
    db: Database, tmp_path: Path
) -> None:
    stage, state, cluster = await open_cluster(db, tmp_path)
    run = await stage.submit()
    await launch(state)
    cluster.status = RUNNING
    run = await claim(stage, await stage.get(run))
    await stage.report(run, batch=1, step=5, total_steps=10)
    record = ExitRequest.model_validate(ExitRecord(signal=9).to_dict())
    await db.write(attempts.finish, run.id, 1, record, 0)
    await reconcile(state)
    state.listening_seconds += job_status.ENGINE_WORD_SECONDS + 1
    await reconcile(state)
    await jobs(state)
    await reconcile(state)
    run = await stage.get(run)
    assert (run.status, run.status_reason) == ("failed", "signal")


async def test_a_run_goes_to_the_next_launcher_where_the_first_has_no_room(
    db: Database, tmp_path: Path
) -> None:
    """And it keeps no room back there: the third fits, and starts before the second has begun."""
    stage, state, cluster = await open_cluster(db, tmp_path, launcher=("local", "slurm"))
    machine = Recorder()
    machine.data_dir, cpus = tmp_path, machine.offer().cpus
    state.launchers = {"local": machine, "slurm": cluster}
    first = await stage.submit(resources={"cpus": cpus / 2})
    second = await stage.submit(resources={"cpus": cpus})
    third = await stage.submit(resources={"cpus": cpus / 2})
    await launch(state)
    assert sorted(machine.launched) == sorted([first.id, third.id])
    assert [job.key for job in cluster.jobs] == [(second.id, 1)]
    seen = await stage.get(second)
    assert (seen.launcher, seen.status_detail) == ("slurm", "Submitted to slurm.")
    nowhere = await stage.submit(resources={"nodes": 9})
    await launch(state)
    detail = (await stage.get(nowhere)).status_detail
    here = "local: Needs 9 nodes; this is one machine."
    assert detail == f"{here} slurm: Needs 9 nodes; the partition has 3."


async def test_where_no_launcher_has_room_it_is_kept_back_at_the_first_that_could_run_it(
    db: Database, tmp_path: Path
) -> None:
    stage, state, cluster = await open_cluster(db, tmp_path, launcher=("local", "slurm"))
    machine = Recorder()
    machine.data_dir, cpus, cluster.max_pending = tmp_path, machine.offer().cpus, 1
    state.launchers = {"local": machine, "slurm": cluster}
    first = await stage.submit(resources={"cpus": cpus / 2})
    elsewhere = await stage.submit(resources={"cpus": cpus})
    waits = await stage.submit(resources={"cpus": cpus})
    younger = await stage.submit(resources={"cpus": cpus / 2})
    await launch(state)
    await launch(state)
    assert machine.launched == [first.id]
    assert [job.key for job in cluster.jobs] == [(elsewhere.id, 1)]
    full = "slurm: At most 1 jobs wait in the queue of slurm at a time."
    detail = (await stage.get(waits)).status_detail or ""
    assert detail.startswith("local: Needs") and detail.endswith(full)
    assert "Waits behind an older run" in ((await stage.get(younger)).status_detail or "")


async def test_a_first_choice_that_has_not_answered_yet_is_not_passed_over_and_a_dead_one_is(
    db: Database, tmp_path: Path
) -> None:
    stage, state, cluster = await open_cluster(db, tmp_path, launcher=("slurm", "local"))
    machine, answers = Recorder(), threading.Event()
    machine.data_dir = tmp_path

    def offer() -> None:
        answers.wait(60)
        raise Unreachable("slurmctld is away")

    cluster.offer = offer  # type: ignore[method-assign]
    state.launchers = {"local": machine, "slurm": cluster}
    run = await stage.submit()
    await schedule.launch(state)
    assert (await stage.get(run)).status_detail == "It has not answered yet."
    answers.set()
    await jobs(state)
    assert machine.launched == []
    state.queue = None
    await launch(state)
    assert machine.launched == [run.id] and (await stage.get(run)).launcher == "local"


async def test_a_node_on_which_two_attempts_failed_is_avoided_and_that_is_told(
    db: Database, tmp_path: Path
) -> None:
    """Control: without `record_nodes` in the reconciliation no node is ever suspected."""
    stage, state, cluster = await open_cluster(db, tmp_path, max_attempts=9)
    run = await stage.submit()
    for number, nodes in enumerate([("n1",), ("n2", "n3"), ("n2", "n3"), ("n1",)], start=1):
        await launch(state)
        assert cluster.jobs[-1].avoid == ()
        cluster.status = replace(RUNNING, nodes=nodes)
        run = await claim(stage, await stage.get(run))
        await reconcile(state)
        cluster.status = JobStatus(JobState.ENDED, "4711", nodes=nodes, cause=Cause.NODE_FAILED)
        record = ExitRequest.model_validate(ExitRecord(signal=9).to_dict())
        await db.write(attempts.finish, run.id, number, record, 0)
        await reconcile(state)
        await jobs(state)
        await reconcile(state)
        assert (await stage.get(run)).status == "queued"
        await db.write(_retry_now, run.id)
        state.engine("slurm").suspects_at = float("-inf")
    await launch(state)
    assert cluster.jobs[-1].avoid == ("n1",)
    detail = (await stage.get(run)).status_detail
    assert detail is not None and "It avoids n1: attempts have failed there." in detail
    assert await db.read(attempts.list_suspect_nodes, "slurm", "2999-01-01") == []
    assert await db.read(attempts.list_suspect_nodes, "other", "2000-01-01") == []


def _retry_now(tx: Tx, run_id: str) -> None:
    runs.change(tx, runs.lock(tx, run_id), next_attempt_at=None)
