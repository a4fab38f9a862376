"""Curves against a reference model: exactly the surviving steps, once each, over generations."""

from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.db import chunk_ranges, chunks
from app.db.sql import Tx
from app.domain.lifecycle import RunStatus
from app.domain.recipe_file import read_recipes
from app.domain.reports import ReportRequest
from app.domain.requests import ExperimentRequest, ResumeRequest, RunRequest
from app.errors import InvalidInput
from app.services import curves, experiments, metrics, reports, resuming, runs
from app.services.curves import Window
from tests.services.conftest import Write

KEYS = ("loss", "eval/loss")
Curve = dict[int, float]


@dataclass
class Attempt:
    """What one attempt started from and reported, by key."""

    start: int
    points: dict[str, Curve] = field(default_factory=lambda: {key: {} for key in KEYS})
    progressed: bool = False


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
        """Return what survives of this run's own points once an attempt has reported any."""
        return grown({}, self.attempts, key, None)


def grown(curve: Curve, attempts: list[Attempt], key: str, present: Attempt | None) -> Curve:
    """Of what was there, an attempt keeps what lies up to its start; its own points it adds.

    That start is the same for all keys. One that died before it reported anything has superseded
    nothing.
    """
    for attempt in attempts:
        if attempt is present or any(attempt.points.values()):
            curve = {s: v for s, v in curve.items() if s <= attempt.start} | attempt.points[key]
    return curve


class Story:
    """Runs that are launched, report, die, try again and are resumed, in one experiment.

    External ones (without a recipe) that are started again go on from wherever their first step
    says. Step 0 says nothing: before the first step of all there is only an evaluation.
    """

    def __init__(self, tx: Tx, recipe: str | None = "demo") -> None:
        request = ExperimentRequest(name="curves", task_type="test")
        self.experiment_id = experiments.create(tx, request).id
        self.recipe = recipe
        asked = RunRequest(model="m", recipe=recipe)
        self.runs = [Lineage(runs.submit(tx, self.experiment_id, asked, read_recipes(None)).id)]
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
        again = self.recipe is None and len(run.attempts) > 1
        if again and not attempt.progressed and steps[-1] > 0:
            began = max(1, first)
            if began <= attempt.start:
                run.step = attempt.start = began - 1
        attempt.progressed |= steps[-1] > 0
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
            resuming.resume(tx, parent.id, ResumeRequest(ckpt_path=path), read_recipes(None)).id,
            source,
            branch,
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


@pytest.mark.parametrize(
    ("databases", "recipe"),
    [("sqlite", "demo"), ("sqlite", None), ("postgresql", "demo")],
    indirect=["databases"],
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        latest = {row.key: (row.step, row.value) for row in write(metrics.list_latest, run.id)}
        assert latest == {key: max(run.own(key).items()) for key in KEYS if run.own(key)}
        assert write(runs.get, run.id).step == run.step


def read(write: Write, run: Lineage, key: str, window: Window) -> Curve:
    found = write(curves.read, [run.id], [key], window)
    assert [each.key for each in found] == [key]
    steps = list(found[0].steps)
    assert steps == sorted(set(steps)), "each step once, ascending"
    return dict(zip(steps, found[0].values, strict=True))


def paged(write: Write, run: Lineage, key: str, limit: int) -> Curve:
    curve: Curve = {}
    after: int | None = -1
    while after is not None:
        (page,) = write(curves.read, [run.id], [key], Window(after + 1, limit=limit))
        assert len(page.steps) <= limit
        assert not curve.keys() & set(page.steps)
        curve |= dict(zip(page.steps, page.values, strict=True))
        after = page.next_after_step
    return curve


def reported(write: Write, run_id: str, number: int = 1, **body: object) -> None:
    """A report of the attempt with this number. `metrics`: the steps of each key's points."""
    metrics = body.pop("metrics", {})
    assert isinstance(metrics, dict)
    columns = {
        key: {"steps": steps, "values": [number * 100.0 + step for step in steps]}
        for key, steps in metrics.items()
    }
    told = {"session": f"s{number}", "take_over": True, "attempt": number, "metrics": columns}
    write(reports.ingest, run_id, ReportRequest.model_validate(told | body))


def steps_of(write: Write, run_id: str) -> dict[str, list[int]]:
    return {each.key: list(each.steps) for each in write(curves.read, [run_id])}


def parent_of_ten_steps(write: Write, recipe: str | None) -> tuple[Story, str]:
    """A run with loss at 1 … 10, an evaluation at 5 and at 10, and a checkpoint at 10."""
    story = write(Story, recipe)
    saved = [{"name": "step-10", "step": 10}]
    points = {"loss": list(range(1, 11)), "eval/loss": [5, 10]}
    reported(write, story.runs[0].id, metrics=points, checkpoints=saved)
    return story, story.runs[0].id


AXES = (
    {"eval/loss": [0]},  # an evaluation before the first step of this process
    {"infer/len": [3]},  # the steps of an inference
    {"loss": [11]},
)


@pytest.mark.parametrize("together", [True, False])
def test_a_resumed_run_goes_on_from_its_checkpoint_whatever_axes_its_metrics_have(
    write: Write, together: bool
) -> None:
    _, parent = parent_of_ten_steps(write, None)
    child = write(resuming.resume, parent, ResumeRequest(), read_recipes(None)).id
    for metrics_ in [{k: v for each in AXES for k, v in each.items()}] if together else AXES:
        reported(write, child, metrics=metrics_)
    found = steps_of(write, child)
    assert found["loss"] == list(range(1, 12))
    assert found["eval/loss"] == [0, 5, 10]
    assert write(runs.get, child).step == 11


@pytest.mark.parametrize("together", [True, False])
def test_a_retry_goes_on_from_its_checkpoint_whatever_axes_its_metrics_have(
    write: Write, together: bool
) -> None:
    story, run_id = parent_of_ten_steps(write, "demo")
    write(story.launch, story.runs[0], 10)
    for metrics_ in [{k: v for each in AXES for k, v in each.items()}] if together else AXES:
        reported(write, run_id, 2, metrics=metrics_)
    assert steps_of(write, run_id) == {
        "loss": list(range(1, 12)), "eval/loss": [0, 5, 10], "infer/len": [3],
    }  # fmt: skip
    latest = {row.key: row.step for row in write(metrics.list_latest, run_id)}
    assert latest == {"loss": 11, "eval/loss": 10, "infer/len": 3}
    assert write(runs.get, run_id).step == 11


def test_a_trainer_started_again_by_hand_goes_on_from_its_first_step_for_every_key(
    write: Write,
) -> None:
    _, run_id = parent_of_ten_steps(write, None)
    again = {"attempt": None}  # learnt from the answer
    reported(write, run_id, 2, metrics={"eval/loss": [0]}, step=0, **again)
    assert steps_of(write, run_id)["eval/loss"] == [0, 5, 10], "no step of the loop yet"
    reported(write, run_id, 2, metrics={"loss": [8, 9], "infer/len": [3]}, step=9, **again)
    assert steps_of(write, run_id) == {
        "loss": list(range(1, 10)), "eval/loss": [0, 5], "infer/len": [3],
    }  # fmt: skip
    latest = {row.key: row.step for row in write(metrics.list_latest, run_id)}
    assert latest == {"loss": 9, "eval/loss": 5, "infer/len": 3}
    reported(
        write, run_id, 3, metrics={"loss": [9]}, step=9, **again
    )  # the second start stays at 7
    assert steps_of(write, run_id)["eval/loss"] == [0, 5]


@pytest.mark.parametrize("points", [None, 10])
def test_where_two_attempts_reported_the_same_steps_the_newer_ones_points_are_the_curve(
    write: Write, monkeypatch: pytest.MonkeyPatch, points: int | None
) -> None:
    monkeypatch.setattr(chunks, "CHUNK", 8)
    monkeypatch.setattr(chunk_ranges, "SKETCHED", 1)
    story, run_id = parent_of_ten_steps(write, "demo")
    write(story.launch, story.runs[0], 10)
    reported(write, run_id, 2, metrics={"loss": [2, 4, 6]})
    (curve,) = write(curves.read, [run_id], ["loss"], Window(points=points))
    assert list(curve.steps) == list(range(1, 11))
    newer = [step for step, value in zip(curve.steps, curve.values, strict=True) if value > 200]
    assert newer == [2, 4, 6]
    assert paged(write, story.runs[0], "loss", 3) == dict(
        zip(curve.steps, curve.values, strict=True)
    )


def test_raw_series_keep_what_each_attempt_reported(write: Write) -> None:
    story = write(Story)
    (run,) = story.runs
    write(story.report, run, "loss", 1, 10, False)
    write(story.retry, run, 0)
    write(story.report, run, "loss", 1, 4, False)
    curve, *raw = (
        write(curves.read, [run.id], ["loss"])
        + write(curves.read, [run.id], ["loss"], raw=True)
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
    for each in write(curves.read, [run.id], ["loss"], raw=True):
        everything |= dict(zip(each.steps, each.values, strict=True))
    assert everything != run.curve("loss")


def test_too_many_series_are_refused_before_all_are_looked_up(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "MAX_SERIES", 3)
    ids = []
    for _ in range(3):
        story = write(Story)
        for key in KEYS:
            write(story.report, story.runs[0], key, 1, 1, False)
        ids.append(story.runs[0].id)
    assert len(write(curves.read, ids[:1])) == 2
    with pytest.raises(InvalidInput, match="4 series or more"):
        write(curves.read, ids)


def test_many_series_share_what_one_answer_may_hold(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves, "MAX_ANSWERED", 8)
    story = write(Story)
    (run,) = story.runs
    for key in KEYS:
        write(story.report, run, key, 1, 10, False)
    found = write(curves.read, [run.id])
    assert [len(each.steps) for each in found] == [4, 4]
    assert [each.next_after_step for each in found] == [4, 4]
