"""A few daemon threads for work that waits for a network or a disk.

An executor is no help here: it takes nothing more while the process exits, when the last upload is
made, and its threads are joined at the exit, so that a server that reads 100 GB could not stop.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

THREADS = 4


def run_all(function: Callable[[T], R], items: Sequence[T], threads: int = THREADS) -> list[R]:
    """Return what the function returns for each item, called in a few threads at a time.

    After an error no further item is begun, and the first error is raised when all have ended.
    """
    results: dict[int, R] = {}
    errors: list[BaseException] = []
    waiting, lock = iter(range(len(items))), threading.Lock()

    def work() -> None:
        while not errors:
            with lock:
                number = next(waiting, None)
            if number is None:
                return
            try:
                results[number] = function(items[number])
            except BaseException as error:
                errors.append(error)

    helpers = [threading.Thread(target=work, daemon=True) for _ in items[1:threads]]
    with suppress(RuntimeError):  # the system gives no more threads
        for helper in helpers:
            helper.start()
    work()
    for helper in helpers:
        if helper.ident is not None:
            helper.join()
    if errors:
        raise errors[0]
    return [results[number] for number in range(len(items))]
