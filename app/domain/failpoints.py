"""Failpoints: named instants at which a test lets this process die, fail or wait.

`failpoint("launch.spawned")` does nothing until `activate` arms that name. Actions:
`kill` (SIGKILL to this process), `raise`, `wait:PATH` (until the file exists).
"""

import os
import signal
import time
from pathlib import Path

_armed: dict[str, str] = {}


class FailpointReached(Exception):
    """An armed failpoint of action `raise` was reached."""


def activate(name: str, action: str) -> None:
    """Activate `name`. Raises ValueError for an unknown action."""
    if action not in ("kill", "raise") and not action.startswith("wait:"):
        raise ValueError(f"{action!r} is no action of a failpoint: kill, raise or wait:PATH")
    _armed[name] = action


def list_armed(prefix: str) -> dict[str, str]:
    """Return the armed names that start with `prefix`, with their actions."""
    return {name: action for name, action in _armed.items() if name.startswith(prefix)}


def failpoint(name: str) -> None:
    """Run the action of the failpoint `name`, if it is armed; costs one look-up if not."""
    action = _armed.get(name)
    if action is None:
        return
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if action == "raise":
        raise FailpointReached(name)
    while not Path(action.removeprefix("wait:")).exists():
        time.sleep(0.005)
