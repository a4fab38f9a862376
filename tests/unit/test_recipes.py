"""What an operator may write, what is refused, and what a trainer's environment holds."""

import signal
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.domain.recipe_file import parse_recipes, read_recipes
from app.domain.recipes import BUILT_IN, DEFAULT_ENV_ALLOW, Recipe, RecipeError
from app.domain.recipes import build_environment as build
from app.domain.resources import Resources

FULL = """
[recipes.sft]
command = ["{python}", "train.py", "{python}"]
description = "Supervised fine-tuning"
stop_signal = "SIGUSR1"
grace_seconds = 60
env = { TOKENIZERS_PARALLELISM = "false" }
env_allow = ["PATH", "WANDB_*"]
heartbeat_seconds = 0
start_seconds = 900.5
resources = { gpu_type = "A100", count = 2 }
max_attempts = 3
retry_seconds = 5
retry_on = ["signal"]
keep_checkpoints = 2
working_dir = "/srv/train"
requires_report = false

[recipes.a-1_x]
command = ["/opt/run.sh"]
"""


def test_every_key_is_read() -> None:
    recipes = parse_recipes(FULL, "recipes.toml")
    assert list(recipes) == [*(recipe.name for recipe in BUILT_IN), "sft", "a-1_x"]
    assert recipes["sft"] == Recipe(
        name="sft",
        command=("{python}", "train.py", "{python}"),
        description="Supervised fine-tuning",
        stop_signal=signal.SIGUSR1,
        grace_seconds=60,
        env={"TOKENIZERS_PARALLELISM": "false"},
        env_allow=("PATH", "WANDB_*"),
        heartbeat_seconds=0,
        start_seconds=900.5,
        resources=Resources(gpu_type="A100", count=2),
        max_attempts=3,
        retry_seconds=5,
        retry_on=("signal",),
        keep_checkpoints=2,
        working_dir=Path("/srv/train"),
        requires_report=False,
    )
    plain = recipes["a-1_x"]
    assert plain == Recipe("a-1_x", ("/opt/run.sh",))
    assert (plain.stop_signal, plain.grace_seconds, plain.max_attempts) == (signal.SIGTERM, 30, 1)
    assert plain.requires_report and plain.env_allow == DEFAULT_ENV_ALLOW


def test_a_recipe_may_do_without_a_stop_signal() -> None:
    parsed = parse_recipes(recipe('stop_signal = "none"'), "recipes.toml")
    assert parsed["sft"].stop_signal is None


def test_only_a_leading_python_is_the_servers() -> None:
    recipes = parse_recipes(FULL, "recipes.toml")
    assert recipes["sft"].argv("/venv/python") == ("/venv/python", "train.py", "{python}")
    assert recipes["a-1_x"].argv("/venv/python") == ("/opt/run.sh",)


def test_the_demo_is_built_in_and_a_file_may_replace_it() -> None:
    demo = read_recipes(None)["demo"]
    assert demo.argv("py") == ("py", "-m", "app.recipes.demo") and demo.grace_seconds == 10
    assert parse_recipes("", "empty.toml") == {recipe.name: recipe for recipe in BUILT_IN}
    replaced = parse_recipes('recipes.demo.command = ["mine"]', "r.toml")
    assert replaced.keys() == {recipe.name for recipe in BUILT_IN}
    assert replaced["demo"].command == ("mine",)


def recipe(line: str, name: str = "sft") -> str:
    return f'[recipes."{name}"]\ncommand = ["x"]\n{line}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[recipes", "r.toml: not valid TOML: "),
        (
            "[recipe.sft]",
            "r.toml: recipe: unknown; use [recipes.NAME], [launchers.NAME] and [stores.NAME] ",
        ),
        ("recipes = 1", "r.toml: recipes: must be a table of recipes."),
        ("[recipes]\nsft = 1", "r.toml: [recipes.sft] must be a table."),
        ("[recipes.sft]", "r.toml: [recipes.sft] command: required."),
        ('recipes.sft.command = "rm -rf"', "[recipes.sft] command: must be a list of strings"),
        ("recipes.sft.command = []", "[recipes.sft] command: must name a program"),
        ('recipes.sft.command = [""]', "[recipes.sft] command: must name a program"),
        ('recipes.sft.command = ["x", 1]', "command: must be a string without NUL"),
        (recipe("", "Big"), "[recipes.Big] name: must be 1 to 64 of a-z"),
        (recipe("", "-x"), "[recipes.-x] name: must be"),
        (recipe("", "x" * 65), "name: must be"),
        (recipe("", "x\\n"), "name: must be"),
        (recipe("comand = 1"), "[recipes.sft] comand: unknown; known are command, "),
        (recipe("[recipes.sft.nested]"), "[recipes.sft] nested: unknown"),
        (recipe('stop_signal = "SIGKILL"'), "stop_signal: 'SIGKILL' is no signal that a trainer"),
        (recipe('stop_signal = "NONE"'), "nor 'none'"),
        (recipe('stop_signal = "TERM"'), "stop_signal: 'TERM' is no signal"),
        (recipe("stop_signal = 15"), "stop_signal: must be a string"),
        (recipe("grace_seconds = -1"), "grace_seconds: must be a number of seconds, 0 or more"),
        (recipe("grace_seconds = nan"), "grace_seconds: must be a number of seconds"),
        (recipe("start_seconds = inf"), "start_seconds: must be a number of seconds"),
        (recipe('heartbeat_seconds = "1"'), "heartbeat_seconds: must be a number of seconds"),
        (recipe("max_attempts = 0"), "max_attempts: must be a whole number, 1 or more"),
        (recipe("max_attempts = true"), "max_attempts: must be a whole number"),
        (recipe("keep_checkpoints = 1.5"), "keep_checkpoints: must be a whole number, 0 or more"),
        (recipe('retry_on = ["bad_luck"]'), "retry_on: 'bad_luck' is unknown; known are exit_code"),
        (recipe('requires_report = "no"'), "requires_report: must be true or false"),
        (
            recipe("resources = { count = -1 }"),
            "[recipes.sft] resources: count: Input should be greater",
        ),
        (recipe("resources = 4"), "resources: must be a table"),
        (recipe("working_dir = 4"), "working_dir: must be a string"),
        (recipe("env = { A = 1 }"), "env: must be a string"),
        (recipe('env = { "A=B" = "1" }'), "env: 'A=B' is no name of a variable"),
        (recipe('env = { LLM_TRAIN_RUN_ID = "1" }'), "env: LLM_TRAIN_RUN_ID: LLM_TRAIN_* belongs"),
        (recipe('env_allow = ["LLM_TRAIN_*"]'), "env_allow: LLM_TRAIN_*: LLM_TRAIN_* is never"),
        (recipe('env_allow = ["A*B"]'), "env_allow: 'A*B' is neither a name nor"),
        ("stores = 1", "stores: must be a table of stores"),
        ("[stores.main]", "[stores.main] url: required"),
        ("stores.main.url = 7", "[stores.main] url: must be a string"),
        ('stores.main.url = "bucket"', "[stores.main] url: 'bucket' is not a URL"),
        ('stores.main.url = "s3://key:secret@bucket"', "url: a URL may not hold credentials"),
        ('stores.main = { url = "s3://b", secret = "x" }', "[stores.main] secret: unknown; known"),
        ('stores.main = { url = "s3://b", trainers = "own" }', "trainers: must be one of signed"),
        ('stores.main = { url = "s3://b", endpoint = "x" }', "endpoint: 'x' is not a URL"),
        ('stores.Main.url = "s3://b"', "[stores.Main] name: must be 1 to 64 of a-z"),
    ],
)
def test_what_is_wrong_is_named_with_file_recipe_and_key(text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipes(text, "r.toml")
    assert str(caught.value).startswith("r.toml: ") and message in str(caught.value)


SERVER = {
    "PATH": "/bin",
    "LC_ALL": "C",
    "CUDA_VISIBLE_DEVICES": "0,1",
    "HF_HOME": "/hf",
    "HF_TOKEN": "secret",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "DATABASE_URL": "secret",
    "LLM_TRAIN_API_TOKEN": "secret",
    "LLM_TRAIN_DATABASE_URL": "secret",
    "LLM_TRAIN_RUN_ID": "the server itself runs in a run",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_mistake(tmp_path: Path, encoding: str) -> None:
    # Editors on Windows write one.
    file = tmp_path / "recipes.toml"
    file.write_text('recipes.a.command = ["ä"]', encoding)
    assert read_recipes(file)["a"].command == ("ä",)


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-16", "UTF-16"), ("utf-32", "UTF-32"), ("latin-1", r"at line 2 \(the byte 0xe4\)")],
)
def test_another_encoding_is_named_with_its_place(tmp_path: Path, encoding: str, said: str) -> None:
    file = tmp_path / "recipes.toml"
    file.write_text('# Recipes\nrecipes.a.command = ["ä"]', encoding)
    with pytest.raises(RecipeError, match=said) as wrong:
        read_recipes(file)
    assert str(file) in str(wrong.value) and "save it as UTF-8" in str(wrong.value)


def test_by_default_no_secret_passes() -> None:
    environment = build(BUILT_IN[0], SERVER, {"LLM_TRAIN_RUN_ID": "run_1"})
    assert environment == {
        "PATH": "/bin",
        "LC_ALL": "C",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "HF_HOME": "/hf",
        "LLM_TRAIN_RUN_ID": "run_1",
    }


def test_no_pattern_lets_the_services_own_variables_pass() -> None:
    """Control: without the `_RESERVED` test the `*` and `LLM*` cases let the token through."""
    for pattern in ("LLM_TRAIN_API_TOKEN", "LLM_TRAIN_*"):
        with pytest.raises(ValidationError, match="is never passed on"):
            Recipe("r", ("x",), env_allow=(pattern,))
    for patterns in (("*",), ("L*",), ("LLM*",)):
        environment = build(Recipe("r", ("x",), env_allow=patterns), SERVER, {})
        assert not [name for name in environment if name.startswith("LLM_TRAIN_")]
    assert len(build(Recipe("r", ("x",), env_allow=("*",)), SERVER, {})) == 7


def test_patterns_are_names_or_beginnings() -> None:
    allowed = build(Recipe("r", ("x",), env_allow=("HF_*", "PAT")), SERVER, {})
    assert set(allowed) == {"HF_HOME", "HF_TOKEN"}
    assert build(Recipe("r", ("x",), env_allow=()), SERVER, {}) == {}


def test_the_recipe_overrides_the_server_and_the_run_overrides_both() -> None:
    made = Recipe("r", ("x",), env={"PATH": "/recipe", "CUDA_VISIBLE_DEVICES": "7", "A": "1"})
    environment = build(made, SERVER, {"CUDA_VISIBLE_DEVICES": "1"})
    assert environment["PATH"] == "/recipe" and environment["A"] == "1"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_a_recipe_names_launchers_in_an_order_and_each_once() -> None:
    text = '[launchers.slurm]\nkind = "slurm"\n[recipes.a]\ncommand = ["x"]\nlauncher = {}\n'
    for given, launchers in (('"slurm"', ("slurm",)), ('["local", "slurm"]', ("local", "slurm"))):
        assert parse_recipes(text.format(given), "file")["a"].launcher == launchers
    for wrong, words in (
        ('["local", "clay"]', r"\[recipes.a\] launcher: there is no \[launchers.clay\]"),
        ('["slurm", "slurm"]', "launcher: 'slurm' is named twice"),
        ("[]", "launcher: must be the name of a launcher, or a list of names in their order"),
        ("7", "launcher: must be the name of a launcher, or a list of names in their order"),
        ("[7]", "launcher: must be a string without NUL"),
    ):
        with pytest.raises(RecipeError, match=words):
            parse_recipes(text.format(wrong), "file")
