"""The dashboard's JavaScript under the strictest setting of a type checker."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.graphql_types import DASHBOARD
from tests.support.node import NODE, npm_packages

pytestmark = pytest.mark.heavy

# The checker, and the packages of pyproject.toml for their types.
PACKAGES = (
    "typescript@7.0.2", "preact@11.2.0", "@preact/signals@2.11.4", "@preact/signals-core@1.14.5",
    "uplot@1.6.32",
)  # fmt: skip
OPTIONS = {
    "strict": True, "checkJs": True, "allowJs": True, "noEmit": True, "noUnusedLocals": True,
    "module": "esnext", "moduleResolution": "bundler", "target": "es2023",
    "lib": ["dom", "dom.iterable", "es2023"], "types": [], "skipLibCheck": True,
}  # fmt: skip


def complaints(source: Path, tmp_path: Path) -> str:
    packages = npm_packages(*PACKAGES)
    paths = {"*": [f"{packages}/node_modules/*"]}
    config = {"compilerOptions": {**OPTIONS, "paths": paths}, "include": [f"{source}/**/*.js"]}
    file = tmp_path / "tsconfig.json"
    file.write_text(json.dumps(config))
    tsc = packages / "node_modules" / "typescript" / "bin" / "tsc"
    done = subprocess.run([NODE, tsc, "-p", file], capture_output=True, text=True, timeout=600)
    return done.stdout + done.stderr


def test_the_type_checker_has_no_complaint(tmp_path: Path) -> None:
    assert complaints(DASHBOARD, tmp_path) == ""


def test_a_field_that_was_not_asked_for_has_no_type(tmp_path: Path) -> None:
    copy = tmp_path / "dashboard"
    shutil.copytree(DASHBOARD, copy)
    page = copy / "pages" / "experiment.js"
    page.write_text(page.read_text().replace("found.owner", "found.colour"))
    assert "'colour' does not exist" in complaints(copy, tmp_path)
