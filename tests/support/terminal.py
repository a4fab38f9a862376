"""A command whose output goes to a real terminal of a given size."""

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from tests.support.server import REPOSITORY


class Shown(NamedTuple):
    """How a command ended, as a shell says it (128 and the number of a signal); every byte that its
    terminal got; and whether that shows what is typed afterwards."""

    status: int
    screen: str
    echoes: bool


def on_terminal(
    *arguments: str, columns: int = 80, url: str = "", seconds: float = 60,
    interrupt: Callable[[str], bool] | None = None,
) -> Shown:  # fmt: skip
    """Run `llm-train` on a terminal until it ends.

    Args:
        interrupt: Ctrl-C is pressed once this is true of what was shown.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {**os.environ, "LLM_TRAIN_API_URL": url, "TERM": "xterm-256color"}
    for name in ("NO_COLOR", "COLUMNS", "LINES", "FORCE_COLOR", "CI"):
        environment.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli.main", *arguments], cwd=REPOSITORY, env=environment,
        stdin=theirs, stdout=theirs, stderr=theirs, close_fds=True,
    )  # fmt: skip
    os.close(theirs)
    screen = b""
    end = time.monotonic() + seconds
    with suppress(OSError):  # EIO: nobody writes any more
        while chunk := os.read(ours, 65_536):
            screen += chunk
            assert time.monotonic() < end, screen[-2_000:]
            if interrupt is not None and interrupt(screen.decode(errors="replace")):
                process.send_signal(signal.SIGINT)
                interrupt = None
    echoes = bool(termios.tcgetattr(ours)[3] & termios.ECHO)
    os.close(ours)
    status = process.wait(60)
    return Shown(128 - status if status < 0 else status, screen.decode(errors="replace"), echoes)
