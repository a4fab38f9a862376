"""Health rules with real trainers: an event, a stop that saves, a retry from before it."""

import json
import sys
from pathlib import Path
from typing import Any

from tests.support.server import REPOSITORY, wait_until
from tests.support.service import Service, home

SCRIPT = """
import json, os, sys, time
from llm_train import Reporter

reporter = Reporter.from_env()
first = 0
if reporter.resume_path:
    first = json.loads((reporter.resume_path / "state.json").read_text())["step"]
print("begins at", first, flush=True)
bad = {"nan": float("nan"), "high": 90.0}[sys.argv[1]]
for step in range(first + 1, 61):
    is_bad = step >= 45 and os.environ["LLM_TRAIN_ATTEMPT"] == "1"
    reporter.log(step, {"loss": bad if is_bad else 2.0 + step % 3 / 10}, total_steps=60)
    stopping = reporter.should_stop
    if step % 10 == 0 or stopping:
        with reporter.checkpoint(step) as directory:
            (directory / "state.json").write_text(json.dumps({"step": step}))
    if stopping:
        break
    time.sleep(0.2 if is_bad else 0.02)
else:
    reporter.finish()
"""


def write_recipes(path: Path) -> Path:
    (path / "train.py").write_text(SCRIPT)
    tables = []
    for name, kind, rule in (
        ("told", "nan", None),
        ("stopped", "nan", '{ rule = "nan", action = "stop" }'),
        ("limited", "high", '{ rule = "above", metric = "loss", value = 50, action = "stop" }'),
        ("retried", "high", '{ rule = "spike", metric = "loss", action = "retry" }'),
    ):
        command = json.dumps([sys.executable, str(path / "train.py"), kind])
        health = f"health = [{rule}]\nmax_attempts = 2\nretry_seconds = 0\n" if rule else ""
        tables.append(
            f"[recipes.{name}]\ncommand = {command}\nworking_dir = {json.dumps(str(REPOSITORY))}\n"
            f'env_allow = ["PATH"]\ngrace_seconds = 10\n{health}'
        )
    file = path / "recipes.toml"
    file.write_text("\n".join(tables))
    return file


def findings(service: Service, run: str) -> list[Any]:
    return [each["data"] for each in service.events(run) if each["type"] == "run.unhealthy"]


def test_each_action_does_what_it_says_and_each_finding_is_told_once(tmp_path: Path) -> None:
    with home(tmp_path) as place, place.serve(RECIPES=str(write_recipes(tmp_path))) as service:
        told, stopped = service.submit("told"), service.submit("stopped")
        limited, retried = service.submit("limited"), service.submit("retried")

        assert service.ended(told, 60)["status"] == "succeeded"
        (finding,) = findings(service, told)
        assert (finding["rule"], finding["key"], finding["step"]) == ("nan", "loss", 45)
        assert (finding["value"], finding["detail"]) == ("NaN", "loss is NaN at step 45.")

        for run in (stopped, limited):
            ended = service.ended(run, 60)
            assert (ended["status"], ended["status_reason"]) == ("failed", "unhealthy"), ended
            assert "loss is" in ended["status_detail"] and "at step 45" in ended["status_detail"]
            assert ended["attempt"] == 1, "to stop is not to try again"
            saved = [c for c in service.checkpoints(run).values() if c["step"] == ended["step"]]
            assert [each["state"] for each in saved] == ["ready"], "it was stopped with a save"
            assert len(findings(service, run)) == 1

        ended = service.ended(retried, 60)
        assert (ended["status"], ended["attempt"], ended["step"]) == ("succeeded", 2, 60), ended
        log = (service.data_dir / "runs" / retried / "train.log").read_text()
        assert log.split("\n")[:2] == ["begins at 0", "begins at 40"], "from the last before it"
        (finding,) = findings(service, retried)
        assert (finding["rule"], finding["step"], finding["attempt"]) == ("spike", 45, 1)
        wait_until(lambda: service.status(retried)["metrics"]["loss"]["value"] < 3, "it is well")


def test_a_nan_of_an_external_run_is_an_event_and_one_of_the_machine_is_none(
    tmp_path: Path,
) -> None:
    with home(tmp_path) as place, place.serve() as service:
        path = f"/experiments/{service.experiment}/runs"
        made = service.post(path, {"model": "m"}, 201)
        run, token = made["run_id"], f"Bearer {made['run_token']}"
        body = {
            "metrics": {
                "loss": {"steps": [1, 2, 3], "values": [1.0, "NaN", "NaN"]},
                "grad": {"steps": [1], "values": ["Infinity"]},
                "system/gpu": {"steps": [1], "values": ["NaN"]},
            }
        }
        for _ in range(2):
            service.post(f"/runs/{run}/reports", body, 200, Authorization=token)
        (finding,) = findings(service, run)
        assert (finding["key"], finding["step"]) == ("loss", 2)
