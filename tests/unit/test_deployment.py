"""What `app/docs/deployment.md` gives to copy, a systemd unit and a container recipe, is right."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

from app.cli.main import cli
from app.settings import Settings
from app.version import VERSION
from app.web import guide
from tests.support.server import REPOSITORY

PROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
COMMAND = Path(sys.executable).with_name("llm-train")


def block(language: str) -> str:
    """Return the page's block of this language."""
    match = re.search(rf"```{language}\n(.*?)```", guide.read("deployment"), re.DOTALL)
    assert match is not None
    return match[1]


def check_command(words: list[str]) -> None:
    """Fail unless these words are a command that an install brings."""
    assert Path(words[0]).name in PROJECT["scripts"]
    context = cli.make_context("llm-train", words[1:])
    name, command, rest = cli.resolve_command(context, context._protected_args + context.args)
    assert command is not None
    command.make_context(name, rest, parent=context)


def test_the_systemd_unit_starts_the_service_and_spares_its_trainers(tmp_path: Path) -> None:
    text = block("ini")
    unit = RawConfigParser(strict=True)
    unit.optionxform = str  # type: ignore[assignment, method-assign]
    unit.read_string(text)
    assert unit.sections() == ["Unit", "Service", "Install"]
    check_command(unit["Service"]["ExecStart"].split())
    assert unit["Service"]["KillMode"] == "process"
    assert unit["Service"]["Restart"] == "always"
    if analyze := shutil.which("systemd-analyze"):
        file = tmp_path / "llm-train.service"
        file.write_text(re.sub(r"(?<=ExecStart=)\S+", str(COMMAND), text))
        verify = subprocess.run([analyze, "verify", file], capture_output=True, text=True)
        assert str(file.name) not in verify.stderr, verify.stderr


def test_the_container_recipe_installs_and_starts_what_there_is() -> None:
    lines = [line.partition(" ")[::2] for line in block("dockerfile").splitlines() if line]
    recipe = dict(lines)
    assert list(recipe) == ["FROM", "RUN", "VOLUME", "WORKDIR", "ENV", "EXPOSE", "ENTRYPOINT"]
    image = re.fullmatch(r"python:3\.(\d+)-slim", recipe["FROM"])
    assert image and f"Programming Language :: Python :: 3.{image[1]}" in PROJECT["classifiers"]
    requirement = re.search(r'"([\w-]+)\[(\w+)\]"', recipe["RUN"])
    assert requirement and requirement[1] == PROJECT["name"]
    assert requirement[2] in PROJECT["optional-dependencies"]
    values = dict(word.split("=", 1) for word in recipe["ENV"].split())
    fields = {f"LLM_TRAIN_{name.upper()}" for name in Settings.model_fields}
    assert values.keys() <= fields
    assert values["LLM_TRAIN_DATA_DIR"] == recipe["VOLUME"] == recipe["WORKDIR"]
    assert int(recipe["EXPOSE"]) == Settings.model_fields["port"].default
    check_command(json.loads(recipe["ENTRYPOINT"]))


def test_the_service_and_the_sdk_have_one_version() -> None:
    sdk = tomllib.loads((REPOSITORY / "app/sdk/pyproject.toml").read_text())["project"]
    assert sdk["version"] == PROJECT["version"] == VERSION
    version = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert version.stdout == f"llm-train {VERSION}\n"


def test_the_sdk_carries_the_licence() -> None:
    licence = (REPOSITORY / "app/LICENSE").read_bytes()
    assert (REPOSITORY / "app/sdk/LICENSE").read_bytes() == licence
