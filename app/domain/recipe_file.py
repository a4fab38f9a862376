"""The file of recipes and launchers: TOML, each key checked, errors led by the key.

    read_recipes, read_configuration    the built-in ones and those of a file
    parse_recipes, parse_configuration  the same of a text

How to add a key of recipes: a field of `Recipe` with its type (`recipe_values`), its row in
app/docs/recipes.md.
"""

import codecs
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from pydantic import TypeAdapter, ValidationError

from app.domain.recipe_values import string
from app.domain.recipes import BUILT_IN, LOCAL, LauncherTable, Recipe, RecipeError
from app.domain.single_sign_on import GroupRoles, parse_groups
from app.domain.stores import StoreTable, parse_store

T = TypeVar("T")

_KINDS = ("recipes", "launchers", "stores", "groups")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Configuration(NamedTuple):
    """The operator's configuration in the file LLM_TRAIN_RECIPES, by name."""

    recipes: Mapping[str, "Recipe"]
    launchers: Mapping[str, LauncherTable]
    stores: Mapping[str, StoreTable]
    groups: GroupRoles


def read_recipes(file: Path | None) -> Mapping[str, Recipe]:
    """Return the built-in recipes and those of a TOML file. Raises RecipeError."""
    return read_configuration(file).recipes


def read_configuration(file: Path | None) -> Configuration:
    """Return the built-in recipes and launchers, and those of a TOML file. Raises RecipeError."""
    if file is None:
        return _configure({}, "built-in")
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
    import tomllib  # few services have such a file

    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{source}: not valid TOML: {error}.") from error
    return _configure(document, source)


def _configure(document: dict[str, Any], source: str) -> Configuration:
    if unknown := [key for key in document if key not in _KINDS]:
        raise RecipeError(
            f"{source}: {unknown[0]}: unknown; use [recipes.NAME], [launchers.NAME] and "
            "[stores.NAME] tables, and [groups]."
        )
    launchers = {LOCAL: LauncherTable(LOCAL, LOCAL, {})}
    launchers |= _parse_tables(document, "launchers", source, _parse_launcher)
    recipes = {recipe.name: recipe for recipe in BUILT_IN}
    recipes |= _parse_tables(document, "recipes", source, _parse_recipe)
    for name, recipe in recipes.items():
        for launcher in recipe.launcher:
            if launcher not in launchers:
                raise RecipeError(
                    f"{source}: [recipes.{name}] launcher: there is no [launchers.{launcher}]; "
                    f"there are: {', '.join(sorted(launchers))}."
                )
    return Configuration(
        recipes, launchers, _parse_tables(document, "stores", source, _store),
        _parse_groups(document.get("groups", {}), source),
    )  # fmt: skip


def _parse_groups(table: object, source: str) -> GroupRoles:
    try:
        return parse_groups(table)
    except ValueError as error:
        raise RecipeError(f"{source}: [groups] {error}.") from error


def _parse_tables(
    document: Mapping[str, Any], kind: str, source: str, parse: Callable[[str, Any], T]
) -> dict[str, T]:
    """Return what the tables `[KIND.NAME]` say, by name. Raises RecipeError."""
    tables = document.get(kind, {})
    if not isinstance(tables, dict):
        raise RecipeError(f"{source}: {kind}: must be a table of {kind}.")
    by_name = {}
    for name, table in tables.items():
        try:
            by_name[name] = parse(name, table)
        except ValueError as error:
            raise RecipeError(f"{source}: [{kind}.{name}] {error}.") from error
    return by_name


def _store(name: str, table: Any) -> StoreTable:
    _check_table(name, table)
    return parse_store(name, table)


def _check_table(name: str, table: Any) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(
            "name: must be 1 to 64 of a-z, 0-9, '_' and '-', starting with a letter or digit"
        )
    if not isinstance(table, dict):
        raise ValueError("must be a table")


def _parse_launcher(name: str, table: Any) -> LauncherTable:
    """Check one table; its options are the launcher's own. Raises ValueError led by the key."""
    _check_table(name, table)
    options = dict(table)
    kind = string(options.pop("kind", name if name == LOCAL else ""))
    if not kind or (kind == LOCAL) != (name == LOCAL):
        raise ValueError("kind: must name a kind of launcher; only [launchers.local] is 'local'")
    return LauncherTable(name, kind, options)


def _parse_recipe(name: str, table: Any) -> Recipe:
    """Check one table. Raises ValueError led by the key."""
    _check_table(name, table)
    if "command" not in table:
        raise ValueError("command: required")
    if unknown := [key for key in table if key not in KEYS]:
        raise ValueError(f"{unknown[0]}: unknown; known are {', '.join(KEYS)}")
    try:
        return _RECIPE.validate_python({"name": name, **table})
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(f"{part}: " for part in first["loc"])
        raise ValueError(field + first["msg"].removeprefix("Value error, ")) from None


KEYS = tuple(field.name for field in fields(Recipe) if field.name != "name")
"""Every key that a recipe may have."""
_RECIPE = TypeAdapter(Recipe)
