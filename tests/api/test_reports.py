"""Reports: taken in once, whoever repeats them; refused clearly; never more than can be written."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from app.rest import body
from app.rest import reports as rest_reports
from app.services import limits, metrics, reports, sessions
from tests.api.conftest import Api
from tests.support.story import Story


@pytest.fixture
def story(api: Api) -> Story:
    return Story(api.send)


def test_columns_and_rows_are_the_same_points(story: Story) -> None:
    columns, rows = story.submit(), story.submit()
    values = [1.5, "NaN", "Infinity", None, "-Infinity", 2]
    columns.report(
        metrics={"loss": {"steps": list(range(6)), "values": values, "wall_times": [9.5] * 6}}
    )
    rows.report(
        points=[
            {"key": "loss", "step": step, "value": value, "wall_time": 9.5}
            for step, value in enumerate(values)
        ]
    )
    (one,), (other,) = columns.series(), rows.series()
    assert one | {"run_id": ""} == other | {"run_id": ""}
    assert one["values"] == [1.5, None, None, None, None, 2.0]
    assert one["special"] == [
        {"step": 1, "value": "NaN"},
        {"step": 2, "value": "Infinity"},
        {"step": 3, "value": "NaN"},
        {"step": 4, "value": "-Infinity"},
    ]
    assert columns.status()["metrics"] == rows.status()["metrics"]


@pytest.mark.parametrize("value", ["Infinity", "-Infinity", "NaN"])
def test_a_latest_value_that_is_no_number_is_null_wherever_it_is_shown(
    story: Story, value: str
) -> None:
    trainer = story.submit()
    trainer.report(metrics={"loss": {"steps": [1], "values": [value]}})
    assert trainer.status()["metrics"] == {"loss": {"value": None, "step": 1}}
    (run,) = story.get("/runs")["runs"]
    assert run["metrics"] == {"loss": {"value": None, "step": 1}}
    query = f'{{ run(id: "{trainer.id}") {{ metrics {{ value step }} }} }}'
    answer = story.ok("POST", "/graphql", json={"query": query})
    assert answer["data"] == {"run": {"metrics": [{"value": None, "step": 1}]}}


def test_a_batch_that_is_sent_again_is_answered_and_changes_nothing(story: Story) -> None:
    trainer = story.submit()
    first = trainer.log(range(1, 4), batch=1)
    trainer.log(range(4, 7), batch=2)
    seen = story.get("/detail"), trainer.series()
    again = trainer.log(range(1, 4), [7.0, 7.0, 7.0], batch=1, finished=True)
    assert again == first | {"batch": 2}
    assert (story.get("/detail"), trainer.series()) == seen


def test_points_without_a_batch_number_are_kept_by_their_step(story: Story) -> None:
    trainer = story.submit()
    trainer.log(range(1, 4))
    trainer.log(range(1, 4))
    trainer.report(points=[{"key": "loss", "step": 2, "value": value} for value in (7.0, 8.0)])
    (series,) = trainer.series()
    assert (series["steps"], series["values"]) == ([1, 2, 3], [1.0, 8.0, 3.0])


LARGEST = 2**63 - 1


@pytest.mark.parametrize(
    ("report", "pointer"),
    [
        ({"metrics": {"a": {"steps": [1.5], "values": [1]}}}, "/metrics/a/steps/0"),
        ({"metrics": {"a": {"steps": [True], "values": [1]}}}, "/metrics/a/steps/0"),
        ({"metrics": {"a": {"steps": [-1], "values": [1]}}}, "/metrics/a/steps/0"),
        ({"metrics": {"a": {"steps": [LARGEST + 1], "values": [1]}}}, "/metrics/a/steps/0"),
        ({"metrics": {"a": {"steps": [2**64], "values": [1]}}}, "/metrics/a/steps/0"),
        ({"metrics": {"a": {"steps": [1], "values": ["nan"]}}}, "/metrics/a/values/0"),
        ({"metrics": {"a": {"steps": [1], "values": [True]}}}, "/metrics/a/values/0"),
        ({"metrics": {"a": {"steps": [1, 2], "values": [1]}}}, "/metrics/a"),
        ({"metrics": {"a": {"steps": [1], "values": [1], "wall_times": []}}}, "/metrics/a"),
        (
            {"metrics": {"a": {"steps": [1], "values": [1], "wall_times": [-1]}}},
            "/metrics/a/wall_times/0",
        ),
        (
            {"metrics": {"a": {"steps": [1], "values": [1], "wall_times": [1e308]}}},
            "/metrics/a/wall_times/0",
        ),
        ({"points": [{"key": "a", "step": 1, "value": 1, "wall_time": -1}]}, "/points/0/wall_time"),
        ({"points": [{"key": "a\nb", "step": 1, "value": 1}]}, "/points/0/key"),
        ({"metrics": {"a\nb": {"steps": [1], "values": [1]}}}, "/metrics"),
        ({"metrics": {"a" * 201: {"steps": [1], "values": [1]}}}, "/metrics"),
        ({"metrics": {"": {"steps": [1], "values": [1]}}}, "/metrics"),
        ({"points": [{"key": "a", "step": 1}]}, "/points/0/value"),
        ({"points": [{"key": "a", "step": 1, "value": 1, "loss": 2}]}, "/points/0/loss"),
        ({"batch": 0}, "/batch"),
        ({"session": "with spaces"}, "/session"),
    ],
    ids=str,
)
def test_what_is_no_point_is_refused_with_a_pointer_and_changes_nothing(
    story: Story, report: dict[str, Any], pointer: str
) -> None:
    trainer = story.submit()
    answer = trainer.send(**report)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["pointer"].startswith(pointer)
    assert trainer.status()["status"] == "queued"


def test_another_ranks_machine_is_recorded_at_the_runs_step_and_proves_no_life(
    story: Story,
) -> None:
    key = "system/rank8@b/cpu_percent"

    def machine(value: float, **more: Any) -> Any:
        column = {"steps": [0], "values": [value], "wall_times": [9.5]}
        return trainer.send(rank=8, metrics={key: column}, **more)

    trainer = story.submit()
    assert machine(1.0).status_code == 200
    assert trainer.status()["status"] == "queued", "it is no trainer that attaches"
    trainer.report(session="s", batch=1, step=7, total_steps=10)
    before = trainer.status()
    assert machine(40.0).status_code == 200
    assert machine(50.0).status_code == 200
    found = trainer.status()
    assert found["metrics"][key] == {"value": 50.0, "step": 7}
    for name in ("step", "heartbeat_at", "last_progress_at", "status"):
        assert found[name] == before[name], name
    trainer.report(session="s", batch=2, step=8)
    for wrong in (
        {"rank": 8, "step": 9}, {"rank": 8, "finished": True}, {"rank": 8, "batch": 3},
        {"rank": 0}, {"rank": 8, "session": "other"},
        {"rank": 8, "metrics": {"loss": {"steps": [1], "values": [1.0]}}},
    ):  # fmt: skip
        answer = trainer.send(**wrong)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input"), wrong
    assert trainer.status()["step"] == 8


def test_the_largest_step_is_a_step(story: Story) -> None:
    trainer = story.submit()
    trainer.report(points=[{"key": "loss", "step": LARGEST, "value": 1}])
    assert trainer.steps() == [LARGEST]
    assert trainer.status()["metrics"]["loss"]["step"] == LARGEST


def test_too_many_points_or_keys_are_refused_with_what_to_do(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = story.submit()
    steps = list(range(50_001))
    answer = trainer.send(metrics={"a": {"steps": steps, "values": steps}})
    assert (answer.status_code, "send several" in answer.text) == (422, True)
    monkeypatch.setattr(metrics, "MAX_KEYS", 3)
    column = {"steps": [1], "values": [1.0]}
    trainer.report(metrics=dict.fromkeys("abc", column))
    answer = trainer.send(metrics=dict.fromkeys("cd", column))
    assert (answer.status_code, "at most 3 metric keys" in answer.text) == (422, True)
    trainer.report(metrics=dict.fromkeys("abc", column))


def test_reports_that_would_fill_memory_are_held_back_before_they_are_read(
    api: Api, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = story.submit()
    with api.app.state.inflow.hold("another", rest_reports.MAX_WAITING_BYTES):
        answer = trainer.send(step=1)
    assert (answer.status_code, answer.json()["code"]) == (429, "busy")
    assert int(answer.headers["Retry-After"]) >= 1
    assert trainer.status()["status"] == "queued", "nothing was done"
    trainer.report(step=1)
    assert api.app.state.inflow.held == 0


def test_one_run_that_sends_many_reports_at_once_does_not_keep_the_others_out(
    api: Api, story: Story
) -> None:
    trainer, other = story.submit(), story.submit()
    with ExitStack() as held:
        for _ in range(rest_reports.MAX_OF_RUN):
            held.enter_context(api.app.state.inflow.hold(trainer.id, 1))
        answer = trainer.send(step=1)
        assert (answer.status_code, answer.json()["code"]) == (429, "busy")
        other.report(step=1)
    trainer.report(step=1)
    assert not api.app.state.inflow._of_run


def test_what_one_run_adds_to_the_history_is_bounded_and_its_points_still_arrive(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer, other = story.submit(), story.submit()
    trainer.log(range(1, 4), session="one", batch=1)
    monkeypatch.setattr(limits, "MAX_HISTORY_BYTES", 12 * limits.ENTRY_BYTES)
    saved = [{"name": f"step-{step}", "step": step} for step in range(1, 5)]
    trainer.report(checkpoints=saved)  # 8 with the start
    seen = story.events(trainer.id)
    many = {"step-size": "x" * 2048}
    for part, pointer in (
        ({"checkpoints": saved + saved}, "/checkpoints"),
        ({"effective_hyperparams": many | {"more": "x" * 2048}}, "/effective_hyperparams"),
        ({"session": "two", "take_over": True, "effective_hyperparams": many}, "/effective"),
    ):
        answer = trainer.send(step=4, **part)
        assert (answer.status_code, answer.json()["code"]) == (422, "run_limit"), answer.text
        assert answer.json()["errors"][0]["pointer"].startswith(pointer)
    assert story.events(trainer.id) == seen
    trainer.log(range(4, 7), session="one", batch=2)
    assert trainer.steps() == list(range(1, 7))
    other.report(checkpoints=saved)


def test_checkpoints_that_wait_to_be_verified_are_bounded_for_each_run(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MAX_PENDING", 2)
    trainer, other = story.submit(), story.submit()
    saved = [{"name": f"step-{n}", "step": n, "in_data_dir": True} for n in (1, 2, 3)]
    assert trainer.refused(checkpoints=saved) == (422, "run_limit")
    assert trainer.status()["status"] == "queued", "nothing was done"
    for each in saved:
        other.report(checkpoints=[each | {"in_data_dir": False}])


def test_keys_are_bounded_however_often_a_trainer_is_started_again(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "MAX_KEYS", 2)
    monkeypatch.setattr(metrics, "MAX_KEYED_ATTEMPTS", 2)
    trainer = story.submit()
    for number in (1, 2):
        for key in "ab":
            trainer.log(range(1, 2), key=f"{key}{number}", session=f"s{number}", take_over=True)
    more = {"c": {"steps": [1], "values": [1.0]}}
    assert trainer.refused(session="s3", take_over=True, metrics=more) == (422, "run_limit")


def test_a_token_learns_the_paths_of_its_run_only_until_the_end(api: Api, story: Story) -> None:
    trainer = story.submit()
    headers = {"Authorization": f"Bearer {trainer.run['run_token']}"}
    path = f"/v1/runs/{trainer.id}/spec"
    assert "data_dir" in story.ok("GET", path, headers=headers)
    story.ok("POST", f"{trainer.path}/cancel")
    answer = api.send("GET", path, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (409, "run_finished")
    assert str(api.settings.data_dir) not in answer.text


def test_a_sender_that_hangs_does_not_keep_the_others_out(
    api: Api, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest_reports, "BODY_SECONDS", 0.2)
    trainer = story.submit()

    async def never_whole() -> AsyncIterator[bytes]:
        yield b'{"step": 1'
        await asyncio.sleep(20)

    path = f"/v1/runs/{trainer.run['run_id']}/reports"
    headers = {"Authorization": f"Bearer {trainer.run['run_token']}"}
    answer = api.send("POST", path, content=never_whole(), headers=headers)
    assert (answer.status_code, "send it again" in answer.text) == (429, True)
    assert api.app.state.inflow.held == 0
    assert trainer.status()["status"] == "queued", "nothing was done"


def test_others_are_answered_between_the_reports_of_a_hundred_trainers(
    api: Api, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainers, parsed, first = [story.submit() for _ in range(100)], 0, asyncio.Event()

    async def counted(*args: Any) -> Any:
        nonlocal parsed
        parsed += 1
        first.set()
        return await body.read(*args)

    async def crowd() -> tuple[int, list[httpx.Response]]:
        transport = httpx.ASGITransport(api.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            sent = [
                asyncio.create_task(
                    client.post(
                        f"/v1/runs/{trainer.id}/reports",
                        json={"points": [{"key": "loss", "step": 7, "value": 1.0}]},
                        headers={"Authorization": f"Bearer {trainer.run['run_token']}"},
                    )
                )
                for trainer in trainers
            ]
            await first.wait()
            # Not a read: on PostgreSQL that waits for a connection, which the reports have.
            assert (await client.get("/healthz")).status_code == 200
            return parsed, await asyncio.gather(*sent)

    monkeypatch.setattr("app.rest.reports.read", counted)
    meanwhile, answers = asyncio.run_coroutine_threadsafe(crowd(), api.loop).result(30)
    assert meanwhile < 50, "it waited for the reports"
    assert {answer.status_code for answer in answers} == {200}
    assert all(trainer.steps() == [7] for trainer in trainers)


def test_many_trainers_at_once_lose_nothing_and_count_nothing_twice(story: Story) -> None:
    trainers = [story.submit() for _ in range(10)]

    def train(trainer: Any) -> None:
        for batch in range(1, 11):
            steps = range(batch * 20, batch * 20 + 20)
            for _ in range(2):  # each batch is delivered twice
                trainer.log(steps, batch=batch)

    with ThreadPoolExecutor(10) as pool:
        list(pool.map(train, trainers))
    for trainer in trainers:
        assert trainer.steps() == list(range(20, 220))


# Trainers of external runs that are started again by hand.


def test_a_new_session_is_a_new_attempt_and_the_old_one_is_told(story: Story) -> None:
    trainer = story.submit()
    assert trainer.log(range(1, 101), session="one", batch=1)["attempt"] == 1
    assert trainer.log(range(101, 151), session="one", batch=2)["attempt"] == 1
    # It goes on from its checkpoint at step 120.
    answer = trainer.log(range(121, 131), [0.5] * 10, session="two", batch=1, take_over=True)
    assert (answer["attempt"], answer["batch"]) == (2, 1)
    assert trainer.refused(session="one", batch=3, take_over=True) == (409, "stale_attempt")
    assert trainer.refused(session="one", attempt=1) == (409, "stale_attempt")
    assert trainer.refused(session="three", attempt=1) == (409, "stale_attempt")
    assert trainer.report(session="two", attempt=2, batch=2)["attempt"] == 2
    status = trainer.status()
    assert (status["attempt"], status["status"], status["step"]) == (2, "running", 130)
    assert status["metrics"]["loss"] == {"value": 0.5, "step": 130}
    (curve,) = trainer.series()
    assert curve["steps"] == list(range(1, 131))
    assert curve["values"] == [*map(float, range(1, 121)), *[0.5] * 10]
    assert [len(each["steps"]) for each in trainer.series(raw=True)] == [150, 10]
    happened = [event["type"] for event in story.events(trainer.id)]
    assert happened == ["run.queued", *["run.starting", "run.running", "run.queued"] * 2][:-1]


def test_a_trainer_that_reports_without_points_first_takes_nothing_away(story: Story) -> None:
    trainer = story.submit()
    trainer.log(range(1, 11), session="one", batch=1)
    trainer.report(session="two", batch=1, take_over=True)
    assert trainer.steps() == list(range(1, 11))
    trainer.log(range(6, 9), session="two", batch=2)
    assert trainer.steps() == list(range(1, 9))
    assert trainer.status()["step"] == 8


def test_a_trainer_without_a_session_is_one_trainer(story: Story) -> None:
    trainer = story.submit()
    assert trainer.log(range(1, 4))["attempt"] == 1
    assert trainer.log(range(4, 7))["attempt"] == 1
    assert trainer.report(session="late")["attempt"] == 1
    assert trainer.steps() == list(range(1, 7))


def test_a_trainer_started_again_loses_no_point_to_one_that_had_no_session(story: Story) -> None:
    trainer = story.submit()
    trainer.report(step=0)  # by hand, to see whether it works
    assert trainer.log(range(1, 11), session="one", batch=1)["attempt"] == 1
    answer = trainer.log(range(11, 21), session="two", batch=1, take_over=True)
    assert answer["attempt"] == 2
    assert trainer.steps() == list(range(1, 21))
    trainer = story.submit()
    trainer.log(range(1, 11), batch=1)
    answer = trainer.log(range(11, 21), session="one", batch=1, take_over=True)
    assert answer["attempt"] == 2
    assert trainer.steps() == list(range(1, 21))


def test_a_trainer_that_is_started_while_its_run_is_cancelled_is_told_to_stop(story: Story) -> None:
    trainer = story.submit()
    trainer.log(range(1, 4), session="one", batch=1)
    story.ok("POST", f"{trainer.path}/cancel")
    answer = trainer.report(session="two", batch=1)
    assert (answer["should_stop"], answer["stop_checkpoint"]) == (True, "cancel-1")


def test_a_second_process_does_not_end_the_reports_of_the_first(story: Story) -> None:
    trainer = story.submit()
    trainer.log(range(1, 11), session="trainer", batch=1)
    # A spawned worker, or an evaluation script, finds the same token in its environment.
    answer = trainer.send(session="worker", batch=1, points=[{"key": "x", "step": 1, "value": 1}])
    assert (answer.status_code, answer.json()["code"]) == (429, "session_active")
    assert 1 <= int(answer.headers["Retry-After"]) <= 15
    trainer.log(range(11, 21), session="trainer", batch=2)
    story.ok("POST", f"{trainer.path}/cancel")
    # While the trainer saves, the other is told to stop, and counts nothing of the trainer's.
    told = trainer.report(session="worker", batch=9, checkpoints=[{"name": "mine", "step": 1}])
    assert (told["should_stop"], told["batch"]) == (True, 2)
    told = trainer.report(session="trainer", batch=3)
    assert (told["attempt"], told["should_stop"], told["batch"]) == (1, True, 3)
    assert trainer.steps() == list(range(1, 21))
    assert [key["key"] for key in trainer.series()] == ["loss"]


def test_a_trainer_that_said_goodbye_is_followed_without_ceremony(story: Story) -> None:
    trainer = story.submit()
    trainer.log(range(1, 11), session="one", batch=1, closing=True)
    assert trainer.log(range(11, 21), session="two", batch=1)["attempt"] == 2
    assert trainer.steps() == list(range(1, 21))


def test_a_trainer_that_fell_silent_is_followed_without_ceremony(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = story.submit()
    trainer.log(range(1, 11), session="one", batch=1)
    assert trainer.refused(session="two", batch=1) == (429, "session_active")
    monkeypatch.setattr(sessions, "QUIET_SECONDS", 0.0)
    assert trainer.report(session="two", batch=1)["attempt"] == 2
    assert trainer.refused(session="one", batch=2) == (409, "stale_attempt")


def test_nobody_is_called_silent_while_the_server_was_away(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = story.submit()
    trainer.log(range(1, 11), session="one", batch=1)
    hour = 3600.0
    monkeypatch.setattr(sessions, "seconds_between", lambda *_: hour)
    monkeypatch.setattr(sessions, "_STARTED", time.monotonic())  # it has been up for a moment
    assert trainer.refused(session="two", batch=1) == (429, "session_active")
    monkeypatch.setattr(sessions, "_STARTED", time.monotonic() - hour)
    assert trainer.report(session="two", batch=1)["attempt"] == 2


def test_no_report_makes_those_that_follow_vanish(story: Story) -> None:
    trainer = story.submit()
    trainer.log(range(1, 4), session="one", batch=1)
    largest = 2**63 - 1
    assert trainer.refused(batch=largest) == (422, "invalid_input"), "of no session"
    assert trainer.refused(session="one", batch=largest) == (422, "invalid_input")
    trainer.log(range(4, 7), session="one", batch=2)
    assert trainer.steps() == list(range(1, 7))
    unnamed = story.submit()
    assert unnamed.refused(batch=largest) == (422, "invalid_input")
    unnamed.log(range(1, 4), batch=1)
    assert unnamed.steps() == [1, 2, 3]


def test_a_run_that_has_ended_takes_no_more_reports(story: Story) -> None:
    trainer = story.submit()
    story.ok("POST", f"{trainer.path}/cancel")
    assert trainer.refused(session="one") == (409, "run_finished")


def test_a_run_with_a_recipe_is_told_to_send_its_attempt(api: Api, story: Story) -> None:
    run = story.ok("POST", f"{story.path}/runs", json={"model": "m", "recipe": "demo"})
    story.ok("POST", f"{story.path}/runs/{run['run_id']}/cancel")
    waiting = story.submit()
    assert waiting.send(attempt=2).json()["code"] == "stale_attempt"


# What the trainer really used.


def test_a_resume_whose_learning_rate_was_ignored_says_so(story: Story) -> None:
    first = story.submit(hyperparams={"learning_rate": 1e-3, "batch_size": 16})
    first.log(range(1, 11), checkpoints=[{"name": "step-10", "step": 10}])
    child = first.resume(override_hyperparams={"learning_rate": 1e-4, "batch_size": 32})
    child.report(effective_hyperparams={"learning_rate": 0.001})
    child.report(effective_hyperparams={"batch_size": 32.0})
    detail = child.status()["status_detail"]
    ignored = "The trainer ignored learning_rate = 0.0001 and uses 0.001."
    assert detail == f"A trainer attached. {ignored}"
    told = [e["data"] for e in story.events(child.id) if e["type"] == "run.effective_hyperparams"]
    assert [each.get("ignored") for each in told] == [["learning_rate"], ["learning_rate"]]
    assert [each["detail"] for each in told] == [ignored, ignored]
    assert told[1]["effective_hyperparams"] == {"learning_rate": 0.001, "batch_size": 32.0}
    history = story.events(child.id)
    child.report(effective_hyperparams={"batch_size": 32.0})
    assert story.events(child.id) == history, "nothing new was said"
    child.report(effective_hyperparams={"learning_rate": 1e-4})
    assert child.status()["status_detail"] == "A trainer attached."


def test_an_override_that_the_next_attempt_ignores_too_is_told_of_that_one(story: Story) -> None:
    first = story.submit(hyperparams={"learning_rate": 1e-3})
    first.log(range(1, 11), checkpoints=[{"name": "step-10", "step": 10}])
    child = first.resume(override_hyperparams={"learning_rate": 1e-4})
    for session, attached in (("one", "A trainer"), ("two", "Another trainer")):
        for _ in range(2):
            child.report(
                effective_hyperparams={"learning_rate": 0.001}, session=session, take_over=True
            )
        ignored = "The trainer ignored learning_rate = 0.0001 and uses 0.001."
        assert child.status()["status_detail"] == f"{attached} attached. {ignored}"
    told = [e["type"] for e in story.events(child.id)].count("run.effective_hyperparams")
    assert told == 2, "once of each attempt"


def test_two_integers_are_the_same_only_when_they_are(story: Story) -> None:
    first = story.submit()
    first.log(range(1, 11), checkpoints=[{"name": "step-10", "step": 10}])
    asked = {"seed": 1_234_567_890, "steps": 2_000_000, "tokens": 2_000_000}
    child = first.resume(override_hyperparams=asked)
    child.report(effective_hyperparams={"seed": 1_234_567_891, "steps": 2_000_000, "tokens": 2e6})
    (run,) = [e for e in story.events(child.id) if e["type"] == "run.effective_hyperparams"]
    assert run["data"]["ignored"] == ["seed"]


def test_what_is_reported_of_hyperparameters_is_bounded_in_all(story: Story) -> None:
    trainer = story.submit()
    for each in "ab":
        last = trainer.send(effective_hyperparams={each: "x" * 40_000})
    assert last.status_code == 422, last.text
    assert last.json()["errors"][0]["pointer"] == "/effective_hyperparams"


def test_applied_overrides_are_quiet(story: Story) -> None:
    first = story.submit(hyperparams={"learning_rate": 1e-3})
    first.log(range(1, 11), checkpoints=[{"name": "step-10", "step": 10}])
    child = first.resume(override_hyperparams={"learning_rate": 1e-4})
    child.report(effective_hyperparams={"learning_rate": 0.00009999999747378752})  # a float32
    assert child.status()["status_detail"] == "A trainer attached."


def test_a_token_opens_no_other_run(story: Story) -> None:
    one, other = story.submit(), story.submit()
    one.run["run_token"] = other.run["run_token"]
    assert one.refused(step=1) == (401, "unauthorized")
    one.run["run_token"] = "rt_" + secrets.token_urlsafe(32)
    assert one.refused(step=1) == (401, "unauthorized")
