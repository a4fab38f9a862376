"""The commands of `llm-train`, as real processes, when all is well."""

import os
import re
from pathlib import Path

import pytest

from app.db.migrate import HEAD
from tests.api.conftest import running
from tests.support import commands
from tests.support.forks import without_settings
from tests.support.interpreter import run_python
from tests.support.server import REPOSITORY, end_trainers


def llm_train(tmp_path: Path, *arguments: str) -> str:
    """The output of `llm-train`, which ends well and writes nothing to stderr."""
    return output(tmp_path, "-m", "app.cli.main", *arguments)


def output(tmp_path: Path, *arguments: str, timeout: float = 60) -> str:
    environment = without_settings(os.environ) | {
        "LLM_TRAIN_PORT": "0",
        "LLM_TRAIN_DATA_DIR": str(tmp_path / "data"),
        "LLM_TRAIN_DATABASE_URL": f"sqlite:///{tmp_path / 'app.db'}",
    }
    done = run_python(*arguments, environment=environment, timeout=timeout)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def test_the_demo_tells_its_whole_story_and_ends(tmp_path: Path) -> None:
    try:
        told = output(tmp_path, "-c", commands.demo_program("--exit", steps=300), timeout=240)
    finally:
        end_trainers(tmp_path / "data")
    places = [
        told.index(words)
        for words in (
            "Create an experiment",
            "Submit a run",
            "Cancel it half-way",
            ": ready",
            "Resume it with a lower learning rate",
            "the loss went on from",
            "Mark the result as a release",
            '"releaseTag": "v1.0.0"',
        )
    ]
    assert places == sorted(places)
    with running(tmp_path) as api:
        query = "/v1/experiments/{}/runs/{}/metrics?keys=loss"
        (experiment,) = set(re.findall(r"exp_\w+", told))
        second = max(re.findall(r"run_\w{26}", told))  # ids are by time
        answer = api.send("GET", query.format(experiment, second)).json()
    (curve,) = answer["series"]
    losses = dict(zip(curve["steps"], curve["values"], strict=True))
    said = re.findall(r"(\d\.\d{3}) at step (\d+)", told)
    assert said == [(f"{losses[int(step)]:.3f}", step) for _, step in said] and len(said) == 2


def test_migrate_goes_up_and_down(tmp_path: Path) -> None:
    assert llm_train(tmp_path, "migrate") == f"empty → {HEAD}\n"
    assert llm_train(tmp_path, "migrate") == f"{HEAD} → {HEAD}\n"
    assert llm_train(tmp_path, "migrate", "--to", "base", "--yes") == f"{HEAD} → empty\n"


def test_export_schema_prints_the_file_in_the_repository(tmp_path: Path) -> None:
    file = REPOSITORY / "schema.graphql"
    assert llm_train(tmp_path, "export-schema") == file.read_text()
    assert commands.llm_train("export-schema", "--check", str(file)) == (0, "", "")


def test_without_a_command_the_commands_are_shown() -> None:
    done = commands.llm_train()
    assert (done.status, done.out) == (2, "")
    assert all(name in done.err for name in ("serve", "backup", "prune", "export-schema"))


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["demo", "--help"]])
def test_help_is_an_answer(tmp_path: Path, arguments: list[str]) -> None:
    assert llm_train(tmp_path, *arguments).startswith("Usage: llm-train")
