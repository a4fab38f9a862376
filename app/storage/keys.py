"""The keys of checkpoints in an object store, and how files become objects.

ckpts/{experiment_id}/{run_id}/{name}/manifest.json    the commit: created once, or never
ckpts/…/{name}/{key}/files/{file}                      a file of the draft `key`, in one object
ckpts/…/{name}/{key}/parts/{file}/{offset}             or in several, by offset
ckpts/…/{name}/{key}/.draft, .committed                what the draft is
"""

import hashlib
import re
from collections.abc import Iterable, Iterator

from llm_train.manifest import File

from app.domain import paths
from app.domain.paths import CheckpointPath
from app.storage.base import MANIFEST, Damaged, Draft, is_key
from app.storage.objects import PIECE_BYTES

DRAFT, COMMITTED = ".draft", ".committed"
SIGNED_PIECE_BYTES = 5 << 30
"""The largest object that S3 takes in one request."""
_SEGMENT = r"[A-Za-z0-9_=+@,-][A-Za-z0-9._=+@,-]*"
_PLAIN = re.compile(rf"{_SEGMENT}(/{_SEGMENT})*")
_OFFSET = re.compile(r"[0-9]{15}")
_MAX_SLUG = 400


def run_folder(path: CheckpointPath) -> str:
    return f"ckpts/{path.experiment_id}/{path.run_id}"


def manifest_key(path: CheckpointPath) -> str:
    return f"{run_folder(path)}/{path.name}/{MANIFEST}"


def draft_folder(draft: Draft) -> str:
    return f"{run_folder(draft.path)}/{draft.path.name}/{draft.key}"


def draft_of(key: str) -> Draft | None:
    """Return the draft that an object belongs to; None for a manifest, and for other objects."""
    parts = key.split("/")
    if len(parts) < 6 or parts[0] != "ckpts" or not paths.is_name(parts[3]) or not is_key(parts[4]):
        return None
    return Draft(CheckpointPath(*parts[1:4]), parts[4])


def slug_of(path: str) -> str:
    """Return what stands for the path of a file in a key: itself, unless stores or URLs might take
    it for something else."""
    if len(path) <= _MAX_SLUG and _PLAIN.fullmatch(path):
        return path
    return f".hashed/{hashlib.sha256(path.encode()).hexdigest()}"


def plan_objects(folder: str, file: File) -> list[tuple[int, int, str]]:
    """Return the objects that a trainer writes of a file: offset, size and key."""
    slug, most = slug_of(file.path), SIGNED_PIECE_BYTES
    if file.size <= most:
        return [(0, file.size, f"{folder}/files/{slug}")]
    return [
        (at, min(most, file.size - at), part_key(folder, slug, at))
        for at in range(0, file.size, most)
    ]


def part_key(folder: str, slug: str, offset: int) -> str:
    return f"{folder}/parts/{slug}/{offset:015d}"


def parts_of(there: Iterable[str], folder: str, slug: str) -> dict[str, int]:
    """Return the objects of a file that is in several, with their offsets, in order."""
    prefix = f"{folder}/parts/{slug}/"
    by_key = {key: key[len(prefix) :] for key in there if key.startswith(prefix)}
    return {key: int(at) for key, at in sorted(by_key.items()) if _OFFSET.fullmatch(at)}


def slugs_of(there: Iterable[str], folder: str) -> set[str]:
    """Return the files of a draft, as they stand in keys."""
    names = [key.removeprefix(f"{folder}/").partition("/") for key in there]
    return {
        rest if kind == "files" else rest.rpartition("/")[0]
        for kind, _, rest in names
        if kind in ("files", "parts")
    }


def check_conflicts(path: str, others: set[str]) -> None:
    """Raise Damaged if a file would be below another one, or is the folder of one."""
    parents = {path[: slash.start()] for slash in re.finditer("/", path)}
    if not parents.isdisjoint(others) or any(other.startswith(f"{path}/") for other in others):
        raise Damaged(f"{path!r:.200} is a file and a folder.")


def in_pieces(content: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Yield the content in pieces of PIECE_BYTES; True with the last one, which may be smaller."""
    waiting = bytearray()
    for chunk in content:
        waiting += chunk
        while len(waiting) > PIECE_BYTES:
            yield bytes(waiting[:PIECE_BYTES]), False
            del waiting[:PIECE_BYTES]
    yield bytes(waiting), True
