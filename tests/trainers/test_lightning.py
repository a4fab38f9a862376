"""Lightning's Trainer: what a logger and a callback can get wrong, with the real one."""

import time
from typing import Any

import pytest

from tests.support.service import Service, was_killed

SECONDS = 300.0
SHORT: dict[str, Any] = {"max_steps": 12, "save_steps": 4, "learning_rate": 0.001}


def test_a_resumed_run_trains_with_the_rate_that_it_was_given(service: Service) -> None:
    parent = service.submit("lightning", **SHORT)
    ended = service.ended(parent, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", 12), ended
    saved = service.checkpoints(parent)
    assert {"step-000004", "step-000008", "step-000012"} <= saved.keys()
    overrides = {"learning_rate": 0.0002, "max_steps": 14}
    child = service.resume(
        parent, ckpt_path=saved["step-000008"]["ckpt_path"], override_hyperparams=overrides
    )["run_id"]
    ended = service.ended(child, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", 14), ended
    for name, value in overrides.items():
        receipt = service.overrides(child)[name]
        assert (receipt["effective"], receipt["applied"]) == (value, True), receipt
    rate = ended["metrics"]["learning_rate"]
    assert (rate["value"], rate["step"]) == (0.0002, 14)
    assert min(step for step, _ in service.losses(child)) == 9


def test_a_stop_waits_for_the_commit_in_the_background_and_saves_its_step_once(
    service: Service,
) -> None:
    run = service.submit(
        "lightning", max_steps=100_000, save_steps=1, learning_rate=0.001, background=True
    )
    service.stepping(run, 3, SECONDS)
    promised = service.cancel(run, 202)["ckpt_path"]
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["ckpt_path"]) == ("cancelled", promised)
    saved = service.checkpoints(run)
    assert {"step-000001", "step-000002", "cancel-1"} <= saved.keys()
    assert {checkpoint["state"] for checkpoint in saved.values()} <= {"ready", "deleted"}
    assert [n for n, c in saved.items() if c["step"] == ended["step"]] == ["cancel-1"]


def test_no_thread_of_gloo_is_left_that_could_abort_a_rank_at_its_exit(service: Service) -> None:
    run = service.submit("lightning-ddp", **SHORT)
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", 12), ended
    log = (service.data_dir / "runs" / run / "train.log").read_text()
    assert log.count("at its end False") == 2, log


@pytest.mark.parametrize("interval", [3, 1000])
def test_a_cancel_saves_within_the_grace_however_long_a_validation_is(
    service: Service, interval: int
) -> None:
    """It is cancelled in a validation, and before one that Lightning begins for the stop."""
    validates: dict[str, Any] = {"val_check_interval": interval, "validation": 1_000_000}
    run = service.submit(
        "lightning", max_steps=100_000, save_steps=100_000, learning_rate=0.001, **validates
    )
    service.stepping(run, 3, SECONDS)
    if interval == 3:
        time.sleep(1)  # it validates
    promised = service.cancel(run, 202)["ckpt_path"]
    ended = service.ended(run, SECONDS)
    assert not was_killed(service, run), "it has ended within its grace"
    assert (ended["status"], ended["ckpt_path"]) == ("cancelled", promised)
    assert interval > 3 or ended["step"] == 3
    checkpoint = service.checkpoints(run)["cancel-1"]
    assert (checkpoint["state"], checkpoint["step"]) == ("ready", ended["step"])
    assert "val_loss" not in ended["metrics"], "the mean of a part is no metric"
