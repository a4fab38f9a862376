"""A real trainer yields its place to a run of a higher priority, and goes on where it was."""

from pathlib import Path
from typing import Any

from tests.support.service import home


def test_a_lower_run_makes_room_with_a_checkpoint_and_goes_on_by_itself(tmp_path: Path) -> None:
    with home(tmp_path) as place, place.serve(MAX_LOCAL_RUNS="1") as service:
        path = f"/experiments/{service.experiment}/runs"

        def submit(priority: str, **hyperparams: Any) -> str:
            body = {"model": "tiny", "recipe": "obedient", "priority": priority,
                    "hyperparams": hyperparams}  # fmt: skip
            return str(service.post(path, body, 201)["run_id"])

        low = submit("low", steps=60, step_seconds=0.1, checkpoint_every=5)
        other = submit("low", steps=5, step_seconds=0.01)
        service.stepping(low, 6)
        high = submit("high", steps=5, step_seconds=0.01)
        assert service.ended(high, 60)["status"] == "succeeded"
        ended = service.ended(low, 120)
        assert ended["status"] == "succeeded"
        service.ended(other, 60)

        assert service.launches(low)[:2] == [1, 2]
        history = [(each["type"], each["data"].get("reason")) for each in service.events(low)]
        assert ("run.stopping", "preempted") in history and ("run.queued", "preempted") in history
        again = [each["data"] for each in service.events(low) if each["type"] == "run.starting"][1]
        assert again["ckpt_path"] is not None and again["step"] >= 5
        # It went on from what it had saved, and no point of it was made twice.
        steps = [step for step, _ in service.losses(low)]
        assert sorted(set(steps)) == list(range(1, 61))
        assert len(steps) - len(set(steps)) <= 2
        seqs = {each["run_id"]: each["seq"] for each in service.events()
                if each["type"] == "run.starting"}  # fmt: skip
        assert seqs[high] < seqs[low]
