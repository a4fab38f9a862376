"""`llm-train launchers check`, as an operator runs it."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.support.server import REPOSITORY


def check(
    tmp_path: Path, name: str, tables: str = "", seconds: int = 5, **settings: str
) -> list[str]:
    """Try a launcher of a recipes file with these tables, in which something is wrong.

    `seconds`: how long each step may take.

    Returns the lines that were said, without the seconds that each step took.
    """
    recipes = tmp_path / "recipes.toml"
    recipes.write_text(tables)
    settings |= {"RECIPES": str(recipes), "DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(
        [sys.executable, "-m", "app.cli.main", "launchers", "check", name, "--wait", str(seconds)],
        cwd=REPOSITORY, capture_output=True, text=True, timeout=300,
        env={name: value for name, value in os.environ.items() if not name.startswith("LLM_TRAIN_")}
        | {f"LLM_TRAIN_{key}": value for key, value in settings.items()},
    )  # fmt: skip
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in said, said
    assert not list((tmp_path / "data").glob("check-*")), "nothing of it stays"
    return [re.sub(r" \(\d+\.\d s\)$", "", line) for line in said.splitlines()]
