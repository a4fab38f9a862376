"""The declarations of light rows and of changes, written from the tables.

python -m tests.support.rows     rewrites app/db/rows.pyi
"""

import subprocess
import sys
from collections.abc import Iterator, Sequence

from app.db import rows, tables
from app.db.objects import Table, column_names
from tests.support.server import REPOSITORY

DECLARED = REPOSITORY / "app" / "db" / "rows.pyi"
HEAD = '''\
"""Written by `python -m tests.support.rows` from the tables; not to be edited."""

from typing import NamedTuple, TypeAlias, TypedDict

from app.db.tables import {imported}
'''


def _names(suffix: str) -> list[str]:
    return [name for name in vars(rows) if name.endswith(suffix) and name != suffix]


def _table(name: str) -> type[Table]:
    table: type[Table] = getattr(tables, name)
    return table


def _columns(row: str) -> Iterator[str]:
    return _fields(_table(row.removesuffix("Summary")), getattr(rows, f"{row}Row")._fields)


def _fields(table: type[Table], names: Sequence[str]) -> Iterator[str]:
    for name in names:
        annotation = table.model_fields[name].annotation
        assert annotation is not None, name
        text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
        yield f"    {name}: {text}"


def declarations() -> str:
    """Return the text of `rows.pyi`."""
    paged = [name.removesuffix("Row") for name in _names("Row")]
    changed = [name.removesuffix("Changes") for name in _names("Changes")]
    whole = [name for name in paged if not name.endswith("Summary")]
    parts = [HEAD.format(imported=", ".join(sorted(whole)))]
    parts += ["\n".join([f"class {name}Row(NamedTuple):", *_columns(name)]) for name in paged]
    for name in changed:
        fields = _fields(_table(name), column_names(_table(name)))
        parts.append("\n".join([f"class {name}Changes(TypedDict, total=False):", *fields]))
    parts += [f"Any{name}: TypeAlias = {name} | {name}Row" for name in whole]
    parts += [
        f"Any{name}: TypeAlias = Any{name.removesuffix('Summary')} | {name}Row"
        for name in paged
        if name not in whole
    ]
    ruff = [sys.executable, "-m", "ruff", "format", "--stdin-filename", str(DECLARED), "-"]
    text = "\n\n".join(parts)
    made = subprocess.run(ruff, input=text, capture_output=True, text=True, check=True)
    return made.stdout


if __name__ == "__main__":
    DECLARED.write_text(declarations())
