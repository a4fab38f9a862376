"""`python -m tests.bench.ticking FILE`: the service, which notes what each of its ticks took.

A line of FILE for each tick of the supervisor: the milliseconds of processor time that its steps
took on the event loop, and those of the longest part that held it up without a pause.
"""

import sys
import time
from collections.abc import Coroutine, Generator
from pathlib import Path
from typing import Any

from app.main import serve
from app.settings import load_settings
from app.supervisor import Supervisor


class Timed:
    """Awaits a coroutine, and sums up what it does between its pauses. Its jobs do not count."""

    def __init__(self, work: Coroutine[Any, Any, None]) -> None:
        self._work, self.total, self.longest = work, 0.0, 0.0

    def __await__(self) -> Generator[Any, Any, None]:
        error: BaseException | None = None
        while True:
            began = time.thread_time()
            try:
                waits_for = self._work.throw(error) if error else self._work.send(None)
            except StopIteration:
                return
            finally:
                took = 1_000 * (time.thread_time() - began)
                self.total, self.longest = self.total + took, max(self.longest, took)
            try:
                error = None
                yield waits_for
            except BaseException as thrown:
                error = thrown


def main(file: Path) -> None:
    take_steps = Supervisor._take_steps

    async def take_timed_steps(supervisor: Supervisor) -> None:
        timed = Timed(take_steps(supervisor))
        await timed
        with file.open("a") as output:
            output.write(f"{timed.total:.3f} {timed.longest:.3f}\n")

    setattr(Supervisor, take_steps.__name__, take_timed_steps)
    serve(load_settings())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
