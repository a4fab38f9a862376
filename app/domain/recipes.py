"""Recipes: what a run may execute, as the operator configured it in TOML.

    [recipes.sft]
    command = ["{python}", "train.py"]   # an argv list; no shell ever sees it
    # {run_dir}, {resume_path} and {hyperparams.NAME} are filled in, each within its word
    grace_seconds = 60

* `read_recipes`: the built-in recipes and those of a file, each key checked.
* `build_environment`: what a trainer finds in its environment, and nothing else;
  `build_remote_environment`: what one on another machine finds beside that one's own.
"""

import codecs
import math
import re
import signal
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from llm_train.arguments import BadArgument, to_argument

from app.agent import placeholders
from app.domain.resources import Resources

LONGEST_PAUSE = 3600.0
"""Seconds up to which the pause between attempts is doubled."""
LONGEST_CONFIGURED_PAUSE = 86_400.0
RETRY_REASONS = (
    "exit_code", "signal", "heartbeat_lost", "launcher_error",
    "preempted", "node_failed", "stopped_elsewhere", "lost",
)  # fmt: skip
LOCAL = "local"
"""The launcher of this machine, which is always there."""

DEFAULT_ENV_ALLOW = (
    # who and where
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TZ", "LANG", "LANGUAGE", "LC_*",
    # the Python and the libraries that the operator's own shell would use
    "VIRTUAL_ENV", "CONDA_PREFIX", "PYTHONPATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH",
    "SSL_CERT_FILE", "SSL_CERT_DIR",
    # devices and threads
    "CUDA_*", "NCCL_*", "HIP_*", "ROCM_*", "OMP_NUM_THREADS", "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS",
    # caches; HF_TOKEN, WANDB_API_KEY and the like pass only where a recipe names them
    "XDG_CACHE_HOME", "TORCH_HOME", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE",
    "HF_DATASETS_CACHE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE",
)  # fmt: skip

_RESERVED = "LLM_TRAIN_"
"""The service's own variables; its secrets are among them, so none is ever passed on."""

_OTHER_MARKS = {  # the longer ones first: UTF-32's begins as UTF-16's
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
_HYPERPARAMS = "hyperparams."
_PASSED = re.compile(r"\{hyperparams\.([^{}]+)\}")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?|\*")


class RecipeError(ValueError):
    """The recipes cannot be used as they are; the message names file, recipe and key."""


class LauncherTable(NamedTuple):
    """One table `[launchers.NAME]`: the kind of launcher, and the options that it is made with."""

    name: str
    kind: str
    options: Mapping[str, Any]


class Configuration(NamedTuple):
    """What the operator configured in the file of LLM_TRAIN_RECIPES, by name."""

    recipes: Mapping[str, "Recipe"]
    launchers: Mapping[str, LauncherTable]


class StallAction(StrEnum):
    """What is done about a trainer that lives and makes no progress."""

    TELL = "tell"
    STOP = "stop"
    RETRY = "retry"


@dataclass(frozen=True)
class Recipe:
    """One way to train. Durations are seconds."""

    name: str
    command: tuple[str, ...]
    description: str = ""
    stop_signal: signal.Signals | None = signal.SIGTERM
    """None: the stop file and the answers to reports alone ask the trainer to stop."""
    grace_seconds: float = 30.0
    env: Mapping[str, str] = field(default_factory=dict)
    env_allow: tuple[str, ...] = DEFAULT_ENV_ALLOW
    heartbeat_seconds: float = 60.0
    """The longest silence of a healthy trainer; 0: it never reports on its own."""
    start_seconds: float = 300.0
    """The longest time to the first report, where heartbeats are expected."""
    stall_seconds: float = 1800.0
    """The longest time without a further step; 0: any. What is done then is `on_stall`."""
    on_stall: StallAction = StallAction.TELL
    resources: Resources = field(default_factory=Resources)
    """What a run needs that does not say so itself."""
    max_attempts: int = 1
    retry_on: tuple[str, ...] = RETRY_REASONS
    retry_seconds: float = 10.0
    """The pause before the second attempt; it doubles with each further one, up to an hour."""
    max_log_mb: int = 256
    """What a run's output may take of the disk: of more, the beginning and the newest are kept."""
    keep_checkpoints: int = 0
    """How many checkpoints of a run to keep; 0: all."""
    working_dir: Path | None = None
    """Where the command starts; None: where the server did."""
    launcher: str = LOCAL
    """Where it runs: a table `[launchers.NAME]`, or this machine."""
    requires_report: bool = True
    """Success needs a reported finish; False: exit code 0 without a stop is success."""

    def argv(self, python: str, hyperparams: Mapping[str, Any] | None = None) -> tuple[str, ...]:
        """Return the command, with the server's interpreter for a leading `{python}` and each
        `{hyperparams.NAME}`. A placeholder of a hyperparameter that the run does not have is left
        out; paths are filled in by the agent. Raises BadArgument."""
        first, *rest = self.command
        given = hyperparams or {}
        values = {
            f"{_HYPERPARAMS}{name}": None if (value := given.get(name)) is None
            else to_argument(name, value)
            for name in self.passed_hyperparams
        }  # fmt: skip
        words = [python if first == "{python}" else first, *rest]
        return tuple(placeholders.fill(words, values))

    @property
    def passed_hyperparams(self) -> list[str]:
        """Return the names of the hyperparameters that the command has placeholders for."""
        return sorted({name for word in self.command for name in _PASSED.findall(word)})

    def check_hyperparams(self, hyperparams: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return the name of a hyperparameter that the command cannot take, and why; else None."""
        for name in self.passed_hyperparams:
            try:
                if hyperparams.get(name) is not None:
                    to_argument(name, hyperparams[name])
            except BadArgument as error:
                return name, str(error)
        return None

    def pause_after(self, attempt: int) -> float:
        """Return the seconds from the end of a failed attempt to the next one."""
        doubled = self.retry_seconds * 2.0 ** min(attempt - 1, 20)
        return max(self.retry_seconds, min(doubled, LONGEST_PAUSE))


BUILT_IN = (
    Recipe(
        name="demo",
        command=("{python}", "-m", "app.recipes.demo"),
        description="A small character-level language model; trains in seconds on a CPU.",
        grace_seconds=10.0,
    ),
)


def read_recipes(file: Path | None) -> Mapping[str, Recipe]:
    """Return the built-in recipes and those of a TOML file. Raises RecipeError."""
    return read_configuration(file).recipes


def read_configuration(file: Path | None) -> Configuration:
    """Return the built-in recipes and launchers, and those of a TOML file. Raises RecipeError."""
    if file is None:
        return parse_configuration("", "built-in")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise RecipeError(f"{file}: {error.strerror}.") from error
    return parse_configuration(_decode(content, str(file)), str(file))


def _decode(content: bytes, source: str) -> str:
    """Return the text of a TOML file, without a byte order mark. Raises RecipeError."""
    for mark in (
        codecs.BOM_UTF32_LE,
        codecs.BOM_UTF32_BE,
        codecs.BOM_UTF16_LE,
        codecs.BOM_UTF16_BE,
    ):
        if content.startswith(mark):
            kind = "UTF-32" if len(mark) == 4 else "UTF-16"
            raise RecipeError(f"{source}: it is {kind}, and TOML is UTF-8: save it as UTF-8.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{source}: not UTF-8 at line {line} (the byte 0x{content[error.start]:02x}): "
            "save it as UTF-8."
        ) from error


def parse_recipes(text: str, source: str) -> Mapping[str, Recipe]:
    """Return the recipes of `parse_configuration`."""
    return parse_configuration(text, source).recipes


def parse_configuration(text: str, source: str) -> Configuration:
    """Return the built-in recipes and launchers, with those of the TOML `text` added or put in
    their place. `source` names the file in errors. Raises RecipeError."""
    recipes = {recipe.name: recipe for recipe in BUILT_IN}
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source}: not valid TOML: {error}.") from error
    tables, launcher_tables = document.pop("recipes", {}), document.pop("launchers", {})
    if document:
        raise RecipeError(
            f"{source}: {next(iter(document))}: unknown; use [recipes.NAME] and [launchers.NAME] "
            "tables."
        )
    for key, value in (("recipes", tables), ("launchers", launcher_tables)):
        if not isinstance(value, dict):
            raise RecipeError(f"{source}: {key}: must be a table of {key}.")
    launchers = {LOCAL: LauncherTable(LOCAL, LOCAL, {})}
    for name, table in launcher_tables.items():
        try:
            launchers[name] = _launcher(name, table)
        except ValueError as error:
            raise RecipeError(f"{source}: [launchers.{name}] {error}.") from error
    for name, table in tables.items():
        try:
            recipes[name] = _recipe(name, table)
        except ValueError as error:
            raise RecipeError(f"{source}: [recipes.{name}] {error}.") from error
        if (wanted := recipes[name].launcher) not in launchers:
            raise RecipeError(
                f"{source}: [recipes.{name}] launcher: there is no [launchers.{wanted}]; "
                f"there are: {', '.join(sorted(launchers))}."
            )
    return Configuration(recipes, launchers)


def build_environment(
    recipe: Recipe, server_env: Mapping[str, str], run_env: Mapping[str, str]
) -> dict[str, str]:
    """Return a trainer's environment: allowed variables of the server, the recipe's, the run's.

    Later ones win. No LLM_TRAIN_ variable passes from the server, whatever the patterns say.
    """
    exact = {pattern for pattern in recipe.env_allow if not pattern.endswith("*")}
    prefixes = tuple(pattern[:-1] for pattern in recipe.env_allow if pattern.endswith("*"))
    allowed = {
        name: value
        for name, value in server_env.items()
        if (name in exact or name.startswith(prefixes)) and not name.startswith(_RESERVED)
    }
    return allowed | dict(recipe.env) | dict(run_env)


def build_remote_environment(
    recipe: Recipe, server_env: Mapping[str, str], run_env: Mapping[str, str]
) -> dict[str, str]:
    """Return what a trainer on another machine gets beside that machine's own environment.

    Of the server's variables only those that the recipe names itself (`HF_TOKEN`): paths and
    devices are the machine's.
    """
    named = tuple(name for name in recipe.env_allow if name not in DEFAULT_ENV_ALLOW)
    return build_environment(replace(recipe, env_allow=named), server_env, run_env)


def _check_table(name: str, table: Any) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            "name: must be 1 to 64 of a-z, 0-9, '_' and '-', starting with a letter or digit"
        )
    if not isinstance(table, dict):
        raise ValueError("must be a table")


def _launcher(name: str, table: Any) -> LauncherTable:
    """Check one table; its options are the launcher's own. Raises ValueError led by the key."""
    _check_table(name, table)
    options = dict(table)
    kind = _string(options.pop("kind", name if name == LOCAL else ""))
    if not kind or (kind == LOCAL) != (name == LOCAL):
        raise ValueError("kind: must name a kind of launcher; only [launchers.local] is 'local'")
    return LauncherTable(name, kind, options)


def _recipe(name: str, table: Any) -> Recipe:
    """Check one table. Raises ValueError led by the key."""
    _check_table(name, table)
    if "command" not in table:
        raise ValueError("command: required")
    recipe = Recipe(name, ())
    for key, value in table.items():
        if key not in _PARSERS:
            raise ValueError(f"{key}: unknown; known are {', '.join(_PARSERS)}")
        try:
            recipe = replace(recipe, **{key: _PARSERS[key](value)})
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from error
    if recipe.on_stall is StallAction.RETRY and recipe.max_attempts == 1:
        raise ValueError("on_stall: 'retry' needs max_attempts of 2 or more")
    return recipe


def _string(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("must be a string without NUL")
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of strings")
    return tuple(_string(item) for item in value)


def _whole(least: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"must be a whole number, {least} or more")
        return value

    return parse


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("must be a number of seconds")
    if not 0 <= value < math.inf:
        raise ValueError("must be a number of seconds, 0 or more")
    return float(value)


def _pause(value: Any) -> float:
    seconds = _seconds(value)
    if seconds > LONGEST_CONFIGURED_PAUSE:
        raise ValueError(f"must be {LONGEST_CONFIGURED_PAUSE:g} seconds (a day) at most")
    return seconds


def _command(value: Any) -> tuple[str, ...]:
    command = _strings(value)
    if not command or not command[0]:
        raise ValueError("must name a program in its first word")
    return command


def _stop_signal(value: Any) -> signal.Signals | None:
    if value == "none":
        return None
    wanted = signal.Signals.__members__.get(_string(value))
    if wanted is None or wanted.name in ("SIGKILL", "SIGSTOP"):
        raise ValueError(
            f"{value!r} is no signal that a trainer can catch, like 'SIGTERM', nor 'none'"
        )
    return wanted


def _environment(value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise ValueError("must be a table of strings")
    for name in value:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a variable")
        if name.startswith(_RESERVED):
            raise ValueError(f"{name}: {_RESERVED}* belongs to the service")
    return {name: _string(item) for name, item in value.items()}


def _patterns(value: Any) -> tuple[str, ...]:
    patterns = _strings(value)
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise ValueError(f"{pattern!r} is neither a name nor a name that ends in one *")
        if pattern.startswith(_RESERVED):
            raise ValueError(f"{pattern}: {_RESERVED}* is never passed on")
    return patterns


def _retry_on(value: Any) -> tuple[str, ...]:
    reasons = _strings(value)
    for reason in reasons:
        if reason not in RETRY_REASONS:
            raise ValueError(f"{reason!r} is unknown; known are {', '.join(RETRY_REASONS)}")
    return reasons


def _stall_action(value: Any) -> StallAction:
    try:
        return StallAction(_string(value))
    except ValueError:
        raise ValueError(f"must be one of {', '.join(StallAction)}") from None


def _resources(value: Any) -> Resources:
    if not isinstance(value, dict):
        raise ValueError("must be a table")
    return Resources.from_dict(value)


_PARSERS: dict[str, Callable[[Any], Any]] = {
    "command": _command,
    "description": _string,
    "stop_signal": _stop_signal,
    "grace_seconds": _seconds,
    "env": _environment,
    "env_allow": _patterns,
    "heartbeat_seconds": _seconds,
    "start_seconds": _seconds,
    "stall_seconds": _seconds,
    "on_stall": _stall_action,
    "resources": _resources,
    "max_attempts": _whole(1),
    "retry_on": _retry_on,
    "retry_seconds": _pause,
    "max_log_mb": _whole(1),
    "keep_checkpoints": _whole(0),
    "working_dir": lambda value: Path(_string(value)),
    "requires_report": _boolean,
    "launcher": _string,
}

KEYS = tuple(_PARSERS)
"""Every key that a recipe may have."""
