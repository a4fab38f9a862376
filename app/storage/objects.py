"""A bucket as the storages see it: keys below one prefix, by `obstore`, with one sort of trouble.

    bucket = Bucket.open("s3://bucket/prefix", {"endpoint": "https://…"})
    bucket.create("a/manifest.json", content)      False if there is one already

Nothing may be concluded from CheckpointUnreadable: the bucket is away, or access is denied. That
an object is missing is certain only while the bucket has the mark of the service (`identity`): one
that was removed, or a mistyped prefix, answers "not found" for every key. S3, GCS and Azure have
the same verbs here; only S3 is tested.
"""

import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, NamedTuple

import obstore
from llm_train.threads import run_all
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError
from obstore.store import from_url

from app.errors import CheckpointUnreadable

IDENTITY = ".llm-train/id"
_PROBE = ".llm-train/probe-"
RACERS, RACES = 16, 8
PIECE_BYTES = 16 << 20
"""What is written in one request, and held in memory for that."""
READ_BYTES = 4 << 20
_CLIENT = {
    "connect_timeout": timedelta(seconds=5),
    "read_timeout": timedelta(seconds=60),
    "timeout": timedelta(hours=2),  # it includes the body, which may be 5 GiB
}
_RETRY = {"max_retries": 4, "retry_timeout": timedelta(seconds=30)}


class Entry(NamedTuple):
    """An object of the bucket. `tag` changes with its content; None: the store has none."""

    size: int
    tag: str | None
    modified_at: float
    """Seconds since 1970, by the store's clock."""


class Bucket:
    """Objects below the prefix of a URL. Methods block; each may be called by any thread.

    All raise CheckpointUnreadable if the store does not answer, or refuses.
    """

    def __init__(self, store: Any, url: str) -> None:
        self._store, self.url = store, url

    @classmethod
    def open(cls, url: str, options: Mapping[str, str]) -> "Bucket":
        """Return the bucket of a URL. No request is sent. Raises ValueError.

        Credentials are those of the environment, as the store's own tools find them (AWS_*, an
        instance's role).
        """
        client: dict[str, Any] = dict(_CLIENT)
        if options.get("endpoint", "").startswith("http://"):
            client["allow_http"] = True
        try:
            store = from_url(url, client_options=client, retry_config=_RETRY, **options)  # type: ignore[call-overload]
        except (BaseError, ValueError, TypeError) as error:
            raise ValueError(f"{url!r:.200}: {_first_line(error)}") from None
        return cls(store, url)

    def get(self, key: str) -> bytes | None:
        """Return a small object; None if there is none."""
        with self._answering(key):
            try:
                return bytes(obstore.get(self._store, key).bytes())
            except FileNotFoundError:
                return None

    def head(self, key: str) -> Entry | None:
        """Return what is known of an object; None if there is none."""
        with self._answering(key):
            try:
                return _entry(obstore.head(self._store, key))
            except FileNotFoundError:
                return None

    def stream(self, key: str, offset: int = 0) -> Iterator[bytes]:
        """Yield an object from `offset` on. Raises FileNotFoundError."""
        with self._answering(key):
            if offset:
                got = obstore.get(self._store, key, options={"range": {"offset": offset}})
            else:
                got = obstore.get(self._store, key)
            for piece in got.stream(min_chunk_size=READ_BYTES):
                yield bytes(piece)

    def put(self, key: str, content: bytes) -> None:
        """Write an object, in the place of one that is there."""
        with self._answering(key):
            obstore.put(self._store, key, content, use_multipart=False)

    def put_stream(self, key: str, content: Iterator[bytes]) -> None:
        """Write an object of any size; it is there when all of it has come."""
        with self._answering(key):
            obstore.put(self._store, key, content, chunk_size=PIECE_BYTES, max_concurrency=4)

    def create(self, key: str, content: bytes) -> bool:
        """Write an object unless there is one; return whether this call has.

        False may also mean that an answer was lost and the object is ours: compare it.
        """
        with self._answering(key):
            try:
                obstore.put(self._store, key, content, mode="create")
            except (AlreadyExistsError, PreconditionError):
                return False
            return True

    def entries(self, prefix: str) -> dict[str, Entry]:
        """Return the objects below a folder by key, sorted. It may lack what was written lately."""
        with self._answering(prefix):
            try:
                pages = obstore.list(self._store, prefix, chunk_size=1000)
                by_key = {meta["path"]: _entry(meta) for page in pages for meta in page}
            except FileNotFoundError:  # some stores know no empty folders
                by_key = {}
        return dict(sorted(by_key.items()))

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the keys of the folders directly in a folder."""
        with self._answering(prefix):
            return obstore.list_with_delimiter(self._store, prefix)["common_prefixes"]

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; one that is not there is not an error."""
        wanted = list(dict.fromkeys(keys))
        for first in range(0, len(wanted), 1000):
            many = wanted[first : first + 1000]
            try:
                obstore.delete(self._store, many)
            except (FileNotFoundError, BaseError):
                # A store may refuse some of many for a moment; obstore tries again only one.
                for key in many:
                    with self._answering(key), suppress(FileNotFoundError):
                        obstore.delete(self._store, key)

    def sign(self, method: str, keys: Sequence[str], seconds: float) -> list[str]:
        """Return URLs that allow one method on each key, for a while, without credentials."""
        with self._answering(keys[0] if keys else ""):
            if not keys:
                return []
            lasts = timedelta(seconds=seconds)
            return list(obstore.sign(self._store, method, list(keys), lasts))  # type: ignore[call-overload]

    def probe(self, races: int = RACES) -> None:
        """Raise ValueError unless of many writers that create an object at once one wins.

        Some servers ignore If-None-Match: two trainers would overwrite each other's commit. Others
        (such as OpenStack Swift) heed it only if nobody else writes: one try may find nothing.
        """
        for _ in range(races):
            self._race_writers()

    def _race_writers(self) -> None:
        key = f"{_PROBE}{secrets.token_hex(8)}"
        racers = range(RACERS)
        winners = run_all(lambda number: self.create(key, b"%d" % number), racers, RACERS)
        won, content = winners.count(True), self.get(key)
        again = self.create(key, b"late")
        self.delete([key])
        # None may have won: each one's answer was lost, and its retry was refused.
        if won > 1 or again or content is None or (won and content != b"%d" % winners.index(True)):
            raise ValueError(
                f"LLM_TRAIN_STORAGE: {self.url} cannot keep checkpoints: of {RACERS} writers that "
                f"created one object at once, {max(won, int(again) + 1)} were told that they did; "
                "use a store that honours If-None-Match"
            )

    def identity(self, proposed: str | None = None) -> str | None:
        """Return the name in the bucket, `proposed` if it had none; None: it has none."""
        content = self.get(IDENTITY)
        if content is None and proposed is not None:
            self.create(IDENTITY, proposed.encode())
            content = self.get(IDENTITY)
        return None if content is None else content.decode(errors="replace")

    @contextmanager
    def _answering(self, key: str) -> Iterator[None]:
        try:
            yield
        except BaseError as error:
            raise CheckpointUnreadable(
                f"The object store does not answer for {key!r:.200}: {_first_line(error)}.",
                retry_after=5,
            ) from error


def _entry(meta: Any) -> Entry:
    return Entry(meta["size"], meta["e_tag"], meta["last_modified"].timestamp())


def _first_line(error: BaseException) -> str:
    """Return the first line of an error, which may go on with a page of the server's."""
    text = str(error).partition("\n")[0].rstrip(". ")
    return text if len(text) <= 300 else f"{text[:300]}…"
