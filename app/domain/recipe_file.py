"""The file of recipes and launchers: TOML, each key checked, errors led by the key.

    read_recipes, read_configuration    the built-in ones and those of a file
    parse_recipes, parse_configuration  the same of a text

How to add a key of recipes: a field of `Recipe`, its parser in `_PARSERS` here, its row in
app/docs/recipes.md.
"""

import codecs
import math
import re
import signal
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from app.domain.health import MAX_WINDOW, MIN_WINDOW, HealthAction, HealthRule, Rule
from app.domain.recipes import (
    BUILT_IN,
    LOCAL,
    RESERVED,
    RETRY_REASONS,
    BestMode,
    LauncherTable,
    Recipe,
    RecipeError,
    StallAction,
)
from app.domain.resources import Resources
from app.domain.stores import StoreTable, parse_store

LONGEST_CONFIGURED_PAUSE = 86_400.0
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\*?|\*")


class Configuration(NamedTuple):
    """What the operator configured in the file of LLM_TRAIN_RECIPES, by name."""

    recipes: Mapping[str, "Recipe"]
    launchers: Mapping[str, LauncherTable]
    stores: Mapping[str, StoreTable]


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
    store_tables = document.pop("stores", {})
    if document:
        raise RecipeError(
            f"{source}: {next(iter(document))}: unknown; use [recipes.NAME], [launchers.NAME] and "
            "[stores.NAME] tables."
        )
    kinds = {"recipes": tables, "launchers": launcher_tables, "stores": store_tables}
    for key, value in kinds.items():
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
    stores = {}
    for name, table in store_tables.items():
        try:
            _check_table(name, table)
            stores[name] = parse_store(name, table)
        except ValueError as error:
            raise RecipeError(f"{source}: [stores.{name}] {error}.") from error
    return Configuration(recipes, launchers, stores)


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
    if recipe.max_attempts == 1 and any(r.action is HealthAction.RETRY for r in recipe.health):
        raise ValueError("health: 'retry' needs max_attempts of 2 or more")
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
        if name.startswith(RESERVED):
            raise ValueError(f"{name}: {RESERVED}* belongs to the service")
    return {name: _string(item) for name, item in value.items()}


def _patterns(value: Any) -> tuple[str, ...]:
    patterns = _strings(value)
    for pattern in patterns:
        if not _PATTERN.fullmatch(pattern):
            raise ValueError(f"{pattern!r} is neither a name nor a name that ends in one *")
        if pattern.startswith(RESERVED):
            raise ValueError(f"{pattern}: {RESERVED}* is never passed on")
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


def _health(value: Any) -> tuple[Rule, ...]:
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise ValueError("must be a list of tables")
    return tuple(map(_health_rule, value))


def _health_rule(table: dict[str, Any]) -> Rule:
    """Check one rule. Raises ValueError."""
    known = {"rule", "metric", "value", "window", "action"}
    if unknown := table.keys() - known:
        raise ValueError(f"{min(unknown)}: unknown; known are {', '.join(sorted(known))}")
    try:
        rule, action = HealthRule(table.get("rule", "")), HealthAction(table.get("action", "event"))
    except ValueError as error:
        raise ValueError(
            f"{error}; rule is one of {', '.join(HealthRule)}, action of {', '.join(HealthAction)}"
        ) from None
    metric = _string(table["metric"]) if "metric" in table else None
    if metric is None and rule is not HealthRule.NAN:
        raise ValueError(f"a rule {rule.value!r} needs its metric")
    value = table.get("value", 8.0 if rule is HealthRule.SPIKE else None)
    if rule is HealthRule.NAN:
        value = 0.0
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"a rule {rule.value!r} needs its value, a number")
    if rule is HealthRule.SPIKE and value <= 0:
        raise ValueError("the value of a spike must be more than 0")
    window = _whole(MIN_WINDOW)(table.get("window", 50))
    if window > MAX_WINDOW:
        raise ValueError(f"window: must be {MAX_WINDOW:,} at most")
    return Rule(rule, metric, float(value), window, action)


def _folders(value: Any) -> str:
    pattern = _string(value)
    parts = pattern.split("/")
    fits = all(part and part not in (".", "..") for part in parts)
    if len(pattern) > 200 or not fits or any("**" in part and part != "**" for part in parts):
        raise ValueError("must be a folder of the run's directory, such as 'runs' or 'runs/**'")
    return pattern


def _best_mode(value: Any) -> BestMode:
    try:
        return BestMode(_string(value))
    except ValueError:
        raise ValueError(f"must be one of {', '.join(BestMode)}") from None


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
    "keep_best": _string,
    "keep_best_mode": _best_mode,
    "working_dir": lambda value: Path(_string(value)),
    "requires_report": _boolean,
    "launcher": _string,
    "health": _health,
    "tensorboard": _folders,
}

KEYS = tuple(_PARSERS)
"""Every key that a recipe may have."""
