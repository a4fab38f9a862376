"""The manifest.json of a checkpoint in an object store: format 2.

It holds the manifest of the trainer, byte for byte, so that the checkpoint has the same SHA-256 in
every storage, and lists the objects of its draft with the ETags that they had at the commit.
"""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from llm_train.manifest import CheckpointError, Manifest, parse

from app.domain import paths
from app.domain.paths import CheckpointPath
from app.storage.base import Damaged, Draft, is_key


class Piece(NamedTuple):
    """One object of a checkpoint: below its draft, or with a whole key where it is signed."""

    key: str
    size: int
    tag: str | None = None


class Envelope(NamedTuple):
    """A manifest.json of format 2: what is committed, and the objects of its draft."""

    draft: Draft
    content: bytes
    manifest: Manifest
    pieces: Mapping[str, list[Piece]]

    def dump(self) -> bytes:
        return json.dumps({
            "format": 2,
            "draft": self.draft.path.name,
            "nonce": self.draft.key,
            "pieces": {file: pieces for file, pieces in self.pieces.items()},
            "manifest": self.content.decode(),
        }).encode()  # fmt: skip


def parse_envelope(path: CheckpointPath, content: bytes) -> Envelope:
    """Return what a manifest.json of format 2 says. Raises Damaged."""
    try:
        data = json.loads(content)
        if data["format"] != 2 or not paths.is_name(data["draft"]) or not is_key(data["nonce"]):
            raise ValueError("its format")
        inner = data["manifest"].encode()
        manifest = parse(inner)
        pieces = {str(file): _read_pieces(listed) for file, listed in data["pieces"].items()}
        for file in manifest.files:
            if sum(piece.size for piece in pieces[file.path]) != file.size:
                raise ValueError(f"the size of {file.path!r:.200}")
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
        CheckpointError,
    ) as error:
        raise Damaged(f"The manifest.json of {path} cannot be read: {error}.") from None
    draft = Draft(path._replace(name=data["draft"]), data["nonce"])
    return Envelope(draft, inner, manifest, pieces)


def _read_pieces(listed: Any) -> list[Piece]:
    """Raises ValueError, TypeError."""
    pieces = [Piece(str(key), size, tag) for key, size, tag in listed]
    for key, size, tag in pieces:
        if not key.startswith(("files/", "parts/")) or ".." in key.split("/"):
            raise ValueError("its objects")
        if type(size) is not int or size < 0 or not (tag is None or isinstance(tag, str)):
            raise ValueError("its objects")
    return pieces
