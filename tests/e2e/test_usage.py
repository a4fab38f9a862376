"""The account of work is true of what really ran: used, wasted, waited, saved."""

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service, home, running

GPUS = {"count": 2}


def submit(service: Service, recipe: str, **hyperparams: Any) -> str:
    body = {"model": "m", "recipe": recipe, "hyperparams": hyperparams, "resources": GPUS}
    run = service.post(f"/experiments/{service.experiment}/runs", body, 201)["run_id"]
    return str(run)


def usage(service: Service, **query: str) -> dict[str, Any]:
    """Return the sums by their groups."""
    answer = service.http.get(f"{service.url}/v1/usage", params=query)
    answer.raise_for_status()
    return {row["group"]: row for row in answer.json()["usage"]}


def test_what_a_failed_run_did_after_its_last_checkpoint_is_wasted_and_a_resume_saves_the_rest(
    tmp_path: Path,
) -> None:
    with home(tmp_path) as place, place.serve(GPUS="A,A,A,A,A,A") as service:
        done = submit(service, "finishes", steps=20, step_seconds=0.02)
        crashed = submit(service, "crashes", steps=60, step_seconds=0.05, checkpoint_every=20)
        stopped = submit(service, "obedient", steps=10**6, step_seconds=0.05, checkpoint_every=20)
        service.stepping(stopped, 30)
        service.cancel(stopped)
        for run in (done, crashed, stopped):
            service.ended(run)
        steps = service.status(stopped)["step"] + 10
        child = service.resume(stopped, override_hyperparams={"steps": steps})["run_id"]
        service.ended(child)

        runs = usage(service, by="run")
        assert set(runs) == {done, crashed, stopped, child}
        assert runs[done]["wasted_seconds"] == 0 and runs[done]["goodput"] == 1
        # It crashed at step 30 of 60, and step 20 was its last checkpoint.
        assert 0.3 < runs[crashed]["wasted_seconds"] < runs[crashed]["used_seconds"] - 0.5
        # Asked to stop it saved, and that was its end.
        assert runs[stopped]["wasted_seconds"] < runs[stopped]["used_seconds"] / 2
        assert runs[stopped]["saved_seconds"] == 0
        assert runs[child]["saved_seconds"] > 30 * 0.05 * 0.9
        for row in runs.values():
            assert row["used_seconds"] > 0 and 0 <= row["waited_seconds"] < 60
            assert row["gpu_hours_used"] == pytest.approx(2 * row["used_seconds"] / 3600)

        ((experiment, whole),) = usage(service, by="experiment").items()
        ((month, all_of_it),) = usage(service).items()
        assert experiment == service.experiment
        assert month == service.status(done)["finished_at"][:7]
        for key in ("used_seconds", "wasted_seconds", "saved_seconds", "gpu_hours_used"):
            assert whole[key] == pytest.approx(sum(row[key] for row in runs.values()))
            assert all_of_it[key] == pytest.approx(whole[key])
        assert usage(service, by="run", until="2020-01-01T00:00:00Z") == {}

        query = """{ usage(by: RUN, after: "") {
            group attempts usedSeconds wastedSeconds savedSeconds gpuHoursUsed goodput } }"""
        answer = service.http.post(f"{service.url}/graphql", json={"query": query}).json()
        assert [row["group"] for row in answer["data"]["usage"]] == sorted(runs)
        for row in answer["data"]["usage"]:
            known = runs[row["group"]]
            assert row["usedSeconds"] == known["used_seconds"]
            assert row["gpuHoursUsed"] == known["gpu_hours_used"]
            assert (row["attempts"], row["goodput"]) == (known["attempts"], known["goodput"])

        text = service.http.get(f"{service.url}/v1/usage?by=run&csv=true").text
        table = {row["group"]: row for row in csv.DictReader(io.StringIO(text))}
        assert float(table[crashed]["wasted_seconds"]) == runs[crashed]["wasted_seconds"]
        first = service.http.get(f"{service.url}/v1/usage?by=run&limit=3").json()
        rest = service.http.get(f"{service.url}/v1/usage?by=run&after={first['next']}").json()
        assert [r["group"] for r in first["usage"] + rest["usage"]] == sorted(runs)


def test_each_attempt_of_a_run_that_was_tried_again_is_counted(tmp_path: Path) -> None:
    again = 'retry_on = ["signal"]\nmax_attempts = 3'
    with running(tmp_path, oom_like=again) as service:
        run = service.submit("oom_like", steps=6)
        service.ended(run)
        assert usage(service, by="run")[run]["attempts"] == 3
