"""Lightning's Trainer: what a logger and a callback can get wrong, with the real one."""

import time
from typing import Any

from tests.support.service import Service

SECONDS = 90.0
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


def test_a_stop_waits_for_the_commit_in_the_background(service: Service) -> None:
    run = service.submit(
        "lightning", max_steps=100_000, save_steps=4, learning_rate=0.001, background=True
    )
    service.stepping(run, 9, SECONDS)
    promised = service.cancel(run, 202)["ckpt_path"]
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["ckpt_path"]) == ("cancelled", promised)
    saved = service.checkpoints(run)
    assert {"step-000004", "step-000008", "cancel-1"} <= saved.keys()
    assert {checkpoint["state"] for checkpoint in saved.values()} <= {"ready", "deleted"}
    assert saved["cancel-1"]["step"] == ended["step"]


def test_a_cancel_during_a_long_validation_saves_within_the_grace(service: Service) -> None:
    validates: dict[str, Any] = {"val_check_interval": 3, "validation": 1_000_000}
    run = service.submit(
        "lightning", max_steps=100_000, save_steps=100_000, learning_rate=0.001, **validates
    )
    service.stepping(run, 3, SECONDS)
    time.sleep(1)  # it validates
    cancelled_at = time.monotonic()
    promised = service.cancel(run, 202)["ckpt_path"]
    ended = service.ended(run, SECONDS)
    assert time.monotonic() - cancelled_at < 12, "it was not killed after the grace of 15 s"
    assert (ended["status"], ended["step"], ended["ckpt_path"]) == ("cancelled", 3, promised)
    assert service.checkpoints(run)["cancel-1"]["state"] == "ready"
    assert "val_loss" not in ended["metrics"], "the mean of a part is no metric"
