"""The account of work: computed by hand once, and against a plain model for random histories."""

import math
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.db.sql import Tx
from app.db.tables import Checkpoint, Run
from app.domain.evidence import Evidence
from app.domain.ids import new_id
from app.domain.lifecycle import RunStatus
from app.domain.reports import ReportRequest
from app.domain.requests import ExperimentRequest, ResumeRequest, RunRequest
from app.domain.team import ProjectRequest
from app.services import (
    deletion,
    endings,
    experiments,
    launches,
    projects,
    reports,
    resuming,
    runs,
    saves,
    usage,
)
from app.services.usage import Account, By, Period
from tests.services.conftest import Write
from tests.support.stage import RECIPES, manifest

MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)
STEP = "step-000030"


def at(seconds: float) -> str:
    return (MIDNIGHT + timedelta(seconds=seconds)).isoformat(timespec="microseconds")


def timed(write: Write, minutes: float, work: Callable[..., Any], *args: Any) -> Any:
    """A use case at a time of the day."""

    def run(tx: Tx) -> Any:
        tx.now = at(minutes * 60)
        return work(tx, *args)

    return write(run)


class Home:
    """A project of its own with an experiment."""

    def __init__(self, write: Write) -> None:
        name = new_id("prj").replace("_", "-")
        self.write = write
        self.project = write(projects.create, ProjectRequest(name=name)).id
        request = ExperimentRequest(name="e", task_type="t", project=name)
        self.experiment: str = write(experiments.create, request).id

    def account(self, by: By, **period: Any) -> dict[str, Account]:
        asked = Period(project_id=self.project, **period)
        rows: list[Account] = self.write(usage.account, by, asked, "", usage.MAX_GROUPS)
        assert [row.group for row in rows] == sorted(row.group for row in rows)
        return {row.group: row for row in rows}


def hours(account: Account) -> list[float]:
    return [
        account.gpu_hours_used, account.gpu_hours_wasted, account.gpu_hours_waited,
        account.gpu_hours_saved,
    ]  # fmt: skip


def test_a_day_that_was_computed_by_hand(write: Write) -> None:
    """Four GPUs. 0:00 submitted, 0:10 started, 0:40 step 30 saved, 1:10 crashed.

    2:00 resumed, 2:30 started at step 30, 3:00 step 60, which was its end.
    """
    home = Home(write)
    request = RunRequest.model_validate(
        {"model": "m", "recipe": "tiny", "resources": {"count": 4, "gpu_type": "A100"}}
    )
    run: Run = timed(write, 0, runs.submit, home.experiment, request, RECIPES)
    run = timed(write, 10, launches.claim, run, ["A", "A", "A", "A"], None, None, None)
    sha256 = manifest(30).sha256
    saved = {
        "attempt": 1, "step": 30, "total_steps": 60,
        "checkpoints": [{"name": STEP, "step": 30, "sha256": sha256}],
    }  # fmt: skip
    timed(write, 40, reports.ingest, run.id, ReportRequest.model_validate(saved))
    path = write(_path, run)
    timed(write, 41, saves.apply_verification, path, sha256, manifest(30))
    crash = Evidence(cancel_asked=False, exit_code=1)
    timed(write, 70, endings.finish_attempt, run.id, 1, crash, None, frozenset())
    assert write(runs.get, run.id).status == "failed"

    child: Run = timed(write, 120, resuming.resume, run.id, ResumeRequest(), RECIPES)
    source = write(launches.list_sources, child)[0]
    child = timed(write, 150, launches.claim, child, ["A", "A", "A", "A"], source, None, None)
    assert child.start_step == 30
    end = {"attempt": 1, "step": 60, "total_steps": 60, "finished": True}
    timed(write, 180, reports.ingest, child.id, ReportRequest.model_validate(end))
    done = Evidence(cancel_asked=False, exit_code=0)
    timed(write, 180, endings.finish_attempt, child.id, 1, done, None, frozenset())
    assert write(runs.get, child.id).status == "succeeded"

    by_run = home.account(By.RUN)
    # An hour of four GPUs, half of it after the save, ten minutes in the queue; nothing to save.
    assert hours(by_run[run.id]) == pytest.approx([4, 2, 4 / 6, 0])
    assert by_run[run.id].goodput == pytest.approx(0.5)
    # Half an hour for thirty steps: the thirty before would have taken as long.
    assert hours(by_run[child.id]) == pytest.approx([2, 0, 2, 2])
    assert by_run[child.id].goodput == 1
    for by, group in (
        (By.PROJECT, home.project), (By.EXPERIMENT, home.experiment), (By.MONTH, "2026-03"),
    ):  # fmt: skip
        ((name, whole),) = home.account(by).items()
        assert (name, whole.attempts) == (group, 2)
        assert hours(whole) == pytest.approx([6, 2, 2 + 4 / 6, 2])
        assert whole.goodput == pytest.approx(1 - 2 / 6)
    assert home.account(By.PROJECT, until=at(100 * 60))[home.project].attempts == 1

    # The account of what was deleted stays, with its project.
    write(deletion.delete_experiment, home.experiment)
    assert hours(home.account(By.PROJECT)[home.project]) == pytest.approx([6, 2, 2 + 4 / 6, 2])


def _path(tx: Tx, run: Run) -> Any:
    from app.domain.paths import CheckpointPath

    return CheckpointPath(run.experiment_id, run.id, STEP)


class Try(NamedTuple):
    """One attempt: what a clock on the wall would have said."""

    waits: int
    runs: int
    saves: list[int]
    """Seconds after its start at which a good checkpoint was saved."""
    succeeds: bool
    start_step: int
    steps: int


class History(NamedTuple):
    """A run: when it was submitted, on how many GPUs, and its attempts."""

    submitted: int
    gpus: int
    tries: list[Try]


TRIES = st.builds(
    Try, st.integers(0, 9000), st.integers(0, 9000), st.lists(st.integers(0, 9000), max_size=3),
    st.booleans(), st.integers(0, 500), st.integers(0, 500),
)  # fmt: skip
HISTORIES = st.lists(
    st.builds(
        History, st.integers(0, 40 * 86_400), st.integers(0, 16),
        st.lists(TRIES, min_size=1, max_size=4),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


class Sums(NamedTuple):
    """What a plain model says of a group: seconds, and GPU-seconds."""

    attempts: int = 0
    used: float = 0
    wasted: float = 0
    waited: float = 0
    saved: float = 0
    gpu_used: float = 0
    gpu_wasted: float = 0
    gpu_waited: float = 0
    gpu_saved: float = 0


def modelled(history: History) -> list[tuple[str, Sums]]:
    """The month and the sums of each attempt, second by second where that is plainest."""
    clock, found = history.submitted, []
    for attempt in history.tries:
        began = clock + attempt.waits
        ended = began + attempt.runs
        last_good = max([second for second in attempt.saves if second <= attempt.runs], default=0)
        lost = 0 if attempt.succeeds else sum(second >= last_good for second in range(attempt.runs))
        saved = attempt.start_step * attempt.runs / attempt.steps if attempt.steps else 0
        times = (attempt.runs, lost, attempt.waits, saved)
        found.append((at(ended)[:7], Sums(1, *times, *(history.gpus * time for time in times))))
        clock = ended
    return found


def lived(tx: Tx, experiment: str, history: History) -> str:
    """The same on record, as the service's use cases leave it."""
    tx.now, clock = at(history.submitted), history.submitted
    resources = {"count": history.gpus, "gpu_type": "A100"} if history.gpus else {}
    request = RunRequest.model_validate({"model": "m", "recipe": "tiny", "resources": resources})
    run = runs.submit(tx, experiment, request, RECIPES)
    for number, attempt in enumerate(history.tries, 1):
        began = clock + attempt.waits
        clock = began + attempt.runs
        run = runs.change(
            tx, run, attempt=number, claimed_at=at(began), start_step=attempt.start_step,
            step=attempt.start_step + attempt.steps, gpus="[]",
        )  # fmt: skip
        for index, second in enumerate(attempt.saves):
            if second > attempt.runs:
                continue  # it had ended by then
            tx.insert(Checkpoint(
                id=new_id("ckpt"), experiment_id=experiment, run_id=run.id, attempt=number,
                ckpt_path=f"/ckpts/{experiment}/{run.id}/{number}-{index}", state="ready",
                saved_at=at(began + second), created_at=at(began + second),
            ))  # fmt: skip
        tx.now = at(clock)
        outcome = RunStatus.SUCCEEDED if attempt.succeeds else RunStatus.FAILED
        usage.record(tx, run, outcome)
    return run.id


def check(account: Account, sums: list[Sums]) -> None:
    expected = [math.fsum(column) for column in zip(*sums, strict=True)]
    assert list(account[1:10]) == pytest.approx(expected, abs=1e-3)
    used, wasted = (expected[5], expected[6]) if expected[5] else (expected[1], expected[2])
    if not used:
        assert account.goodput is None
        return
    assert account.goodput == pytest.approx(1 - wasted / used, abs=1e-6)
    assert account.goodput is not None and -1e-9 <= account.goodput <= 1


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example([History(0, 2, [Try(0, 10, [10, 3], False, 0, 5), Try(5, 10, [], False, 5, 5)])])
@example([History(2_678_390, 0, [Try(5, 10, [], False, 0, 0)])])
@given(histories=HISTORIES)
def test_the_account_is_that_of_a_plain_model(write: Write, histories: list[History]) -> None:
    home = Home(write)
    ids = [write(lived, home.experiment, history) for history in histories]
    of_run = {id: modelled(history) for id, history in zip(ids, histories, strict=True)}
    months: dict[str, list[Sums]] = defaultdict(list)
    for attempts in of_run.values():
        for month, sums in attempts:
            months[month].append(sums)
    everything = [sums for attempts in of_run.values() for _, sums in attempts]

    by_run = home.account(By.RUN)
    assert set(by_run) == set(ids)
    for id, account in by_run.items():
        check(account, [sums for _, sums in of_run[id]])
    by_month = home.account(By.MONTH)
    assert set(by_month) == set(months)
    for month, account in by_month.items():
        check(account, months[month])
    check(home.account(By.EXPERIMENT)[home.experiment], everything)
    check(home.account(By.PROJECT)[home.project], everything)
