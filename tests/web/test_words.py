"""The dashboard says everything in English and in Chinese."""

import re
from pathlib import Path

import pytest

from app.domain.lifecycle import CheckpointState, Reason, RunStatus
from tests.support.graphql_types import DASHBOARD
from tests.support.node import run_module

SAID = re.compile(r"""\bt\(\s*(?:"((?:[^"\\]|\\.)+)"|'((?:[^'\\]|\\.)+)')""")
PLACE = re.compile(r"\{\w+\}")


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    module = tmp_path_factory.mktemp("node") / "print.mjs"
    source = (DASHBOARD / "chinese.js").as_uri()
    module.write_text(
        f"import {{ CHINESE }} from {source!r}; console.log(JSON.stringify(CHINESE));"
    )
    found: dict[str, str] = run_module(module.parent, module)
    return found


def said() -> set[str]:
    """Every text that a module gives to `t`."""
    texts = (path.read_text() for path in Path(DASHBOARD).rglob("*.js"))
    return {one or other for text in texts for one, other in SAID.findall(text)}


def test_the_dictionary_has_every_text_and_no_other(chinese: dict[str, str]) -> None:
    codes = {str(each).replace("_", " ") for kind in (RunStatus, CheckpointState, Reason)
             for each in kind}  # fmt: skip
    codes |= {"high", "normal", "low"}
    filters = {"Experiment", "Model", "Recipe", "Owner"}
    assert len(said()) > 150
    assert set(chinese) == said() | codes | filters


def test_a_translation_has_the_places_of_the_original(chinese: dict[str, str]) -> None:
    wrong = [text for text, other in chinese.items()
             if sorted(PLACE.findall(text)) != sorted(PLACE.findall(other))]  # fmt: skip
    assert not wrong
