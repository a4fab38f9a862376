"""Stop requests: by a signal, a file, or the service's answer.

A signal that arrives before the training loop has begun keeps its former meaning: a process that
loads data or a model has no step after which it could save, so nobody would act on a request that
is put off. The loop has begun with its first `log`, `should_stop` or `checkpoint`.
"""

import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any


class StopRequest:
    """`asked` turns true once and for all; `checkpoint` is the name promised for the save.

    `begun` is set by the training loop; from then on a signal sets `asked` and nothing else.
    """

    def __init__(self, checkpoint: str, file: Path | None) -> None:
        self.asked = False
        self.begun = False
        self.checkpoint = checkpoint
        self._file = file
        # The handler before the last `listen`, which a signal is passed on to, and the one before
        # the first: a framework that took the signal in between may call us from its own handler.
        self._previous: dict[int, Any] = {}
        self._original: dict[int, Any] = {}
        self._listening = False
        self._handling = False

    def look(self) -> None:
        """Ask if the stop file is there: the signal may have been lost or swallowed on its way."""
        with suppress(OSError):
            if self._file and self._file.exists():
                self.asked = True

    def listen(self) -> None:
        """Make SIGTERM and SIGINT ask. May be repeated. Does nothing outside the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._listening = True
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(number)
            if handler != self._on_signal:
                self._original.setdefault(number, handler)
                self._previous[number] = handler
                signal.signal(number, self._on_signal)

    def forget(self) -> None:
        """Give the signals back, unless another handler has taken them since."""
        if threading.current_thread() is threading.main_thread():
            self._listening = False
            for number, previous in self._previous.items():
                if signal.getsignal(number) == self._on_signal:
                    signal.signal(number, signal.SIG_DFL if previous is None else previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._handling or not self._listening:  # called by a handler that was set after ours
            return _pass_on(self._original.get(number), number, frame)
        self._handling = True
        previous = self._previous[number]
        try:
            if self.begun:
                self.asked = True
                if number == signal.SIGINT:  # a second Ctrl-C means it
                    signal.signal(number, signal.SIG_DFL if previous is None else previous)
                if previous is not signal.default_int_handler:
                    _pass_on(previous, number, frame)
            elif previous is signal.SIG_DFL and signal.getsignal(number) == self._on_signal:
                signal.signal(number, previous)
                signal.raise_signal(number)
            else:
                _pass_on(previous, number, frame)
        finally:
            self._handling = False


def _pass_on(handler: Any, number: int, frame: FrameType | None) -> None:
    if callable(handler):
        handler(number, frame)
