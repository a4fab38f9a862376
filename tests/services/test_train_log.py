"""A log whose middle is dropped while it is read: what is read was printed, or is passed over.

Seen red: without a second look at the record in `read`, and with the hole made before its line.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from app.agent import directory
from app.agent.directory import LogLimit
from app.services import train_log

MOST = 1 << 16
PIECE = b"".join(b"line %010d\n" % number for number in range(1_000))
Print = Callable[[int], None]
Printing = Callable[[Path], AbstractContextManager[Print]]


@contextmanager
def append(run_dir: Path) -> Iterator[Print]:
    """The service prints what an agent elsewhere sends."""

    def print_(pieces: int) -> None:
        for _ in range(pieces):
            train_log.append(run_dir, 1, train_log.size(run_dir), PIECE, MOST)

    yield print_


@contextmanager
def agent(run_dir: Path) -> Iterator[Print]:
    """The agent's output is the log, as is that of its trainer."""
    own = os.dup(1)
    log = os.open(run_dir / "train.log", os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    limit = LogLimit(str(run_dir), MOST)

    def print_(pieces: int) -> None:
        for _ in range(pieces):
            os.write(1, PIECE)
            limit.apply()

    try:
        yield print_
    finally:
        os.dup2(own, 1)
        os.close(own)
        os.close(log)


both = pytest.mark.parametrize("printing", [append, agent])


def rest_of(run_dir: Path, offset: int) -> bytes:
    """Return what a reader gets from here on."""
    content = b""
    while (part := train_log.read(run_dir, offset, 10_000)).content:
        content, offset = content + part.content, part.next_offset
    return content


@both
def test_what_is_dropped_while_it_is_read_is_passed_over(
    tmp_path: Path, printing: Printing, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading, printed = os.pread, list[int]()

    def pread(file: int, most: int, offset: int) -> bytes:
        if not printed:  # between the look at the record and the reading
            printed.append(offset)
            print_(20)
        return reading(file, most, offset)

    with printing(tmp_path) as print_:
        print_(2)
        monkeypatch.setattr(os, "pread", pread)
        part = train_log.read(tmp_path, 10_000, 1_000)
    assert printed and part.content and b"\0" not in part.content
    assert part.next_offset > 20 * 1_000
    assert rest_of(tmp_path, part.next_offset).endswith(PIECE)


@both
def test_who_reads_while_the_middle_is_dropped_reads_the_line_that_says_so(
    tmp_path: Path, printing: Printing, monkeypatch: pytest.MonkeyPatch
) -> None:
    punch, read = directory.punch_hole, []

    def punch_hole(file: int, start: int, length: int) -> bool:
        made = punch(file, start, length)
        read.append(rest_of(tmp_path, 20_000))
        return made

    for module in (directory, train_log):
        monkeypatch.setattr(module, "punch_hole", punch_hole)
    with printing(tmp_path) as print_:
        print_(20)
    assert len(read) > 2
    for content in read:
        assert content.startswith(b"\n[") and b"were dropped here" in content[:80]
        assert b"\0" not in content and content.endswith(PIECE)
