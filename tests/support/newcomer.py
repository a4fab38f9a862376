"""Somebody else's package, installed as a room's steps say: its entry point is the docstring's.

with installed(tmp_path, base.__doc__, shed):      # on sys.path, also of servers started then
    ...
"""

import importlib
import re
import shutil
import textwrap
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def block(text: str, header: str) -> str:
    """The TOML example of a docstring that begins with this header."""
    match = re.search(rf"(?m)^ +\[{re.escape(header)}\]\n(?: +\S.*\n)+", text)
    assert match is not None, f"no example of [{header}]"
    return textwrap.dedent(match[0])


@contextmanager
def installed(site: Path, steps: str, group: str, module: ModuleType) -> Iterator[dict[str, str]]:
    """A distribution with `module`, registered by the example in `steps`; its entry points."""
    example = block(steps, f'project.entry-points."{group}"')
    tables: dict[str, Any] = tomllib.loads(example)["project"]["entry-points"]
    entries: dict[str, str] = tables[group]
    (place,) = {value.partition(":")[0] for value in entries.values()}
    package = site.joinpath(*place.split(".")).with_suffix(".py")
    package.parent.mkdir(parents=True, exist_ok=True)
    assert module.__file__ is not None
    shutil.copy(module.__file__, package)
    info = site / "newcomer-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: newcomer\nVersion: 1.0\n")
    lines = "".join(f"{name} = {value}\n" for name, value in entries.items())
    (info / "entry_points.txt").write_text(f"[{group}]\n{lines}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(site))
        patch.syspath_prepend(site)
        importlib.invalidate_caches()
        yield entries
