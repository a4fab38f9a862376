"""A directory of checkpoints moves into the bucket by a command, and its runs go on."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

from app.domain import paths
from tests.support.server import REPOSITORY, wait_until
from tests.support.service import Home
from tests.support.stores import home_in, storage_of


def command(place: Home, *arguments: str, **settings: str) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if "LLM_TRAIN" not in name}
    settings = {
        **place.settings, "DATA_DIR": str(place.path / "data"),
        "DATABASE_URL": f"sqlite:///{place.path / 'app.db'}", **settings,
    }  # fmt: skip
    environment |= {f"LLM_TRAIN_{name}": value for name, value in settings.items()}
    return subprocess.Popen(
        [sys.executable, "-m", "app.cli.main", *arguments], cwd=REPOSITORY, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def run_command(place: Home, *arguments: str, expect: int = 0, **settings: str) -> str:
    process = command(place, *arguments, **settings)
    text, _ = process.communicate(timeout=180)
    assert process.returncode == expect, text
    return text


def test_a_directory_of_checkpoints_moves_into_the_bucket_and_its_runs_are_resumed(
    s3: str, tmp_path: Path
) -> None:
    with home_in(tmp_path, s3) as place:
        with place.serve(STORAGE="directory:") as service:
            run = service.submit("obedient", steps=30, checkpoint_every=5, step_seconds=0.01)
            assert service.ended(run)["status"] == "succeeded"
            saved = service.checkpoints(run)
            assert len(saved) == 6
            refused = run_command(
                place, "move-checkpoints", "--to", "main", expect=1, STORAGE="directory:"
            )
            assert "their files here must stay" in refused
            dice = random.Random(7)
            for _ in range(4):  # killed at any moment, it is repeated
                moving = command(
                    place, "move-checkpoints", "--to", "main", "--keep", STORAGE="directory:"
                )
                time.sleep(dice.uniform(0.8, 2.5))
                moving.kill()
                moving.communicate()
            text = run_command(
                place, "move-checkpoints", "--to", "main", "--keep", STORAGE="directory:"
            )
            assert "6 checkpoints are whole in main" in text
            own = service.directory(saved["step-000005"])
            assert {file.name for file in own.iterdir()} >= {"manifest.json", "state.json"}
        text = run_command(place, "move-checkpoints", "--to", "main")
        assert "6 checkpoints are whole in main" in text
        assert [file.name for file in own.iterdir()] == ["manifest.json"]
        with place.serve() as service:
            stored = storage_of(place, s3).store
            for each in saved.values():
                assert stored.verify(paths.parse(each["ckpt_path"])).sha256 == each["sha256"]
            child = service.resume(
                run, ckpt_path=saved["step-000010"]["ckpt_path"],
                override_hyperparams={"steps": 15},
            )["run_id"]  # fmt: skip
            assert service.ended(child)["status"] == "succeeded"
            detail = service.get(f"/experiments/{service.experiment}/detail")
            (source,) = [r for r in detail["runs"] if r["run_id"] == child]
            assert source["parent_run_id"] == run
            wait_until(lambda: "ready" in str(service.checkpoints(child)), "it saves there, too")


def test_a_checkpoint_is_exported_from_one_service_and_resumed_in_another(
    s3: str, tmp_path: Path
) -> None:
    folder = tmp_path / "taken-along"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with home_in(tmp_path / "one", s3) as place, place.serve() as service:
        run = service.submit("obedient", steps=20, checkpoint_every=10, step_seconds=0.01)
        assert service.ended(run)["status"] == "succeeded"
        saved = service.checkpoints(run)["step-000010"]
        run_command(place, "export-checkpoint", saved["ckpt_path"], str(folder))
        again = run_command(place, "export-checkpoint", saved["ckpt_path"], str(folder))
        assert "is that checkpoint" in again
    with home_in(tmp_path / "two", s3) as place:
        place.settings["STORAGE"] = "directory:"
        with place.serve() as service:
            other = service.submit("obedient", steps=1, checkpoint_every=10)
            service.ended(other)
            inside = run_command(place, "import-checkpoint", str(folder), "--run", other, expect=1)
            assert "stop it first" in inside
        for _ in range(2):
            text = run_command(place, "import-checkpoint", str(folder), "--run", other)
            assert text.startswith("ready") and "/taken-along" in text
        with place.serve() as service:
            found = service.checkpoints(other)["taken-along"]
            assert (found["state"], found["sha256"]) == ("ready", saved["sha256"])
            child = service.resume(
                other, ckpt_path=found["ckpt_path"], override_hyperparams={"steps": 14}
            )["run_id"]
            assert service.ended(child)["step"] == 14
            (folder / "state.json").write_bytes(b"{}")
        damaged = run_command(place, "import-checkpoint", str(folder), "--run", other, expect=1)
        assert "state.json" in damaged
