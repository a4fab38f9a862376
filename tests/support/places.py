"""Another machine, as far as processes go: a pid namespace on the same files.

`ELSEWHERE` is the beginning of a command line that runs there; empty where the system lets us
make no namespace. Then `move` makes an attempt look as if it were of another place.
"""

import json
import subprocess
from pathlib import Path

_UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def _allowed() -> bool:
    try:
        return subprocess.run([*_UNSHARE, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


ELSEWHERE = _UNSHARE if _allowed() else ()


def move(identity: Path) -> None:
    """Where there are no namespaces: the identity names another place from now on."""
    record = json.loads(identity.read_text())
    if not ELSEWHERE:
        moved = identity.with_name("moved")
        moved.write_text(json.dumps(record | {"place": "elsewhere"}))
        moved.replace(identity)  # at once, as who looks meanwhile must see one or the other
