"""Lists of any length in one prepared statement: they are bound as JSON."""

from typing import Any

from sqlalchemy import bindparam, select
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


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


def listed(name: str) -> Any:
    """Return a table with one column `value`: the strings of the JSON list bound to `name`."""
    return _Listed(bindparam(name)).table_valued("value", name=name)


def one_of(column: Any, name: str) -> Any:
    """Return the condition that a column is one of the strings of the JSON list bound to `name`."""
    return column.in_(select(listed(name).c.value))
