"""Curves over REST: pages, thinning, comparison, and what survives a resume."""

import asyncio
import threading
from typing import Any

import pytest

from app.domain.points import MAX_STEP
from app.services import curves
from tests.api.conftest import Api
from tests.support.story import Json, Story, Trainer


@pytest.fixture
def story(api: Api) -> Story:
    return Story(api.send)


def save(trainer: Trainer, step: int) -> str:
    """The trainer says it saved a checkpoint; its path."""
    name = f"step-{step}"
    trainer.report(checkpoints=[{"name": name, "step": step}])
    return f"/ckpts/{trainer.story.id}/{trainer.id}/{name}"


def test_pages_hold_every_point_once(story: Story) -> None:
    trainer = story.submit()
    trainer.log(range(0, 5_000, 2))
    seen: list[int] = []
    page: Json = {"next_after_step": None}
    while True:
        after = {} if page["next_after_step"] is None else {"after_step": page["next_after_step"]}
        (page,) = trainer.series(keys="loss", limit=777, **after)
        assert len(page["steps"]) <= 777
        seen += page["steps"]
        if page["next_after_step"] is None:
            break
    assert seen == list(range(0, 5_000, 2))


def test_a_range_of_steps_includes_its_ends(story: Story) -> None:
    trainer = story.submit()
    trainer.log(range(1, 2_001))
    assert trainer.steps(from_step=600, to_step=1_200) == list(range(600, 1_201))
    assert trainer.steps(from_step=5_000) == []
    assert trainer.steps(from_step=10, to_step=9) == []
    trainer.report(points=[{"key": "loss", "step": MAX_STEP, "value": 0.0}])
    for raw in (False, True):
        for asked in ({}, {"points": 10}):
            assert trainer.steps(from_step=MAX_STEP, raw=raw, **asked) == [MAX_STEP]
            assert trainer.steps(from_step=MAX_STEP, to_step=9, raw=raw, **asked) == []
        assert trainer.steps(after_step=MAX_STEP, raw=raw) == []


def test_a_thinned_curve_keeps_its_spikes_however_long_it_is(story: Story) -> None:
    trainer = story.submit()
    for batch in range(20):  # past the length from which sketches answer
        steps = range(batch * 5_000, (batch + 1) * 5_000)
        spikes = {31_234: 9.0, 77_777: -9.0}
        trainer.log(steps, [spikes.get(step, 0.0) for step in steps], batch=batch + 1)
    (series,) = trainer.series(points=500)
    assert series["downsampled"]
    assert len(series["steps"]) <= 500
    points = dict(zip(series["steps"], series["values"], strict=True))
    assert (points[31_234], points[77_777]) == (9.0, -9.0)
    assert {0, 99_999} <= points.keys()
    (whole,) = trainer.series(points=20_000, from_step=31_000, to_step=31_999)
    assert (whole["downsampled"], len(whole["steps"])) == (False, 1_000)


def test_a_short_curve_is_read_on_the_event_loop_of_sqlite_and_any_other_in_a_thread(
    api: Api, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seen red: every curve in a thread, and every one on the loop."""
    read, on_loop = curves.read, list[bool]()

    def watched(*arguments: Any, **options: Any) -> Any:
        on_loop.append(threading.current_thread() is loop)
        return read(*arguments, **options)

    async def current() -> threading.Thread:
        return threading.current_thread()

    loop = asyncio.run_coroutine_threadsafe(current(), api.loop).result(30)
    trainer = story.submit()
    trainer.log(range(200))
    monkeypatch.setattr(curves, "read", watched)
    sqlite = api.engine.name == "sqlite"

    def ask(**asked: Any) -> tuple[Json, list[bool]]:
        on_loop.clear()
        (series,) = trainer.series(**asked)
        return series, on_loop[:]

    short, where = ask(keys="loss", points=50)
    assert where == [sqlite]
    monkeypatch.setattr("app.rest.metrics.SHORT_POINTS", 199)
    long, where = ask(keys="loss", points=50)
    assert where == ([True, False] if sqlite else [False]), "it is known from the sizes alone"
    assert short == long and len(short["steps"]) <= 50
    assert ask()[1] == [False], "of all keys nobody knows how many there are"


def test_several_runs_in_one_answer(story: Story) -> None:
    one, other = story.submit(), story.submit()
    for trainer in (one, other):
        trainer.log(range(1, 11))
        trainer.log(range(1, 11), key="accuracy")
    found = story.get("/metrics", run_ids=[one.id, other.id], keys=["loss"], points=10)["series"]
    assert [(each["run_id"], each["key"]) for each in found] == [
        (one.id, "loss"),
        (other.id, "loss"),
    ]
    found = story.get("/metrics", run_ids=[one.id, other.id])["series"]
    assert [each["key"] for each in found] == ["accuracy", "loss"] * 2


def test_a_key_that_nobody_reported_is_an_empty_curve(story: Story) -> None:
    trainer = story.submit()
    assert trainer.series() == []
    (series,) = trainer.series(keys="loss", points=100)
    assert (series["steps"], series["downsampled"]) == ([], False)


@pytest.mark.parametrize(
    "asked",
    ["points=9", "points=100&after_step=1", "limit=0", "key=loss", "from_step=-1", "keys=",
     "to_step=9223372036854775808", "raw=perhaps"],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(story: Story, asked: str) -> None:
    trainer = story.submit()
    answer = story.send("GET", f"{trainer.path}/metrics?{asked}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


def test_runs_of_another_experiment_are_not_found(api: Api, story: Story) -> None:
    stranger = Story(api.send).submit()
    answer = story.send("GET", f"{story.path}/metrics", params={"run_ids": [stranger.id]})
    assert answer.status_code == 404
    assert story.send("GET", f"{story.path}/runs/{stranger.id}/metrics").status_code == 404


# What survives.


def test_over_three_generations_a_curve_is_the_surviving_steps_once_each(story: Story) -> None:
    first = story.submit()
    first.log(range(1, 101), [1.0] * 100)
    second = first.resume(ckpt_path=save(first, 60))
    first.log(range(101, 121), [1.0] * 20)  # goes on all the same
    second.log(range(61, 141), [2.0] * 80)
    third = second.resume(ckpt_path=save(second, 90))
    third.log(range(91, 111), [3.0] * 20)
    (curve,) = third.series(keys="loss")
    assert curve["steps"] == list(range(1, 111))
    assert curve["values"] == [1.0] * 60 + [2.0] * 30 + [3.0] * 20
    assert first.steps() == list(range(1, 121))
    assert second.steps() == list(range(1, 141))
    (own,) = third.series(raw=True)
    assert (own["attempt"], own["steps"]) == (1, list(range(91, 111)))
    (thinned,) = third.series(points=20)
    assert {1.0, 2.0, 3.0} == set(thinned["values"])


def test_a_run_that_waits_for_its_trainer_already_shows_where_it_starts(story: Story) -> None:
    first = story.submit()
    first.log(range(1, 11))
    assert first.resume(ckpt_path=save(first, 5)).steps() == list(range(1, 6))


def test_a_run_from_a_checkpoint_of_unknown_step_starts_before_its_first_point(
    story: Story,
) -> None:
    first = story.submit()
    first.log(range(1, 101))
    second = first.resume(ckpt_path=f"/ckpts/{story.id}/{first.id}/kept-elsewhere")
    second.log(range(41, 51), [2.0] * 10)
    assert second.steps() == list(range(1, 51))
    assert second.status()["step"] == 50


def test_a_grandchild_may_start_before_its_parent_did(story: Story) -> None:
    first = story.submit()
    first.log(range(1, 101), [1.0] * 100)
    early = save(first, 20)
    second = first.resume(ckpt_path=save(first, 60))
    second.log(range(61, 81), [2.0] * 20)
    third = second.resume(ckpt_path=early)
    third.log(range(21, 31), [3.0] * 10)
    (curve,) = third.series()
    assert curve["steps"] == list(range(1, 31))
    assert curve["values"] == [1.0] * 20 + [3.0] * 10


def test_a_run_resumed_from_its_grandparents_checkpoint_goes_on_from_that_one(
    story: Story,
) -> None:
    first = story.submit()
    first.log(range(1, 101), [1.0] * 100)
    late = save(first, 80)
    second = first.resume(ckpt_path=save(first, 60))
    second.log(range(61, 91), [2.0] * 30)
    third = second.resume(ckpt_path=late)
    third.log(range(81, 91), [3.0] * 10)
    (curve,) = third.series()
    assert curve["values"] == [1.0] * 80 + [3.0] * 10


def test_a_parent_that_is_started_again_changes_no_curve_of_its_child(story: Story) -> None:
    parent = story.submit()
    parent.log(range(1, 81), [1.0] * 80, session="one")
    path = save(parent, 60)
    before = parent.resume(ckpt_path=path)
    before.log(range(61, 64), [3.0] * 3)
    parent.log(range(21, 51), [2.0] * 30, session="two", take_over=True)
    after = parent.resume(ckpt_path=path)
    after.log(range(61, 64), [3.0] * 3)
    parent.log(range(51, 71), [2.0] * 20, session="two")
    assert save(parent, 60) == path, "the same name, of another branch"
    for child in (before, after):
        (curve,) = child.series()
        assert curve["steps"] == list(range(1, 64))
        assert curve["values"] == [1.0] * 60 + [3.0] * 3
    branch = parent.resume(ckpt_path=path)
    branch.log(range(61, 64), [3.0] * 3)
    (curve,) = branch.series()
    assert curve["values"] == [1.0] * 20 + [2.0] * 40 + [3.0] * 3


def test_the_latest_value_is_the_end_of_the_curve_however_far_back_a_trainer_goes(
    story: Story,
) -> None:
    trainer = story.submit()

    def check() -> None:
        ends = {
            each["key"]: {"step": each["steps"][-1], "value": each["values"][-1]}
            for each in trainer.series()
        }
        assert trainer.status()["metrics"] == ends

    trainer.log(range(1, 101), session="one")
    trainer.log(range(5, 50, 5), key="eval", session="one")
    trainer.log(range(50, 61), [2.0] * 11, session="two", take_over=True)
    trainer.log(range(40, 42), [2.0] * 2, key="eval", session="two")  # later, of earlier steps
    check()
    trainer.log(range(21, 22), key="other", session="three", take_over=True)
    trainer.log(range(35, 61), [3.0] * 26, session="three")
    trainer.log(
        range(31, 32), [4.0], key="other", session="four", take_over=True
    )  # after 20, before 35
    check()


def test_a_metric_of_now_and_then_survives_beside_one_of_each_step(story: Story) -> None:
    first = story.submit()
    first.log(range(1, 101))
    first.log(range(10, 101, 10), key="eval")
    second = first.resume(ckpt_path=save(first, 55))
    second.log(range(56, 59))
    eval_curve, loss = second.series()
    assert (eval_curve["steps"], loss["steps"]) == ([10, 20, 30, 40, 50], list(range(1, 59)))
