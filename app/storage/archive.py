"""A checkpoint as one tar archive, made while it is read: its manifest, then its files and links.

measure(…)   its size, which is known before
pack(…)      its bytes; each file is compared with the manifest on the way
check(…)     an archive that was received: whole, nothing changed, nothing besides

Whoever has the archive can check it without the service: the manifest has the SHA-256 of each
file, and the SHA-256 of the manifest is what the service knows the checkpoint by.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llm_train.checkpoint import CheckpointError, Manifest, parse
from llm_train.manifest import File

from app.domain.paths import CheckpointPath
from app.storage.base import MANIFEST, CheckpointStorage, Damaged

MAX_MANIFEST_BYTES = 64 * 1024 * 1024
_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_READ = 1024 * 1024


class Source(NamedTuple):
    """A checkpoint that is to be packed; `content`: its manifest.json, as it is stored."""

    path: CheckpointPath
    content: bytes
    manifest: Manifest


def open_source(storage: CheckpointStorage, path: CheckpointPath, sha256: str | None) -> Source:
    """Return a checkpoint with its manifest. Raises Damaged if that is not the one of `sha256`."""
    content = b"".join(storage.read(path, MANIFEST))
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(f"{path} holds another checkpoint than the one on record.")
    return Source(path, content, parse(content))


def measure(source: Source) -> int:
    """Return the size of the archive in bytes."""
    sizes = [len(header) + size + len(_padding(size)) for header, size in _headers(source)]
    return sum(sizes) + len(_END)


def pack(storage: CheckpointStorage, source: Source) -> Iterator[bytes]:
    """Yield the bytes of the archive. Raises Damaged at a file that is not the manifest's."""
    headers = iter(_headers(source))
    yield next(headers)[0] + source.content + _padding(len(source.content))
    for file in source.manifest.files:
        yield next(headers)[0]
        yield from _read_checked(storage, source.path, file)
        yield _padding(file.size)
    for header, _ in headers:
        yield header
    yield _END


def _read_checked(storage: CheckpointStorage, path: CheckpointPath, file: File) -> Iterator[bytes]:
    digest, size = hashlib.sha256(), 0
    for piece in storage.read(path, file.path):
        digest.update(piece)
        size += len(piece)
        if size > file.size:
            break  # a longer one would shift all that follows
        yield piece
    if size != file.size or digest.hexdigest() != file.sha256:
        raise Damaged(f"{file.path!r} of {path} is not what its manifest says.")


def _headers(source: Source) -> list[tuple[bytes, int]]:
    """Return the header of each member, and the size of what follows it."""
    manifest = source.manifest
    headers = [_header(source, MANIFEST, size=len(source.content))]
    headers += [_header(source, file.path, size=file.size) for file in manifest.files]
    headers += [
        _header(source, link.path, type=tarfile.SYMTYPE, linkname=link.target)
        for link in manifest.links
    ]
    return headers


def _header(source: Source, name: str, *, size: int = 0, **more: Any) -> tuple[bytes, int]:
    member = tarfile.TarInfo(f"{source.path.name}/{name}")
    member.size = size
    for key, value in more.items():
        setattr(member, key, value)
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"), size


def _padding(size: int) -> bytes:
    """Return what fills the last block of a member."""
    return bytes(-size % _BLOCK)


def check(file: Path, sha256: str | None = None) -> Manifest:
    """Return the manifest of an archive in which all is as that says.

    Args:
        sha256: of the manifest, as the service knows the checkpoint.

    Raises Damaged: something is missing, changed, or there besides.
    """
    try:
        with tarfile.open(file, "r:") as archive:
            members = iter(archive)
            first = next(members, None)
            folder, _, name = first.name.rpartition("/") if first else ("", "", "")
            if first is None or name != MANIFEST or not first.isreg():
                raise Damaged("The archive does not begin with a manifest.")
            if first.size > MAX_MANIFEST_BYTES:
                raise Damaged("The archive's manifest is too large.")
            content = _content(archive, first).read()
            if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
                raise Damaged("The archive is of another checkpoint.")
            manifest = parse(content)
            _check_members(archive, members, folder, manifest)
            return manifest
    except (tarfile.TarError, CheckpointError, EOFError) as error:
        raise Damaged(f"The archive is damaged: {error}") from error


def _check_members(
    archive: tarfile.TarFile, members: Iterator[tarfile.TarInfo], folder: str, manifest: Manifest
) -> None:
    files = {f"{folder}/{file.path}": file for file in manifest.files}
    links = {f"{folder}/{link.path}": link.target for link in manifest.links}
    for member in members:
        if member.issym() and links.pop(member.name, None) == member.linkname:
            continue
        file = files.pop(member.name, None) if member.isreg() else None
        if file is None:
            raise Damaged(f"The archive has {member.name!r}, which is not in its manifest.")
        digest, size, stream = hashlib.sha256(), 0, _content(archive, member)
        while piece := stream.read(_READ):
            digest.update(piece)
            size += len(piece)
        if size != file.size or digest.hexdigest() != file.sha256:
            raise Damaged(f"{member.name!r} is not what the manifest says.")
    if missing := [*files, *links]:
        raise Damaged(f"The archive lacks {missing[0]!r}.")


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    stream = archive.extractfile(member)
    assert stream is not None  # it is a plain file
    return stream
