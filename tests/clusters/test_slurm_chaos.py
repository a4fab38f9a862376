"""A short storm on a real Slurm (tests/chaos/slurm.py), audited."""

import subprocess
import sys

import pytest

from tests.support.server import REPOSITORY

pytestmark = pytest.mark.heavy


def test_no_promise_is_broken_while_controllers_nodes_agents_and_servers_are_killed() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--slurm", "10"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout)
