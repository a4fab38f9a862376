"""What every storage of artifacts promises; and streams between the loop and what blocks."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from app.errors import Conflict, InvalidInput, NotFound, Unavailable
from app.storage.artifacts import Artifact, ArtifactStorage, Owner, open_artifacts
from app.storage.readers import Readers
from app.storage.streams import BUFFER_BYTES, drain, pour
from tests.support.buckets import make_bucket, staged_in

OWNER = Owner("exp_0a", "run_0b")


@pytest.fixture(params=["directory", "bucket"])
def artifacts(request: pytest.FixtureRequest, tmp_path: Path) -> ArtifactStorage:
    data_dir = tmp_path / "data"
    storage = None if request.param == "directory" else staged_in(make_bucket(), data_dir)
    return open_artifacts(storage, data_dir)


def test_a_file_is_put_read_listed_and_deleted(artifacts: ArtifactStorage) -> None:
    assert artifacts.put(OWNER, "plots/loss.png", [b"ab", b"cd"]) == 4
    assert artifacts.put(OWNER, "notes.md", []) == 0
    assert artifacts.size(OWNER, "plots/loss.png") == 4
    assert b"".join(artifacts.read(OWNER, "plots/loss.png", offset=1)) == b"bcd"
    assert artifacts.list_folder(OWNER) == [
        Artifact("notes.md", 0), Artifact("plots", 0, is_folder=True),
    ]  # fmt: skip
    assert artifacts.list_folder(OWNER, "plots") == [Artifact("plots/loss.png", 4)]
    assert artifacts.list_folder(OWNER, "nothing") == []
    assert artifacts.list_folder(OWNER._replace(run_id="run_0c")) == []

    artifacts.put(OWNER, "plots/loss.png", [b"new"])
    assert b"".join(artifacts.read(OWNER, "plots/loss.png")) == b"new"
    artifacts.delete(OWNER, "plots")
    artifacts.delete(OWNER, "plots")
    artifacts.delete(OWNER, "notes.md")
    assert artifacts.list_folder(OWNER) == []
    with pytest.raises(NotFound):
        list(artifacts.read(OWNER, "plots/loss.png"))
    with pytest.raises(NotFound):
        artifacts.size(OWNER, "notes.md")


def test_an_owners_files_are_removed_and_no_others(artifacts: ArtifactStorage) -> None:
    other = Owner(OWNER.experiment_id, "run_0bc")
    for owner in (OWNER, other):
        artifacts.put(owner, "plots/loss.png", [b"ab"])
    artifacts.remove_all(OWNER)
    artifacts.remove_all(OWNER)
    assert artifacts.list_folder(OWNER) == []
    assert artifacts.size(other, "plots/loss.png") == 2
    artifacts.remove_all(Owner("exp_none", "run_none"))


def test_what_breaks_on_the_way_changes_nothing(artifacts: ArtifactStorage) -> None:
    def broken() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the sender is gone")

    artifacts.put(OWNER, "model.txt", [b"old"])
    for file in ("model.txt", "other.txt"):
        with pytest.raises(RuntimeError):
            artifacts.put(OWNER, file, broken())
    assert artifacts.list_folder(OWNER) == [Artifact("model.txt", 3)]
    assert b"".join(artifacts.read(OWNER, "model.txt")) == b"old"


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "..", "a/../../b", "a//b", ".", "a\0b", "x" * 300, ".part-1/x"]
)
def test_a_hostile_path_is_refused(artifacts: ArtifactStorage, path: str) -> None:
    for ask in (
        lambda: artifacts.put(OWNER, path, [b"x"]),
        lambda: artifacts.size(OWNER, path),
        lambda: list(artifacts.read(OWNER, path)),
        lambda: artifacts.list_folder(OWNER, path or "/"),
        lambda: artifacts.delete(OWNER, path),
    ):
        with pytest.raises(InvalidInput):
            ask()


def test_a_file_is_no_folder(artifacts: ArtifactStorage) -> None:
    artifacts.put(OWNER, "a/b", [b"x"])
    with pytest.raises(Conflict):
        artifacts.put(OWNER, "a", [b"x"])
    with pytest.raises(Conflict):
        artifacts.put(OWNER, "a/b/c", [b"x"])


@pytest.mark.parametrize("name", ["a b.txt", "100%.txt", "ü/ö.bin", "#?&.md", "%2e%2e"])
def test_any_name_is_kept(artifacts: ArtifactStorage, name: str) -> None:
    artifacts.put(OWNER, name, [b"x"])
    folder = name.rpartition("/")[0]
    assert artifacts.list_folder(OWNER, folder) == [Artifact(name, 1)]
    assert b"".join(artifacts.read(OWNER, name)) == b"x"


def test_a_link_leads_nowhere(tmp_path: Path) -> None:
    artifacts = open_artifacts(None, tmp_path / "data")
    artifacts.put(OWNER, "a/b", [b"x"])
    outside = tmp_path / "outside"
    outside.write_text("secret")
    folder = tmp_path / "data" / "artifacts" / OWNER.experiment_id / OWNER.run_id / "a"
    (folder / "link").symlink_to(outside)
    with pytest.raises(Conflict):
        list(artifacts.read(OWNER, "a/link"))
    assert [each.path for each in artifacts.list_folder(OWNER, "a")] == ["a/b"]


def test_a_disk_that_fails_is_no_missing_file(tmp_path: Path) -> None:
    (tmp_path / "artifacts").symlink_to(tmp_path / "artifacts")
    with pytest.raises(Unavailable):
        open_artifacts(None, tmp_path).size(OWNER, "model.txt")


async def _body(pieces: int, sent: list[int], fail: bool = False) -> AsyncIterator[bytes]:
    for number in range(pieces):
        sent.append(number)
        yield bytes([number % 256]) * (1 << 20)
    if fail:
        raise ConnectionResetError("the client is gone")


def test_a_body_streams_into_a_call_that_blocks_and_waits_for_it() -> None:
    may_read, sent = threading.Event(), list[int]()

    def consume(pieces: Iterator[bytes]) -> int:
        may_read.wait(60)
        return sum(map(len, pieces))

    async def story() -> int:
        work = asyncio.create_task(pour(Readers(1), consume, _body(64, sent)))
        while len(sent) * (1 << 20) <= BUFFER_BYTES:  # noqa: ASYNC110 - a body has no event
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(sent) * (1 << 20) <= BUFFER_BYTES + (2 << 20), "the sender is held back"
        may_read.set()
        return await work

    assert asyncio.run(story()) == 64 << 20


def test_a_broken_body_ends_the_call_and_a_call_that_fails_ends_the_body(tmp_path: Path) -> None:
    artifacts = open_artifacts(None, tmp_path)
    sent: list[int] = []

    def fail(pieces: Iterator[bytes]) -> int:
        next(pieces)
        raise Conflict("no more")

    async def story() -> None:
        threads = Readers(1)
        with pytest.raises(ConnectionResetError):
            await pour(
                threads, lambda pieces: artifacts.put(OWNER, "a", pieces), _body(3, sent, fail=True)
            )
        with pytest.raises(Conflict):
            await pour(threads, fail, _body(1000, sent))

    asyncio.run(story())
    assert artifacts.list_folder(OWNER) == []
    assert len(sent) < 100


def test_a_file_streams_out_and_is_closed_when_nobody_wants_the_rest(tmp_path: Path) -> None:
    artifacts, closed = open_artifacts(None, tmp_path), list[str]()
    artifacts.put(OWNER, "a", [b"x" * (5 << 20)])

    def watched() -> Iterator[bytes]:
        try:
            yield from artifacts.read(OWNER, "a")
        finally:
            closed.append("closed")

    async def story() -> int:
        whole = sum([len(piece) async for piece in drain(watched())])
        some = drain(watched())
        await anext(some)
        await some.aclose()  # type: ignore[attr-defined]
        return whole

    assert asyncio.run(story()) == 5 << 20 and closed == ["closed", "closed"]
