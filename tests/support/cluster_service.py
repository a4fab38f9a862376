"""The real service, as a process, with runs on a real cluster: what tests/clusters tells stories of.

    with cluster_service(home, table, trainers) as service: ...

Trainers are those of tests.support.trainers; on a node they find the repository by its path, as
people's do, and the service by its public URL.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support import trainers
from tests.support.server import REPOSITORY
from tests.support.service import Home, Service, recipes


def write_recipes(path: Path, launcher: str, table: str, **overrides: str) -> Path:
    """A file of recipes with every trainer, all of the launcher of this table."""
    lines = {
        name: f'launcher = "{launcher}"\n{overrides.get(name, "")}' for name in trainers.NAMES
    }
    file = recipes(path, **lines)
    file.write_text(f"{file.read_text()}\n[launchers.{launcher}]\n{table}\n")
    return file
