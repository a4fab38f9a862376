"""A log whose middle is dropped while it is read: what is read was printed, or is passed over.

Seen red: without a second look at the record in `read`, with the hole made before its line, and
without the lock or the record of all while a log's end is written again.
"""

import os
import subprocess
import threading
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
            train_log.append(run_dir, 1, train_log.measure_size(run_dir), PIECE, MOST)

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


@pytest.fixture(params=["ramfs", "refused"])
def no_holes(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A run's directory where no hole can be made: on ramfs, a real file system like that, or
    with the refusal that it answers."""
    monkeypatch.setattr(train_log, "PATIENCE_SECONDS", 0.02)
    place = tmp_path / "run"
    place.mkdir()
    if request.param == "refused":
        for module in (directory, train_log):
            monkeypatch.setattr(module, "punch_hole", lambda *_: False)
        yield place
        return
    mounted = subprocess.run(["mount", "-t", "ramfs", "ramfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a file system without holes")
    try:
        with (place / "probe").open("wb") as probe:
            probe.write(bytes(1 << 16))
            probe.flush()
            assert not directory.punch_hole(probe.fileno(), 4096, 4096)
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@both
def test_without_holes_nobody_reads_zeros_while_the_end_is_written_again(
    no_holes: Path, printing: Printing, monkeypatch: pytest.MonkeyPatch
) -> None:
    truncate, read = os.truncate, list[bytes]()

    def truncated(file: int, length: int) -> None:
        truncate(file, length)
        size = train_log.measure_size(no_holes)
        for offset in (max(0, size - 30_000), max(0, size - 5_000)):
            part = train_log.read(no_holes, offset, 1_000)
            assert part.content or part.next_offset == offset, "what is to come is not passed over"
            read.append(part.content)

    with printing(no_holes) as print_:
        monkeypatch.setattr(os, "truncate", truncated)
        print_(20)
        monkeypatch.undo()
        size = train_log.measure_size(no_holes)
        assert rest_of(no_holes, size - 5_000) == PIECE[-5_000:]
    assert len(read) > 4 and not any(b"\0" in content for content in read)


@both
def test_without_holes_a_reader_beside_the_writer_gets_lines_and_no_zeros(
    no_holes: Path, printing: Printing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_log, "PATIENCE_SECONDS", 1.0)
    read, is_over = [b""], threading.Event()

    def follow() -> None:
        offset, ending = 0, False
        while not ending:
            ending = is_over.is_set()
            while (part := train_log.read(no_holes, offset, 3_000)).content:
                read.append(part.content)
                offset = part.next_offset

    reader = threading.Thread(target=follow)
    with printing(no_holes) as print_:
        reader.start()
        print_(100)
        is_over.set()
        reader.join()
    content = b"".join(read)
    assert b"\0" not in content and content.endswith(PIECE[-3_000:])


@both
def test_without_holes_a_crash_while_the_end_is_written_again_leaves_no_zeros(
    no_holes: Path, printing: Printing, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(file: int, length: int) -> None:
        os.ftruncate(file, length)
        if length > MOST // 4:
            raise OSError("planted")

    with printing(no_holes) as print_:
        monkeypatch.setattr(os, "truncate", crash)
        with pytest.raises(OSError, match="planted"):
            print_(20)
        monkeypatch.undo()
        assert b"\0" not in rest_of(no_holes, 0)
        print_(1)
        assert b"\0" not in rest_of(no_holes, 0) and rest_of(no_holes, 0).endswith(PIECE)


@pytest.mark.parametrize(
    "record", [b"[" * 1024, b'{"start": 0, "end": Infinity}', b"[]", b'{"start": 0, "end": 1e300}']
)
def test_a_record_that_the_trainer_has_broken_hides_no_log_and_lifts_no_limit(
    tmp_path: Path, record: bytes
) -> None:
    with agent(tmp_path) as print_:
        print_(1)
        (tmp_path / "dropped.json").write_bytes(record)
    assert b"1e300" in record or rest_of(tmp_path, 0) == PIECE
    with agent(tmp_path) as print_:
        print_(50)
    assert train_log.measure(tmp_path) < 2 * MOST
