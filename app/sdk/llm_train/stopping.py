"""Stop requests: by a signal, a file, or the service's response to a report.

A signal that arrives before the training loop has begun keeps its former meaning: a process that
loads data or a model has no step after which it could save. The loop has begun with its first
`log`, `should_stop` or `checkpoint`. Until then no handler is installed: Python runs one only
between two instructions, so that a signal at the wrong moment would wait for a long call's end.
"""

import signal
import threading
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any


class StopRequest:
    """The request to save and stop: `Reporter.stop_request`.

    Attributes:
        requested: True from the first signal, stop file or response that asks to stop; never
            False again. A framework's own stop condition may set it as well.
        checkpoint: the name that the service has promised to whoever cancelled the run; the
            first checkpoint without a name that is saved after the request gets it.
        loop_started: True once the training loop runs. Until then signals are not taken.

    Example (a trainer whose framework has a flag of its own):
        stop = reporter.stop_request
        if stop.requested:
            trainer.should_stop = True
    """

    def __init__(self, checkpoint: str, file: Path | None = None) -> None:
        """Make a request that is not made yet.

        Args:
            checkpoint: the name for the checkpoint saved after a stop.
            file: a file whose existence is a request as well.
        """
        self.requested = False
        self.loop_started = False
        self.checkpoint = checkpoint
        self._file = file
        self._listens_to_loop = False
        # The handler before the last `listen`, which a signal is passed on to, and the one before
        # the first: a framework that took the signal in between may call ours from its own.
        self._previous: dict[int, Any] = {}
        self._original: dict[int, Any] = {}
        self._listening = False
        self._handling = False

    def check_file(self) -> None:
        """Set `requested` if the stop file exists: a framework may have swallowed the signal."""
        with suppress(OSError):
            if self._file and self._file.exists():
                self.requested = True

    def listen_to_loop(self) -> None:
        """Listen as soon as the training loop has begun."""
        self._listens_to_loop = True

    def begin_loop(self) -> None:
        """Note that the training loop runs. May be repeated."""
        if not self.loop_started:
            self.loop_started = True
            if self._listens_to_loop:
                self.listen()

    def listen(self) -> None:
        """Make SIGTERM and SIGINT set `requested`; a second SIGINT acts as it did before.

        May be repeated: after a framework has installed handlers of its own, this joins them
        (they are called as well). Does nothing outside the main thread: for a training loop in
        another thread, call it in the main one.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        self._listening = True
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(number)
            if handler != self._on_signal:
                self._original.setdefault(number, handler)
                self._previous[number] = handler
                signal.signal(number, self._on_signal)

    def stop_listening(self) -> None:
        """Restore the former handlers, unless others have been installed since."""
        if threading.current_thread() is threading.main_thread():
            self._listening = False
            for number, previous in self._previous.items():
                if signal.getsignal(number) == self._on_signal:
                    signal.signal(number, signal.SIG_DFL if previous is None else previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Handle SIGTERM or SIGINT, and call the handler that was there before."""
        if self._handling or not self._listening:  # called by a handler that was set after ours
            return _call_handler(self._original.get(number), number, frame)
        self._handling = True
        previous = self._previous[number]
        try:
            if self.loop_started:
                self.requested = True
                if number == signal.SIGINT:  # a second Ctrl-C means it
                    signal.signal(number, signal.SIG_DFL if previous is None else previous)
                if previous is not signal.default_int_handler:
                    _call_handler(previous, number, frame)
            elif previous is signal.SIG_DFL and signal.getsignal(number) == self._on_signal:
                signal.signal(number, previous)
                signal.raise_signal(number)
            else:
                _call_handler(previous, number, frame)
        finally:
            self._handling = False


def _call_handler(handler: Any, number: int, frame: FrameType | None) -> None:
    """Call a signal handler, if it is one (and not SIG_DFL, SIG_IGN or None)."""
    if callable(handler):
        handler(number, frame)
