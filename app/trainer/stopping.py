"""Whether somebody asked the training to stop: by a signal, a file, or the service's answer."""

import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any


class StopRequest:
    """`asked` turns true once and for all; `checkpoint` is the name that was promised for it."""

    def __init__(self, checkpoint: str, file: Path | None) -> None:
        self.asked = False
        self.checkpoint = checkpoint
        self._file = file
        self._previous: dict[int, Any] = {}

    def look(self) -> None:
        """Ask if the stop file is there: the signal may have been lost or swallowed on its way."""
        with suppress(OSError):
            if self._file and self._file.exists():
                self.asked = True

    def listen(self) -> None:
        """Make SIGTERM and SIGINT ask. Does nothing outside the main thread."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.getsignal(number)
                signal.signal(number, self._on_signal)

    def forget(self) -> None:
        """Give the signals back, unless somebody else has taken them since."""
        if threading.current_thread() is threading.main_thread():
            for number, previous in self._previous.items():
                if signal.getsignal(number) == self._on_signal:
                    signal.signal(number, previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        previous = self._previous[number]
        if number == signal.SIGINT:  # a second Ctrl-C means it
            signal.signal(number, previous)
        if callable(previous) and previous is not signal.default_int_handler:
            previous(number, frame)
