"""A control group with little memory, in which the kernel really kills: where this machine lets us.

Version 1 and 2 of control groups have other files; a machine without rights to make one has none.
"""

import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def limited_group(limit: int) -> Iterator[Path | None]:
    """Make a group; None where that is not allowed. What is moved into it must end in it."""
    for root, file in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / f"llm-train-test-{secrets.token_hex(4)}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / file).write_text(str(limit))
        except OSError:
            group.rmdir()
            continue
        try:
            yield group
        finally:
            group.rmdir()
        return
    yield None


def move(group: Path, pids: Iterable[int]) -> None:
    """Move processes into a group."""
    for pid in pids:
        fd = os.open(group / "cgroup.procs", os.O_WRONLY)
        try:
            with suppress(ProcessLookupError):  # it has ended by now
                os.write(fd, str(pid).encode())
        finally:
            os.close(fd)
