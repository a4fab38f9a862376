"""What a bucket may do to checkpoints: race, forget, lie, be away, and what is done about it.

Over a bucket in memory; tests/clusters has the same promises on a server.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import obstore
import pytest
from llm_train.manifest import File, build
from obstore.exceptions import GenericError
from obstore.store import MemoryStore

from app.domain.paths import CheckpointPath
from app.errors import CheckpointUnreadable
from app.storage import s3_drafts
from app.storage.base import Abandoned, Committed, Damaged, Incomplete
from app.storage.buckets import MARK, open_storage
from app.storage.envelope import parse_envelope
from app.storage.keys import slug_of
from app.storage.objects import IDENTITY, Bucket, Entry
from app.storage.s3 import S3Storage
from tests.support.buckets import damage, interleave, key_of, make_bucket, store_in

PATH = CheckpointPath("exp_0a", "run_0b", "step-000100")


def manifest(files: dict[str, bytes]) -> bytes:
    return build(
        100,
        [
            File(path, len(files[path]), hashlib.sha256(files[path]).hexdigest())
            for path in sorted(files)
        ],
    )


def save(storage: S3Storage, files: dict[str, bytes], key: str | None = None) -> CheckpointPath:
    draft = storage.begin(PATH, key)
    for file, content in files.items():
        storage.write(draft, file, [content])
    return storage.commit(draft, manifest(files)).path


@pytest.fixture
def storage(tmp_path: Path) -> S3Storage:
    return store_in(make_bucket(), tmp_path)


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.storage.keys.PIECE_BYTES", 4)


@pytest.mark.usefixtures("small_pieces")
def test_a_large_file_is_several_objects_and_one_file(storage: S3Storage) -> None:
    content = bytes(range(100))
    path = save(storage, {"model.bin": content, "empty": b"", "exact": b"four"})
    assert storage.verify(path) == storage.manifest(path)
    assert b"".join(storage.read(path, "model.bin")) == content
    assert b"".join(storage.read(path, "model.bin", offset=42)) == content[42:]
    assert b"".join(storage.read(path, "empty")) == b""
    keys = storage.bucket.entries("ckpts")
    assert sum("/parts/model.bin/" in key for key in keys) == 25
    storage.bucket.delete([key_of(storage.bucket, "/000000000000040")])
    with pytest.raises(Damaged, match="missing"):
        storage.verify(path)
    with pytest.raises(Damaged, match="missing"):
        list(storage.read(path, "model.bin"))


@pytest.mark.usefixtures("small_pieces")
@pytest.mark.parametrize("first", [0, 3, 4, 9, 12])
@pytest.mark.parametrize("offset", [0, 1, 4, 7, 12])
@pytest.mark.parametrize("more", [0, 1, 4, 11])
def test_a_file_is_continued_anywhere(
    storage: S3Storage, first: int, offset: int, more: int
) -> None:
    begun, rest = b"a" * first, b"b" * more
    draft = storage.begin(PATH)
    storage.write(draft, "model.bin", [begun])
    if offset > first:
        with pytest.raises(Damaged):
            storage.write(draft, "model.bin", [rest], offset)
        return
    content = begun[:offset] + rest
    assert storage.write(draft, "model.bin", [rest], offset) == len(content)
    path, _ = storage.commit(draft, manifest({"model.bin": content}))
    storage.verify(path)
    assert b"".join(storage.read(path, "model.bin")) == content


def test_a_draft_that_was_sent_again_shorter_or_longer_is_what_came_last(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.storage.keys.PIECE_BYTES", 4)
    draft = storage.begin(PATH)
    for content in (b"x" * 10, b"yy", b"z" * 9, b"four"):
        storage.write(draft, "model.bin", [content])
    with pytest.raises(Incomplete):
        storage.commit(draft, manifest({"model.bin": b"z" * 9}))
    path, _ = storage.commit(draft, manifest({"model.bin": b"four"}))
    storage.verify(path)


@pytest.mark.parametrize(
    "name", ["a b", "ü.bin", "a%2fb", "#", "x" * 900, ".draft", ".hashed/x", "a/..x", "~", "a\\b"]
)
def test_a_file_of_any_name_keeps_it(storage: S3Storage, name: str) -> None:
    assert slug_of(name).isascii()
    path = save(storage, {"model.bin": b"w", name: b"odd"})
    assert storage.verify(path).files == storage.manifest(path).files
    assert b"".join(storage.read(path, name)) == b"odd"


class Forgetful(Bucket):
    """A bucket whose listings lack everything, as they may for a while."""

    def entries(self, prefix: str) -> dict[str, Entry]:
        return {}


class Lagging(Bucket):
    """A bucket whose listings lack the manifests."""

    def entries(self, prefix: str) -> dict[str, Entry]:
        found = super().entries(prefix).items()
        return {key: entry for key, entry in found if not key.endswith("manifest.json")}


def test_nothing_is_lost_because_a_listing_lacks_it(tmp_path: Path) -> None:
    shared = MemoryStore()
    storage = store_in(Bucket(shared, "memory:"), tmp_path)
    path = save(storage, {"model.bin": b"w", "b": b""}, "one")
    left = storage.begin(PATH, "two")
    storage.write(left, "model.bin", [b"later"])
    forgetful = store_in(Forgetful(shared, "memory:"), tmp_path)
    assert forgetful.verify(path) == storage.manifest(path)
    assert forgetful.exists(path)
    assert forgetful.commit(left, manifest({"model.bin": b"later"})).path.name == "step-000100.2"
    lagging = store_in(Lagging(shared, "memory:"), tmp_path)
    lagging.abandon(lagging.begin(PATH, "one"))  # as if a server died before its marker was gone
    lagging.remove_drafts(*PATH[:2])
    assert storage.verify(path)


def test_a_bucket_that_is_gone_or_another_one_has_lost_nothing(tmp_path: Path) -> None:
    storage = store_in(make_bucket(), tmp_path)
    path = save(storage, {"model.bin": b"w"})
    assert storage.is_in_place("any")
    other = S3Storage(make_bucket(), tmp_path / MARK)
    assert not other.is_in_place("any")
    for ask in (lambda: other.verify(path), lambda: list(other.read(path, "model.bin"))):
        with pytest.raises(CheckpointUnreadable, match="not the store"):
            ask()
    with pytest.raises(ValueError, match="not the store that this service keeps"):
        other.prepare()
    assert other.bucket.get(IDENTITY) is None
    storage.prepare()


class Careless(Bucket):
    """A server that ignores If-None-Match."""

    def create(self, key: str, content: bytes) -> bool:
        self.put(key, content)
        return True


def test_a_server_that_ignores_if_none_match_is_refused(tmp_path: Path) -> None:
    storage = S3Storage(Careless(MemoryStore(), "s3://careless"), tmp_path / MARK)
    with pytest.raises(ValueError, match="cannot keep checkpoints: of 16 writers"):
        storage.prepare()
    assert not (tmp_path / MARK).exists()


def test_what_a_store_refuses_among_many_for_a_moment_is_removed_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, delete = list[list[str] | str](), obstore.delete

    def refuse(store: Any, keys: list[str] | str) -> None:
        asked.append(keys)
        if not isinstance(keys, str):
            raise GenericError("DeleteObjects request failed: Please reduce your request rate.")
        delete(store, keys)

    monkeypatch.setattr("app.storage.objects.obstore.delete", refuse)
    bucket = make_bucket()
    for key in ("a", "b"):
        bucket.put(key, b"")
    bucket.delete(["a", "b", "a", "missing"])
    assert asked == [["a", "b", "missing"], "a", "b", "missing"], "each of them once"
    assert not bucket.entries("")


class LostAnswer(Bucket):
    """A store whose answer to a commit is lost, and which refuses the second try."""

    def create(self, key: str, content: bytes) -> bool:
        super().create(key, content)
        return False


def test_a_lost_answer_to_a_commit_is_no_defeat(tmp_path: Path) -> None:
    shared = MemoryStore()
    store_in(Bucket(shared, "memory:"), tmp_path)
    storage = S3Storage(LostAnswer(shared, "memory:"), tmp_path / MARK)
    assert save(storage, {"model.bin": b"w"}) == PATH
    assert storage.list_run(*PATH[:2]) == [PATH]


@pytest.mark.parametrize("how", ["changed", "missing", "extra", "no manifest"])
def test_checksums_of_the_store_find_what_bytes_find(tmp_path: Path, how: str) -> None:
    storage = store_in(make_bucket(), tmp_path, attested=True)
    path = save(storage, {"model.bin": b"weights"})
    storage.bucket.stream = None  # type: ignore[method-assign, assignment]
    assert storage.verify(path), "no byte is read"
    del storage.bucket.stream
    damage(storage.bucket, how)
    with pytest.raises(Damaged):
        storage.verify(path)


def break_at(storage: S3Storage, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The server dies at this request."""
    count = 0

    def wrapped(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                raise KeyboardInterrupt
            return method(*args)

        return call

    for name in ("put", "create", "delete", "get", "head", "entries"):
        monkeypatch.setattr(storage.bucket, name, wrapped(getattr(storage.bucket, name)))


@pytest.mark.parametrize("number", range(1, 20))
def test_a_server_that_dies_at_any_request_leaves_a_checkpoint_or_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    storage = store_in(make_bucket(), tmp_path)
    files = {"model.bin": b"weights", "b/c": b"more"}
    with monkeypatch.context() as patch:
        break_at(storage, patch, number)
        try:
            save(storage, files, "attempt-1")
            storage.delete(PATH, storage.manifest(PATH).sha256)
        except KeyboardInterrupt:
            pass
    there = storage.list_run(*PATH[:2])
    assert all(storage.verify(path) for path in there)
    if not there:  # what was begun is gone on with, or goes
        assert save(storage, files, "attempt-1") == PATH
    storage.delete(PATH, storage.manifest(PATH).sha256)
    storage.remove_drafts(*PATH[:2])
    monkeypatch.setattr(s3_drafts, "DRAFT_SECONDS", -60.0)
    storage.clean_up()
    assert storage.bucket.entries("ckpts") == {}, "nothing is left that nobody lists"


def test_what_nobody_commits_goes_after_a_day_and_what_is_committed_stays(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(storage, {"model.bin": b"w"}, "one")
    second = save(storage, {"model.bin": b"2"}, "two")
    storage.write(storage.begin(PATH, "left"), "model.bin", [b"half"])
    late = f"ckpts/{PATH.experiment_id}/{PATH.run_id}/{PATH.name}/gone/files/model.bin"
    storage.bucket.put(late, b"of a trainer whose URL was still good")
    storage.clean_up()
    assert storage.bucket.head(late), "a day has not passed"
    monkeypatch.setattr(s3_drafts, "DRAFT_SECONDS", -60.0)
    storage.clean_up()
    assert not storage.bucket.head(late)
    assert not [key for key in storage.bucket.entries("ckpts") if "/left/" in key]
    assert storage.verify(path) and storage.verify(second)


def test_a_commit_while_its_draft_is_being_removed_keeps_its_files(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end of a run removes its drafts; a server may be committing one of them."""
    draft, content = storage.begin(PATH, "one"), manifest({"model.bin": b"w"})
    storage.write(draft, "model.bin", [b"w"])
    interleave(monkeypatch, "_is_committed", lambda: storage.commit(draft, content))
    storage.remove_drafts(*PATH[:2])
    assert storage.verify(PATH)


@pytest.mark.parametrize("moment", ["_pieces", "_publish"])
def test_a_draft_that_was_removed_while_it_is_committed_leaves_no_manifest_without_files(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    draft = storage.begin(PATH, "one")
    storage.write(draft, "model.bin", [b"w"])
    interleave(monkeypatch, moment, lambda: storage.remove_drafts(*PATH[:2]))
    if moment == "_pieces":
        with pytest.raises(Abandoned):
            storage.commit(draft, manifest({"model.bin": b"w"}))
        assert not storage.exists(PATH)
    else:  # it was faster
        storage.commit(draft, manifest({"model.bin": b"w"}))
        assert storage.verify(PATH)


def test_a_commit_that_gives_up_leaves_no_bytes_to_a_removal_that_took_it_for_done(
    storage: S3Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The removal looks before the manifest is there and after, the commit in between."""
    draft, content = storage.begin(PATH, "one"), manifest({"model.bin": b"w"})
    storage.write(draft, "model.bin", [b"w"])
    published, unmarked, seen, removed = (threading.Event() for _ in range(4))
    is_kept = S3Storage._is_kept

    def look(self: S3Storage, folder: str) -> bool:
        published.set()
        assert unmarked.wait(60)
        found = is_kept(self, folder)
        seen.set()
        assert removed.wait(60)
        return found

    def commit() -> None:
        commits.append(pool.submit(storage.commit, draft, content))
        assert published.wait(60)
        interleave(monkeypatch, "_is_committed", let_it_look)

    def let_it_look() -> None:
        unmarked.set()
        assert seen.wait(60)

    commits: list[Future[Committed]] = []
    monkeypatch.setattr(S3Storage, "_is_kept", look)
    interleave(monkeypatch, "_is_committed", commit)
    with ThreadPoolExecutor(1) as pool:
        storage.remove_drafts(*PATH[:2])
        removed.set()
        with pytest.raises(Abandoned):
            commits[0].result()
    assert seen.is_set() and not storage.exists(PATH)
    assert not [key for key in storage.bucket.entries("ckpts") if "/files/" in key]
    assert save(storage, {"model.bin": b"w"}) == PATH


def test_a_signed_draft_that_is_committed_takes_no_more(storage: S3Storage) -> None:
    draft = storage.begin(PATH, "one")
    storage.write(draft, "model.bin", [b"w"])
    storage.commit(draft, manifest({"model.bin": b"w"}))
    with pytest.raises(Damaged):
        storage.write(draft, "model.bin", [b"x"])
    with pytest.raises(Damaged):
        storage.sign_uploads(draft, manifest({"model.bin": b"x"}))


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"{}", b'{"format": 1}', b"\xff", b'{"format": 2}', b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_damaged_and_its_name_is_taken(
    storage: S3Storage, content: bytes
) -> None:
    storage.bucket.put(f"ckpts/exp_0a/run_0b/{PATH.name}/manifest.json", content)
    with pytest.raises(Damaged):
        storage.verify(PATH)
    assert save(storage, {"model.bin": b"w"}).name == "step-000100.2"
    storage.delete(PATH, None)
    assert not storage.exists(PATH)


def edited(content: bytes, edit: Callable[[dict[str, Any]], Any]) -> bytes:
    document = json.loads(content)
    edit(document)
    return json.dumps(document).encode()


def test_an_envelope_leads_to_no_objects_but_its_own(storage: S3Storage) -> None:
    path = save(storage, {"model.bin": b"w"})
    good = storage.bucket.get(key_of(storage.bucket, "manifest.json")) or b""
    hostile: Iterable[Callable[[dict[str, Any]], Any]] = (
        lambda d: d.update(draft="../other"),
        lambda d: d.update(nonce="../x"),
        lambda d: d.update(pieces={}),
        lambda d: d.update(pieces={"model.bin": [["files/../../x", 1, None]]}),
        lambda d: d.update(pieces={"model.bin": [["../x", 1, None]]}),
        lambda d: d.update(pieces={"model.bin": [["files/x", -1, None]]}),
        lambda d: d.update(pieces={"model.bin": [["files/x", 2, None]]}),
        lambda d: d.update(pieces={"model.bin": "files"}),
        lambda d: d.update(manifest="{}"),
        lambda d: d.update(manifest=7),
    )
    parse_envelope(path, good)
    for edit in hostile:
        with pytest.raises(Damaged):
            parse_envelope(path, edited(good, edit))


def test_a_url_is_one_of_a_bucket(tmp_path: Path) -> None:
    for url in ("s3:", "s3://", "s3://bucket?x=1", "s3://bucket#x"):
        with pytest.raises(ValueError, match="is not a URL like"):
            open_storage(url, tmp_path)
