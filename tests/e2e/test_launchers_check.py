"""`llm-train launchers check`, where something is wrong. That it finds nothing where nothing is,
every launcher's contract says (tests/support/launcher_contract.py).
"""

import os
from pathlib import Path

import pytest

from tests.support.checks import check
from tests.support.server import free_port


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
    lines = check(tmp_path, name, tables.replace("PORT", str(free_port())))
    assert words in "\n".join(lines)


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
    *lines, last = check(tmp_path, "mine", '[launchers.mine]\nkind = "slurm"\n')
    assert last == "llm-train: the check ended at the step 'claim'"
    assert [line.split()[:2] for line in lines] == [
        ["engine", "ok"], ["submit", "ok"], ["claim", "wrong"],
    ]  # fmt: skip
    assert "Not within 5 s. No agent has claimed the run at http://127.0.0.1:" in lines[-1]
