"""Property-based tests that schemathesis derives from both APIs' own descriptions."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import schemathesis_hooks
from tests.support.server import Server

SCHEMATHESIS = Path(sys.executable).with_name("schemathesis")


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("description", "examples"), [("/openapi.json", 8), ("/graphql", 6)], ids=["REST", "GraphQL"]
)
def test_no_generated_request_finds_a_broken_promise(
    server: Server, tmp_path: Path, description: str, examples: int
) -> None:
    # Neither description can say "a cursor from an answer", "a path under this run", "a key that is
    # new", "`first` or `last`": a request that they allow may rightly be refused.
    excluded = "positive_data_acceptance"
    if description == "/graphql":  # see `no_bug_is_told`
        excluded += ",not_a_server_error"
    checks = ("--checks=all", f"--exclude-checks={excluded}")
    # One worker: parsing Python in two threads confuses CPython 3.11 ("AST constructor recursion
    # depth mismatch").
    options = (*checks, f"--max-examples={examples}", "--seed=1", "--workers=1")
    done = subprocess.run(
        [SCHEMATHESIS, "run", f"{server.url}{description}", *options],
        env=os.environ | {"SCHEMATHESIS_HOOKS": schemathesis_hooks.__file__},
        cwd=tmp_path,  # it leaves its example database where it runs
        capture_output=True,
        text=True,
        timeout=1800,  # other tests compute beside it
    )
    assert done.returncode == 0, done.stdout + done.stderr
