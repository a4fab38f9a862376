"""Runs a Python module or program to its end, in a fork where it can be one (`forks`)."""

import subprocess
from collections.abc import Mapping
from tempfile import TemporaryFile

from tests.support.forks import start_python
from tests.support.server import PATIENCE_SECONDS, REPOSITORY


def run_python(
    *arguments: str, environment: Mapping[str, str], timeout: float = PATIENCE_SECONDS
) -> "subprocess.CompletedProcess[str]":
    """Run `python ARGUMENTS` in the repository's root until it ends.

    Args:
        arguments: `-m MODULE …` or `-c PROGRAM …`.

    Raises subprocess.TimeoutExpired.
    """
    told = {**environment, "PYTHONUNBUFFERED": "1"}
    with TemporaryFile() as output, TemporaryFile() as errors:
        process = start_python(arguments, REPOSITORY, told, output, errors)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        said = []
        for file in (output, errors):
            file.seek(0)
            said.append(file.read().decode())
    return subprocess.CompletedProcess(arguments, status, *said)
