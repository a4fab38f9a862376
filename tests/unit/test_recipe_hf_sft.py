"""What a client may ask of the built-in recipe `hf-sft`: names, and never a path or an argument."""

from pathlib import Path
from typing import Any

import pytest

from app.recipes.hf_sft import CannotTrain, read_hyperparams, resolve


@pytest.fixture
def folder(tmp_path: Path) -> str:
    (tmp_path / "models" / "tiny").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    return str(tmp_path)


def test_a_name_is_a_folder_of_the_operators_or_an_id_of_the_hub(folder: str) -> None:
    assert resolve("models", "tiny", folder) == f"{folder}/models/tiny"
    assert resolve("models", "org/model-1.0", folder) == "org/model-1.0"
    assert resolve("models", "org/model", None) == "org/model"


@pytest.mark.parametrize(
    "name",
    ["..", "../secret", "/etc", ".", "", "tiny/../../secret", "./tiny", "a/b/c", "~/x", "a/../b",
     "-x/y", "http://host/x", "tiny\n", None, 1, ["tiny"], "missing"],
)  # fmt: skip
def test_nothing_else_is(folder: str, name: Any) -> None:
    with pytest.raises(CannotTrain, match="is neither"):
        resolve("models", name, folder)


@pytest.mark.parametrize(
    "given",
    [{"output_dir": "/etc"}, {"max_steps": "1"}, {"max_steps": 1.5}, {"max_steps": True},
     {"bf16": 1}, {"learning_rate": [1]}, {"lr_scheduler_type": 1}],
)  # fmt: skip
def test_only_known_hyperparameters_of_their_type_are_taken(given: dict[str, Any]) -> None:
    with pytest.raises(CannotTrain):
        read_hyperparams(given)


def test_a_whole_number_is_a_number() -> None:
    assert read_hyperparams({"learning_rate": 1, "max_steps": 5}) == {
        "learning_rate": 1, "max_steps": 5,
    }  # fmt: skip
