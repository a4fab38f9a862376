"""What a form of hyperparameters sends."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.graphql_types import DASHBOARD
from tests.support.node import run_module

GIVEN = {
    "lr": 0.001, "seed": "1", "optimizer": {"name": "adam", "betas": [0.9, 0.99]}, "a.b": 2,
    "empty": {}, "__proto__": {"bad": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    module = Path(__file__).with_name("hyperparams.mjs")
    source = (DASHBOARD / "hyperparams.js").as_uri()
    results: dict[str, Any] = run_module(tmp_path_factory.mktemp("node"), module, source)
    return results


def test_what_nobody_touched_is_what_it_was(found: dict[str, Any]) -> None:
    """Also a text that looks like a number, a name with a dot, and one that JavaScript knows."""
    assert found["same"] == GIVEN
    assert found["polluted"] is None
    assert found["nothing"] == {}


def test_a_part_of_an_object_is_overridden_with_the_rest_of_it(found: dict[str, Any]) -> None:
    assert found["nested"] == {"optimizer": {"name": "sgd", "betas": [0.9, 0.99]}}
    assert found["dotted"] == {"a.b": 3}
    assert found["fresh"] == {"warmup": {"steps": 10}}


def test_what_is_typed_is_json_where_it_can_be(found: dict[str, Any]) -> None:
    assert found["typed"] == {"x": 0.001, "flag": True, "text": "word", "deep": {"er": [1]}}
