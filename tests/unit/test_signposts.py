"""The files and modules that the rooms' docstrings name are there: steps that lead nowhere stop who
follows them."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.server import REPOSITORY

FILES = sorted((REPOSITORY / "app").rglob("*.py"))
OBJECTS = re.compile(r"`app\.(state\.\w+|openapi\(?\)?)`")
"""Of the running app, not of the package."""


def docstrings(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


def is_there(module: str) -> bool:
    """Return True for a module, and for a name that stands in one."""
    *parents, last = module.split(".")
    place = REPOSITORY.joinpath(*parents, last)
    if place.is_dir() or place.with_suffix(".py").is_file():
        return True
    parent = REPOSITORY.joinpath(*parents)
    file = parent / "__init__.py" if parent.is_dir() else parent.with_suffix(".py")
    if not file.is_file():
        return len(parents) > 1 and is_there(".".join(parents))
    made = rf"(?m)^\s*(?:async def|def|class) {last}\b|^\s*{last}\b\s*[:,=]|\bimport .*\b{last}\b"
    return re.search(made, file.read_text(encoding="utf-8")) is not None


@pytest.mark.parametrize("room", sorted({file.relative_to(REPOSITORY).parts[1] for file in FILES}))
def test_what_a_docstring_names_is_there(room: str) -> None:
    missing = []
    for file in FILES:
        if file.relative_to(REPOSITORY).parts[1] != room:
            continue
        for text in docstrings(file):
            text = OBJECTS.sub("", text)
            paths = re.findall(r"(?<![\w/.-])((?:app|tests)/[a-z_/.]*[a-z])(?![\w/])", text)
            missing += [(file.name, path) for path in paths if not (REPOSITORY / path).exists()
                        and not (REPOSITORY / f"{path}.py").exists()]  # fmt: skip
            modules = re.findall(r"`((?:app|tests)\.[\w.]*\w)(?:\(\))?`", text)
            missing += [(file.name, module) for module in modules if not is_there(module)]
    assert not missing
