"""A run's data reaches its command by the placeholders of the recipe, on this machine."""

import json
from pathlib import Path

from tests.support.service import Home

PRINTS = "import json, sys; print(json.dumps(sys.argv[1:]))"
LINES = "heartbeat_seconds = 0\nrequires_report = false\n"


def test_a_command_gets_the_runs_own_values_and_paths(tmp_path: Path) -> None:
    words = [
        "{python}", "-c", PRINTS,
        "--lr={hyperparams.lr}", "--from", "{resume_path}", "{run_dir}/out",
    ]  # fmt: skip
    recipes = tmp_path / "recipes.toml"
    recipes.write_text(f"[recipes.prints]\ncommand = {json.dumps(words)}\n{LINES}")
    with Home(tmp_path, settings={"RECIPES": str(recipes)}).serve() as service:
        body = {"model": "m", "recipe": "prints", "hyperparams": {"lr": "1 --x"}}
        path = f"/experiments/{service.experiment}/runs"
        refused = service.post(path, body, 422)
        assert refused["code"] == "invalid_input"
        assert refused["errors"][0]["pointer"] == "/hyperparams/lr"
        assert service.detail()["runs"] == []
        run = service.submit("prints", lr=3e-4, other="$(id)")
        assert service.ended(run)["status"] == "succeeded"
        run_dir = service.data_dir / "runs" / run
        log = (run_dir / "train.log").read_text()
        assert json.loads(log) == ["--lr=0.0003", f"{run_dir}/out"]
