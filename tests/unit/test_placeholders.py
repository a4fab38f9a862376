"""Placeholders of a command: one value stays within its word, and is never an option."""

import json
from pathlib import Path
from typing import Any

import pytest
from llm_train.arguments import BadArgument, to_argument

from app.agent.placeholders import fill, fill_paths
from app.domain.recipes import Recipe

RECIPE = Recipe(
    "sft",
    (
        "{python}", "train.py", "--lr={hyperparams.lr}", "--steps", "{hyperparams.max-steps}",
        "--out={run_dir}/out", '{"a": 1}', "{hyperparams}", "{other}",
    ),
)  # fmt: skip
REST = ("--out={run_dir}/out", '{"a": 1}', "{hyperparams}", "{other}")


@pytest.mark.parametrize(
    ("hyperparams", "words"),
    [
        ({"lr": 3e-4, "max-steps": 100}, ("--lr=0.0003", "--steps", "100")),
        ({"lr": "1e-4"}, ("--lr=1e-4",)),
        ({"max-steps": None, "other": 1}, ()),
        ({"max-steps": -1, "lr": True}, ("--lr=true", "--steps", "-1")),
    ],
)
def test_only_what_the_command_names_reaches_it(
    hyperparams: dict[str, Any], words: tuple[str, ...]
) -> None:
    assert RECIPE.passed_hyperparams == ["lr", "max-steps"]
    assert RECIPE.argv("py", hyperparams) == ("py", "train.py", *words, *REST)


HOSTILE = [
    "--output_dir=/etc", "-x", "1 --steps 2", "1\n2", "", "a" * 257, "$(id)", "`id`", "a;b", "a|b",
    "a&b", "a>b", "${oc.env:TOKEN}", "{run_dir}", "{hyperparams.lr}", "@file", "~root", "'a'",
    '"a"', "a\\b", "\0", "a\0--steps", "é", "\u202e1", "+a", ":a", "=a", [1], {"a": 1}, ["--x"],
    float("nan"), float("inf"),
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_that_could_be_more_than_a_value_is_refused(value: Any) -> None:
    with pytest.raises(BadArgument, match="'lr'"):
        to_argument("lr", value)
    name, why = RECIPE.check_hyperparams({"max-steps": 1, "lr": value}) or ("", "")
    assert name == "lr" and "'lr'" in why
    assert RECIPE.check_hyperparams({"another": value}) is None, "it is not passed"


@pytest.mark.parametrize("value", ["org/model-1.0_x", "/data/a=b,c:d+e", "0", ".5", "_a"])
def test_plain_strings_stay_as_they_are(value: str) -> None:
    assert to_argument("model", value) == value


def test_paths_are_filled_in_where_the_agent_runs(tmp_path: Path) -> None:
    words = ["a", "{run_dir}/x", "--resume", "{resume_path}", "--from={resume_path}", "b"]
    assert fill_paths(words, str(tmp_path)) == ["a", f"{tmp_path}/x", "b"], "no spec.json"
    (tmp_path / "spec.json").write_text(json.dumps({"resume": None}))
    assert fill_paths(words, str(tmp_path)) == ["a", f"{tmp_path}/x", "b"]
    path = "/ckpts/{run_dir}/step 1"
    (tmp_path / "spec.json").write_text(json.dumps({"resume": {"path": path}}))
    assert fill_paths(words, str(tmp_path)) == [
        "a", f"{tmp_path}/x", "--resume", path, f"--from={path}", "b",
    ]  # fmt: skip


def test_what_is_filled_in_is_not_filled_again() -> None:
    assert fill(["{a}{b}"], {"a": "{b}", "b": "{a}"}) == ["{b}{a}"]


@pytest.mark.parametrize(
    ("words", "filled"),
    [
        (["x", "--a", "{a}", "y"], ["x", "y"]),
        (["x", "{a}", "y"], ["x", "y"]),
        (["x", "--b=1", "{a}"], ["x", "--b=1"]),
        (["--a", "p{a}", "y"], ["--a", "y"]),
        (["{a}"], []),
    ],
)
def test_a_placeholder_without_a_value_takes_its_option_with_it(
    words: list[str], filled: list[str]
) -> None:
    assert fill(words, {"a": None}) == filled
