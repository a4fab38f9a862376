"""A trainer that only writes event files: its progress and metrics are those of the files."""

import json
import sys
from pathlib import Path

from tests.support.server import REPOSITORY
from tests.support.service import home


def test_event_files_become_metrics_of_their_own_attempt(tmp_path: Path) -> None:
    command = [
        sys.executable, "-c",
        "import os, sys; from pathlib import Path; from tests.support.event_files import main;"
        "attempt = os.environ['LLM_TRAIN_ATTEMPT'];"
        "folder = Path(os.environ['LLM_TRAIN_RUN_DIR']) / 'runs' / attempt;"
        "main(folder, 60 if attempt == '1' else 20); sys.exit(attempt == '1')",
    ]  # fmt: skip
    recipe = (
        f"[recipes.writer]\ncommand = {json.dumps(command)}\ntensorboard = 'runs/**'\n"
        f"working_dir = {json.dumps(str(REPOSITORY))}\nrequires_report = false\nmax_attempts = 2\n"
        "retry_seconds = 0\nheartbeat_seconds = 30\n"
    )
    with home(tmp_path) as place:
        (tmp_path / "recipes.toml").write_text(recipe)
        with place.serve() as service:
            run = service.submit("writer")
            ended = service.ended(run)
            assert (ended["status"], ended["attempt"], ended["step"]) == ("succeeded", 2, 20)
            path = f"/experiments/{service.experiment}/runs/{run}/metrics?keys=train/loss&raw=true"
            first, second = service.get(path)["series"]
    assert first["steps"] == list(range(1, 61)), "also what was written last"
    assert second["steps"] == list(range(1, 21))
    assert second["values"][3] == 0.25 and second["wall_times"][0] > 1_700_000_000


SILENT = """
import os, time
from pathlib import Path
from tests.support.event_files import main
main(Path(os.environ["LLM_TRAIN_RUN_DIR"]) / "runs", 20)
time.sleep(5)
"""
REPORTS_TOO = """
from llm_train import Reporter
Reporter.from_env().log(21, loss=0.5)
time.sleep(600)
"""


def test_the_silence_of_a_trainer_that_sends_no_heartbeats_is_no_fault(tmp_path: Path) -> None:
    scripts = {"writer": SILENT, "reporter": SILENT + REPORTS_TOO}
    recipes = [
        f"[recipes.{name}]\ncommand = {json.dumps([sys.executable, '-c', script])}\n"
        f"working_dir = {json.dumps(str(REPOSITORY))}\ntensorboard = 'runs/**'\n"
        "requires_report = false\nheartbeat_seconds = 1.5\ngrace_seconds = 1\n"
        for name, script in scripts.items()
    ]
    with home(tmp_path) as place:
        (tmp_path / "recipes.toml").write_text("\n".join(recipes))
        with place.serve() as service:
            silent, reporting = service.submit("writer"), service.submit("reporter")
            ended = service.ended(silent)
            assert (ended["status"], ended["step"]) == ("succeeded", 20), ended
            service.stepping(reporting, 21)
            service.trainer(reporting).suspend()
            ended = service.ended(reporting)
            assert (ended["status_reason"], ended["step"]) == ("heartbeat_lost", 21), ended
