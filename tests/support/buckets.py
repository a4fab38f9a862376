"""Buckets for tests: in memory, or of the server that LLM_TRAIN_TEST_S3 names (its URL)."""

import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from app.storage.buckets import MARK, StagedBucket, open_bucket
from app.storage.objects import RACES, Bucket
from app.storage.s3 import S3Storage

SERVER = "LLM_TRAIN_TEST_S3"
UNRACED = "LLM_TRAIN_TEST_S3_UNRACED"
"""Set where that server lets several writers of one key win, and one at a time is to be tried."""
NAME = "checkpoints"
"""The bucket, which the server has."""


class Unraced(Bucket):
    """A bucket that nobody asks what it does when several create one object at once."""

    def probe(self, races: int = RACES) -> None:
        """Find nothing."""


def make_bucket() -> Bucket:
    """Return a bucket, or a prefix of one, in which nothing is."""
    if (server := os.environ.get(SERVER)) is None:
        return Bucket(MemoryStore(), "memory:")
    return open_bucket(f"s3://{NAME}/{secrets.token_hex(8)}", endpoint=server)


def store_in(bucket: Bucket, data_dir: Path, *, attested: bool = False) -> S3Storage:
    data_dir.mkdir(parents=True, exist_ok=True)
    store = S3Storage(bucket, data_dir / MARK, attested=attested)
    if UNRACED in os.environ:
        store.bucket = Unraced(bucket._store, bucket.url)
    store.prepare()
    return store


def staged_in(bucket: Bucket, data_dir: Path) -> StagedBucket:
    return StagedBucket(store_in(bucket, data_dir), data_dir)


def key_of(bucket: Bucket, end: str) -> str:
    """Return the key of the only object that ends so."""
    (key,) = [key for key in bucket.entries("ckpts") if key.endswith(end)]
    return key


def damage(bucket: Bucket, how: str) -> None:
    """As by a bad disk, or a hand: of a checkpoint with the file "model.bin"."""
    model = key_of(bucket, "/files/model.bin")
    if how == "changed":
        content = bucket.get(model) or b""
        bucket.put(model, bytes([content[0] ^ 1]) + content[1:])
    elif how == "extra":
        bucket.put(model.replace("model.bin", "more.bin"), b"W")
    elif how == "missing":
        bucket.delete([model])
    else:
        bucket.delete([key_of(bucket, "/manifest.json")])


def interleave(patch: pytest.MonkeyPatch, name: str, other: Callable[[], Any]) -> None:
    """Let something happen once, right after the storage's method of this name."""
    method = getattr(S3Storage, name)

    def then(self: S3Storage, *args: Any) -> Any:
        answer = method(self, *args)
        patch.setattr(S3Storage, name, method)
        other()
        return answer

    patch.setattr(S3Storage, name, then)
