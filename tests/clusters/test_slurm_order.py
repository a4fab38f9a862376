"""A recipe that names an order: what this machine has no room for goes to a real Slurm."""

import re
from typing import Any

from tests.support.server import wait_until
from tests.support.service import Service
from tests.support.slurm_home import SlurmHome, output, steps


def launchers(service: Service) -> Any:
    """Return what REST says of each launcher."""
    return {each["name"]: each for each in service.get("/capacity")["launchers"]}


def test_a_run_for_which_this_machine_has_no_room_falls_over_to_slurm_and_both_end_well(
    home: SlurmHome,
) -> None:
    file = home.path / "recipes.toml"
    order = 'launcher = ["local", "slurm"]'
    text, changed = re.subn(r'(?m)^launcher = "slurm"$', order, file.read_text())
    assert changed
    file.write_text(text)
    with home.serve(MAX_LOCAL_RUNS="1") as service:
        here = service.submit("finishes", steps=400, step_seconds=0.05)
        service.stepping(here, 1, 60)
        there = service.submit("finishes", steps=40, step_seconds=0.05)
        service.stepping(there, 1, 60)
        told = launchers(service)
        assert (told["local"]["active"], told["slurm"]["active"]) == (1, 1)
        words = [event["data"].get("detail") or "" for event in service.events(there)]
        assert "Submitted to slurm." in words
        assert service.ended(there, 90)["status"] == "succeeded"
        assert steps(output(service, there)) == list(range(1, 41))
        assert service.cancel(here)["status"] in ("cancelling", "cancelled")
        assert service.ended(here, 60)["status"] == "cancelled"
        again = service.submit("finishes", steps=5)
        assert service.ended(again, 60)["status"] == "succeeded"
        wait_until(lambda: launchers(service)["slurm"]["active"] == 0, "nothing is left there")
        words = [event["data"].get("detail") or "" for event in service.events(again)]
        assert "Submitted to slurm." not in words, "there is room here again"
    assert home.starts(there) == [1]
