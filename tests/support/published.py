"""Versions that were published, as code that still runs.

tests/e2e/published-VERSION.tar.xz is that version's `app` and its trainers for tests. 0.1.0 is
commit d5bd900, 0.2.0 is 0dfbe87.
"""

import tarfile
from pathlib import Path

from tests.support.server import REPOSITORY


def unpack(version: str, folder: Path) -> Path:
    """Unpack the code of a version into a folder, and return the folder."""
    name = f"published-{version}.tar.xz"
    with tarfile.open(REPOSITORY / "tests" / "e2e" / name) as archive:
        archive.extractall(folder, filter="data")
    return folder
