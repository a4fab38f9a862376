"""JSON in statements: lists of any length, bound as JSON, and numbers in stored objects.

A few strings that are compared row by row are an array on PostgreSQL, which it counts for a plan.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Float, String, bindparam, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from app.db.sql import dump


class _Listed(FunctionElement[Any]):
    """The strings of a JSON list as a table, so that one statement serves any number."""

    inherit_cache = True
    name = "listed"


@compiles(_Listed, "sqlite")
def _sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(_Listed, "postgresql")
def _postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return f"json_array_elements_text(CAST({compiler.process(element.clauses, **options)} AS json))"


class _Few(_Listed):
    """The same of a few strings, bound as `dump_few` returns them."""

    inherit_cache = True
    name = "few"


@compiles(_Few, "postgresql")
def _postgresql_few(element: Any, compiler: Any, **options: Any) -> str:
    array = f"CAST({compiler.process(element.clauses, **options)} AS text[])"
    return f"(SELECT unnest({array}) AS value)"


def dump_few(dialect: str, strings: Sequence[str]) -> str:
    """Return strings as they are bound to what `few` returns."""
    if dialect == "sqlite":
        return dump(list(strings))
    escaped = (each.replace("\\", r"\\").replace('"', r"\"") for each in strings)
    return "{" + ",".join(f'"{each}"' for each in escaped) + "}"


class JsonNumber(FunctionElement[float]):
    """The number that a stored JSON object has under a name; NULL where it has none there.

    The name is bound in two forms, as a key of the object itself and as a path into nested ones:
    `param_key` and `param_path` (see `number_params`).
    """

    inherit_cache = True
    type = Float()


def number_params(name: str) -> dict[str, str]:
    """Return the parameters of `JsonNumber` for a name such as `lr` or `optimizer.lr`.

    The name holds no quotes, no backslashes and no control characters.
    """
    parts = name.split(".")
    return {
        "param_key": dump([name]),
        "param_path": dump(parts),
        "param_key_path": f'$."{name}"',
        "param_path_path": "$" + "".join(f'."{part}"' for part in parts),
    }


@compiles(JsonNumber, "sqlite")
def _sqlite_number(element: Any, compiler: Any, **options: Any) -> str:
    column = compiler.process(element.clauses, **options)
    cases = [
        f"CASE WHEN json_type({column}, {path}) IN ('integer', 'real')"
        f" THEN json_extract({column}, {path}) END"
        for path in (_bound(name, compiler) for name in ("param_key_path", "param_path_path"))
    ]
    return f"coalesce({', '.join(cases)})"


@compiles(JsonNumber, "postgresql")
def _postgresql_number(element: Any, compiler: Any, **options: Any) -> str:
    column = f"CAST({compiler.process(element.clauses, **options)} AS jsonb)"
    cases = []
    for name in ("param_key", "param_path"):
        keys = f"ARRAY(SELECT json_array_elements_text(CAST({_bound(name, compiler)} AS json)))"
        value = f"({column} #> {keys})"
        cases.append(
            f"CASE WHEN jsonb_typeof({value}) = 'number' THEN CAST({value} AS double precision) END"
        )
    return f"coalesce({', '.join(cases)})"


def _bound(name: str, compiler: Any) -> str:
    return str(compiler.process(bindparam(name, type_=String)))


def listed(items: Any) -> Any:
    """Return a table with one column `value`: the strings of the JSON list bound to `items`.

    That is a bound parameter, or the name of one.
    """
    bound = bindparam(items) if isinstance(items, str) else items
    return _Listed(bound).table_valued("value", name=bound.key)


def few(items: str) -> Any:
    """Return a table with one column `value`: a few strings, bound to `items` by `dump_few`."""
    return _Few(bindparam(items)).table_valued("value", name=items)


def one_of(column: Any, items: Any) -> Any:
    """Return the condition that a column is one of the strings of a JSON list, as in `listed`."""
    return column.in_(select(listed(items).c.value))
