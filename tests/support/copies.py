"""Copies of the package, in which a newcomer's edits are made before it serves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import app


def copy_package(directory: Path) -> Path:
    """Copy `app` below a directory, and return where it is."""
    package = directory / "app"
    source = Path(app.__file__).parent
    shutil.copytree(source, package, ignore=shutil.ignore_patterns("__pycache__"))
    return package


def edit(file: Path, before: str, after: str) -> None:
    """Replace a text that stands once in a file."""
    text = file.read_text()
    assert text.count(before) == 1, f"{file}: {before!r}"
    file.write_text(text.replace(before, after))


def run_copy(package: Path, script: str) -> Any:
    """Run a script with the copy, on a database of its own; return the JSON that it prints."""
    place = package.parent
    environment = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=place, capture_output=True, text=True, timeout=60,
        env=environment | {
            "PYTHONPATH": f"{place}:{package / 'sdk'}",
            "LLM_TRAIN_DATA_DIR": str(place / "data"),
            "LLM_TRAIN_DATABASE_URL": f"sqlite:///{place / 'app.db'}",
        },
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)
