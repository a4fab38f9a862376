"""Curves against a reference model: exactly the surviving steps, once each, over generations."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.domain.lifecycle import RunStatus
from app.domain.requests import ExperimentRequest, ResumeRequest, RunRequest
from app.errors import InvalidInput
from app.services import chunks, experiments, metrics, reports, runs
from app.services.metrics import Window
from app.services.reports import ReportRequest
from app.store.sql import Tx
from tests.services.conftest import Write

KEYS = ("loss", "eval/loss")
Curve = dict[int, float]


@dataclass
class Attempt:
    """What one attempt started from and reported, by key."""

    start: int
    points: dict[str, Curve] = field(default_factory=lambda: {key: {} for key in KEYS})


@dataclass
class Lineage:
    """A run and what it should show. `branch`: how many attempts of its parent lead to it."""

    id: str
    parent: "Lineage | None" = None
    branch: int = 0
    step: int = 0
    attempts: list[Attempt] = field(default_factory=list)
    saved: list[tuple[int, int]] = field(default_factory=list)  # each step, and in which attempt

    def inherited(self, key: str) -> Curve:
        return self.parent.curve(key, self.parent.attempts[: self.branch]) if self.parent else {}

    def curve(self, key: str, attempts: list[Attempt] | None = None) -> Curve:
        attempts = self.attempts if attempts is None else attempts
        return grown(self.inherited(key), attempts, key, self.attempts[-1])

    def own(self, key: str) -> Curve:
        """What survives of this run's own points once an attempt has reported any."""
        return grown({}, self.attempts, key, None)


def grown(curve: Curve, attempts: list[Attempt], key: str, present: Attempt | None) -> Curve:
    """Of what was there, an attempt keeps what lies before it; its own points it adds.

    One that died before it reported anything has superseded nothing.
    """
    for attempt in attempts:
        if attempt is present or any(attempt.points.values()):
            own = attempt.points[key]
            began = min(own, default=math.inf)
            curve = {s: v for s, v in curve.items() if s <= attempt.start and s < began} | own
    return curve


class Story:
    """Runs that are launched, report, die, try again and are resumed, in one experiment.

    External ones (without a recipe) go on from wherever their first point says.
    """

    def __init__(self, tx: Tx, recipe: str | None = "demo") -> None:
        request = ExperimentRequest(name="curves", task_type="test")
        self.experiment_id = experiments.create(tx, request).id
        self.recipe = recipe
        asked = RunRequest(model="m", recipe=recipe)
        self.runs = [Lineage(runs.submit(tx, self.experiment_id, asked, {"demo"}).id)]
        self.value = 0.0
        self.launch(tx, self.runs[0], 0)

    def launch(self, tx: Tx, run: Lineage, start: int) -> None:
        if self.recipe is None:
            start = run.step if run.attempts else start
            run.attempts.append(Attempt(start))
            run.step = start
            session = ReportRequest(session=f"s{len(run.attempts)}", take_over=True)
            reports.ingest(tx, run.id, session)
            return
        row = runs.lock(tx, run.id)
        if row.status != RunStatus.QUEUED:
            row = runs.move(tx, row, RunStatus.QUEUED)
        runs.move(
            tx, row, RunStatus.STARTING, attempt=row.attempt + 1, last_batch=0,
            start_step=start, step=start, launched_at=tx.now,
        )  # fmt: skip
        run.attempts.append(Attempt(start))
        run.step = start

    def report(self, tx: Tx, run: Lineage, key: str, offset: int, length: int, save: bool) -> None:
        attempt = run.attempts[-1]
        first = max(0, attempt.start + offset)
        steps = [first + index for index in range(length)]
        resumed = len(run.attempts) > 1 or attempt.start > 0
        if resumed and not any(attempt.points.values()):
            again = first == attempt.start and self.recipe is None
            if first < attempt.start or again:
                run.step = attempt.start = max(0, first - 1)
        run.step = max(run.step, steps[-1])
        values = [self.value + index for index in range(length)]
        self.value += length
        attempt.points[key] |= dict(zip(steps, values, strict=True))
        body = {
            "attempt": len(run.attempts),
            "session": f"s{len(run.attempts)}",
            "metrics": {key: {"steps": steps, "values": values}},
            "checkpoints": [{"name": f"step-{steps[-1]}", "step": steps[-1]}] if save else [],
        }
        reports.ingest(tx, run.id, ReportRequest.model_validate(body))
        if save:
            run.saved = [each for each in run.saved if each[0] != steps[-1]]
            run.saved.append((steps[-1], len(run.attempts)))

    def retry(self, tx: Tx, run: Lineage, which: int) -> None:
        first = run.attempts[0].start
        self.launch(tx, run, run.saved[which % len(run.saved)][0] if run.saved else first)

    def resume(self, tx: Tx, parent: Lineage, which: int) -> None:
        owner: Lineage | None = parent
        saved = []  # by the run or by those that it goes back to
        while owner is not None:
            saved += [(owner, each) for each in owner.saved]
            owner = owner.parent
        if not saved:
            return
        source, (step, branch) = saved[which % len(saved)]
        path = f"/ckpts/{self.experiment_id}/{source.id}/step-{step}"
        child = Lineage(
            runs.resume(tx, parent.id, ResumeRequest(ckpt_path=path), ["demo"]).id, source, branch
        )
        self.runs.append(child)
        self.launch(tx, child, step)


acts = st.one_of(
    st.tuples(
        st.just("report"), st.sampled_from(KEYS), st.integers(-9, 3), st.integers(1, 12),
        st.booleans(),
    ),
    st.tuples(st.just("retry"), st.integers(0, 5)),
    st.tuples(st.just("resume"), st.integers(0, 5)),
)  # fmt: skip


@pytest.mark.parametrize("recipe", ["demo", None])
@settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    told=st.lists(st.tuples(st.integers(0, 4), acts), max_size=25),
    low=st.integers(0, 40),
    width=st.integers(0, 40),
    limit=st.integers(1, 9),
)
@example(  # resumed from what its grandparent saved after its parent had gone another way
    told=[
        (0, ("report", "loss", 1, 5, True)),
        (0, ("report", "loss", 1, 12, True)),
        (0, ("resume", 0)),
        (0, ("report", "loss", 1, 3, True)),
        (0, ("resume", 2)),
    ],
    low=0,
    width=9,
    limit=4,
)
def test_a_curve_is_exactly_the_surviving_steps_over_attempts_and_generations(
    write: Write,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str | None,
    told: list[tuple[int, tuple[str, *tuple[object, ...]]]],
    low: int,
    width: int,
    limit: int,
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 8)
    monkeypatch.setattr(chunks, "TAIL", 2)
    story = write(Story, recipe)
    for which, (act, *details) in told:
        # The newest runs first, so that generations come about.
        write(getattr(story, act), story.runs[-1 - which % len(story.runs)], *details)
    for run in story.runs:
        for key in KEYS:
            curve = run.curve(key)
            assert read(write, run, key, Window()) == curve
            some = {s: v for s, v in curve.items() if low <= s <= low + width}
            assert read(write, run, key, Window(low, low + width)) == some
            assert paged(write, run, key, limit) == curve
        latest = {row.key: (row.step, row.value) for row in write(metrics.latest, run.id)}
        assert latest == {key: max(run.own(key).items()) for key in KEYS if run.own(key)}
        assert write(runs.get, run.id).step == run.step


def read(write: Write, run: Lineage, key: str, window: Window) -> Curve:
    found = write(metrics.series, [run.id], [key], window)
    assert [each.key for each in found] == [key]
    steps = list(found[0].steps)
    assert steps == sorted(set(steps)), "each step once, ascending"
    return dict(zip(steps, found[0].values, strict=True))


def paged(write: Write, run: Lineage, key: str, limit: int) -> Curve:
    curve: Curve = {}
    after: int | None = -1
    while after is not None:
        (page,) = write(metrics.series, [run.id], [key], Window(after + 1, limit=limit))
        assert len(page.steps) <= limit
        assert not curve.keys() & set(page.steps)
        curve |= dict(zip(page.steps, page.values, strict=True))
        after = page.next_after_step
    return curve


def test_raw_series_keep_what_each_attempt_reported(write: Write) -> None:
    story = write(Story)
    (run,) = story.runs
    write(story.report, run, "loss", 1, 10, False)
    write(story.retry, run, 0)
    write(story.report, run, "loss", 1, 4, False)
    curve, *raw = (
        write(metrics.series, [run.id], ["loss"])
        + write(metrics.series, [run.id], ["loss"], raw=True)
    )  # fmt: skip
    assert list(curve.steps) == [1, 2, 3, 4]
    assert [(each.attempt, len(each.steps)) for each in raw] == [(1, 10), (2, 4)]


def test_a_control_that_shows_all_points_of_all_attempts_fails_the_model(write: Write) -> None:
    story = write(Story)
    (run,) = story.runs
    write(story.report, run, "loss", 1, 10, False)
    write(story.retry, run, 0)
    write(story.report, run, "loss", 1, 4, False)
    everything: Curve = {}
    for each in write(metrics.series, [run.id], ["loss"], raw=True):
        everything |= dict(zip(each.steps, each.values, strict=True))
    assert everything != run.curve("loss")


def test_too_many_series_are_refused_before_all_are_looked_up(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_SERIES", 3)
    ids = []
    for _ in range(3):
        story = write(Story)
        for key in KEYS:
            write(story.report, story.runs[0], key, 1, 1, False)
        ids.append(story.runs[0].id)
    assert len(write(metrics.series, ids[:1])) == 2
    with pytest.raises(InvalidInput, match="4 series or more"):
        write(metrics.series, ids)


def test_many_series_share_what_one_answer_may_hold(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_ANSWERED", 8)
    story = write(Story)
    (run,) = story.runs
    for key in KEYS:
        write(story.report, run, key, 1, 10, False)
    found = write(metrics.series, [run.id])
    assert [len(each.steps) for each in found] == [4, 4]
    assert [each.next_after_step for each in found] == [4, 4]
