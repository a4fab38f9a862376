"""`llm-train launchers check`, as an operator runs it."""

import os
import re
from pathlib import Path

from tests.support.forks import without_settings
from tests.support.interpreter import run_python


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
    environment = without_settings(os.environ)
    environment |= {f"LLM_TRAIN_{key}": value for key, value in settings.items()}
    told = ("launchers", "check", name, "--wait", str(seconds))
    done = run_python("-m", "app.cli.main", *told, environment=environment, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in said, said
    assert not list((tmp_path / "data").glob("check-*")), "nothing of it stays"
    return [re.sub(r" \(\d+\.\d s\)$", "", line) for line in said.splitlines()]
