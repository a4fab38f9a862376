"""Commits in the background: one thread at a time, which the next save and the end wait for."""

import threading
from collections.abc import Callable
from typing import Any

from llm_train.buffer import warn


class BackgroundCommit:
    """At most one commit that runs while the training goes on.

    Its thread is no daemon: a process that ends waits for it, and only SIGKILL loses it, which
    leaves nothing under the checkpoint's name.
    """

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, commit: Callable[[], Any], what: str) -> None:
        """Run `commit` in a thread, once the one before has ended. Raises that one's error."""
        self.wait()
        self.check()
        self._thread = threading.Thread(
            target=self._run, args=(commit, what), name="checkpoint-commit"
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until no commit runs. Raises nothing."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def check(self) -> None:
        """Raise what a commit has raised, once: training must not go on without checkpoints."""
        error, self._error = self._error, None
        if error is not None:
            raise error

    def forget(self) -> None:
        """Forget the commit in a forked child, which does not have its thread."""
        self._thread = self._error = None

    def _run(self, commit: Callable[[], Any], what: str) -> None:
        try:
            commit()
        except BaseException as error:
            warn(f"{what} could not be committed: {error}")
            self._error = error
