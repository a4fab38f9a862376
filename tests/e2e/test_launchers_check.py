"""`llm-train launchers check`, where something is wrong. That it finds nothing where nothing is,
every launcher's contract says (tests/support/launcher_contract.py).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import REPOSITORY, free_port


def check(tmp_path: Path, name: str, tables: str = "") -> tuple[int, str]:
    """The exit code, and what was said."""
    recipes = tmp_path / "recipes.toml"
    recipes.write_text(tables)
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "launchers", "check", name, "--wait", "5"],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=90,
        env=os.environ | {
            "LLM_TRAIN_RECIPES": str(recipes), "LLM_TRAIN_DATA_DIR": str(tmp_path / "data"),
        },
    )  # fmt: skip
    assert not list((tmp_path / "data").glob("check-*"))
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("name", "tables", "words"),
    [
        ("mine", "", "there is no [launchers.mine]; there are: local"),
        ("mine", '[launchers.mine]\nkind = "clay"\n', "kind: 'clay' is unknown"),
        (
            "mine", '[launchers.mine]\nkind = "ray"\naddress = "http://127.0.0.1:PORT"\n',
            "engine  wrong   Ray does not answer",
        ),
    ],
)  # fmt: skip
def test_what_cannot_begin_is_said(tmp_path: Path, name: str, tables: str, words: str) -> None:
    code, said = check(tmp_path, name, tables.replace("PORT", str(free_port())))
    assert code == 1 and words in said and "Traceback" not in said


def test_a_step_that_fails_is_the_last_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here: a cluster that takes jobs, and never starts one."""
    slurm = tmp_path / "bin"
    slurm.mkdir()
    for command, answer in (
        ("sinfo", "main*|1|4|2000|(null)|infinite"), ("sbatch", "7"),
        ("squeue", ""), ("scancel", ""), ("scontrol", ""),
    ):  # fmt: skip
        program = slurm / command
        program.write_text(f"#!/bin/sh\ncat > /dev/null\necho '{answer}'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{slurm}:{os.environ['PATH']}")
    code, said = check(tmp_path, "mine", '[launchers.mine]\nkind = "slurm"\n')
    *lines, last = said.splitlines()
    assert code == 1 and last == "llm-train: the check ended at the step 'claim'"
    assert [line.split()[:2] for line in lines] == [
        ["engine", "ok"], ["submit", "ok"], ["claim", "wrong"],
    ]  # fmt: skip
    assert "Not within 5 s." in lines[-1]
