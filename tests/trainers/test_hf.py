"""Hugging Face's Trainer and TRL's: what a callback can get wrong, with the real ones."""

import json
import re
from typing import Any

import pytest

from tests.support.server import wait_until
from tests.support.service import Service, was_killed

SECONDS = 300.0
SHORT: dict[str, Any] = {"max_steps": 12, "save_steps": 4, "learning_rate": 0.001}
LONG = SHORT | {"max_steps": 100_000, "save_steps": 100_000}


def metric(service: Service, run: str, key: str) -> dict[int, float]:
    path = f"/experiments/{service.experiment}/runs/{run}/metrics?keys={key}&raw=true&limit=100000"
    series = service.get(path)["series"]
    return {
        step: value for s in series for step, value in zip(s["steps"], s["values"], strict=True)
    }


@pytest.mark.parametrize("trainer", ["hf", "trl"])
def test_a_resumed_run_trains_with_the_rate_that_it_was_given(
    service: Service, trainer: str
) -> None:
    parent = service.submit(trainer, **SHORT)
    ended = service.ended(parent, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", 12), ended
    assert {"step-000004", "step-000008", "step-000012"} <= service.checkpoints(parent).keys()
    path = service.checkpoints(parent)["step-000008"]["ckpt_path"]
    overrides = {"learning_rate": 0.0002, "max_steps": 14}
    child = service.resume(parent, ckpt_path=path, override_hyperparams=overrides)["run_id"]
    ended = service.ended(child, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", 14), ended
    for name, value in overrides.items():
        receipt = service.overrides(child)[name]
        assert (receipt["effective"], receipt["applied"]) == (value, True), receipt
    rates = metric(service, child, "learning_rate")
    assert min(rates) == 9 and max(rates) == 14, rates  # not from 0, and not twice
    assert set(rates.values()) == {0.0002}


def test_a_cancel_during_a_long_evaluation_saves_within_the_grace(service: Service) -> None:
    evaluates: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 3, "eval_copies": 10_000}
    run = service.submit("hf", **LONG, **evaluates)
    service.stepping(run, 3, SECONDS)
    promised = service.cancel(run, 202)["ckpt_path"]
    ended = service.ended(run, SECONDS)
    assert not was_killed(service, run), "it has ended within its grace"
    assert (ended["status"], ended["step"], ended["ckpt_path"]) == ("cancelled", 3, promised)
    checkpoint = service.checkpoints(run)["cancel-1"]
    assert (checkpoint["state"], checkpoint["step"]) == ("ready", 3)
    assert not any(key.startswith("eval_") for key in ended["metrics"])


ONE_STEP_IS_AN_EPOCH: dict[str, Any] = {"rows": 2}


def test_a_stop_at_an_epochs_end_saves_once(service: Service) -> None:
    run = service.submit("hf", **LONG, **ONE_STEP_IS_AN_EPOCH)
    service.stepping(run, 3, SECONDS)
    promised = service.cancel(run, 202)["ckpt_path"]
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["ckpt_path"]) == ("cancelled", promised)
    assert service.checkpoints(run)["cancel-1"]["state"] == "ready"
    assert saves(service, run) == [ended["step"]]


def test_a_stop_in_the_evaluation_of_an_epoch_keeps_what_its_last_step_has_saved(
    service: Service,
) -> None:
    evaluates: dict[str, Any] = {"eval_strategy": "epoch", "eval_copies": 1_000_000}
    run = service.submit("hf", **LONG | {"save_steps": 1}, **ONE_STEP_IS_AN_EPOCH, **evaluates)
    wait_until(lambda: service.checkpoints(run), "it has saved, and evaluates", SECONDS)
    service.cancel(run, 202)
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["step"]) == ("cancelled", 1)
    assert saves(service, run) == [1]
    saved = service.checkpoints(run)
    assert saved.keys() == {"step-000001", "cancel-1"}
    assert saved["step-000001"]["state"] == "ready"
    assert saved["cancel-1"]["stored_as"] == saved["step-000001"]["checkpoint_id"], (
        "the promise names it"
    )


def saves(service: Service, run: str) -> list[int]:
    """Return the steps that the Trainer itself has saved, each as often as it did."""
    log = (service.data_dir / "runs" / run / "train.log").read_text()
    return [int(number) for number in re.findall(r"the Trainer has saved step (\d+)", log)]


@pytest.mark.parametrize("trainer", ["hf", "lightning", "loop"])
def test_a_cancel_while_data_is_prepared_ends_at_once_and_says_so(
    service: Service, trainer: str
) -> None:
    run = service.submit(trainer, **LONG, deed="prepare")
    marker = service.data_dir / "runs" / run / "deed.pid"
    wait_until(marker.exists, "it prepares its data", SECONDS)
    service.cancel(run, 202)
    ended = service.ended(run, SECONDS)
    assert not was_killed(service, run), "it has ended within its grace"
    assert ended["status"] == "cancelled"
    checkpoint = service.checkpoints(run)["cancel-1"]
    assert (checkpoint["state"], checkpoint["reason"]) == ("empty", "The run had taken no step.")


def test_moved_checkpoints_are_whole_and_the_best_of_them_is_still_found(service: Service) -> None:
    best: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 4, "best": "true", "move": True}
    run = service.submit("hf", **SHORT, **best)
    ended = service.ended(run, SECONDS)
    assert ended["status"] == "succeeded", ended
    left = service.data_dir / "runs" / run / "out"
    assert [path.name for path in left.glob("checkpoint-*")] == []
    for checkpoint in service.checkpoints(run).values():
        assert checkpoint["state"] == "ready"
        state = json.loads((service.directory(checkpoint) / "trainer_state.json").read_text())
        assert state["global_step"] == checkpoint["step"]
        assert checkpoint["metrics"]["eval_loss"] > 0 and checkpoint["healthy"] is True
    log = (service.data_dir / "runs" / run / "train.log").read_text()
    assert "loaded the best model" in log and "Could not locate the best model" not in log


@pytest.mark.parametrize("move", [False, True])
def test_checkpoints_are_committed_in_the_background_in_their_order(
    service: Service, move: bool
) -> None:
    run = service.submit("hf", **SHORT, background=True, move=move)
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", 12), ended
    saved = service.checkpoints(run)
    assert list(saved) == ["step-000004", "step-000008", "step-000012"] or list(saved) == [
        "step-000012", "step-000008", "step-000004",
    ]  # fmt: skip
    assert {checkpoint["state"] for checkpoint in saved.values()} == {"ready"}
    left = [path.name for path in (service.data_dir / "runs" / run / "out").glob("checkpoint-*")]
    assert len(left) == (0 if move else 3)


def test_a_restart_within_an_attempt_goes_on_from_its_own_newest_checkpoint(
    service: Service,
) -> None:
    run = service.submit("hf-restarts", **SHORT, deed="crash once")
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["attempt"], ended["step"]) == ("succeeded", 1, 12), ended
    log = (service.data_dir / "runs" / run / "train.log").read_text()
    assert "starts from None" in log and "/step-000004" in log
