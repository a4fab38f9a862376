"""`llm-train backup` and `llm-train restore`: everything the service knows, in one directory.

    FOLDER/manifest.json     written last: version, schema, row counts, each file's size and SHA-256
    FOLDER/database/…        a file of JSON lines for each table
    FOLDER/data/…            the data directory: checkpoints, logs, specs

A backup may be made while servers write: the rows are one snapshot, and a committed checkpoint
never changes. The rows are read before the files, so every checkpoint that the rows call ready was
committed when its files are copied; only retention may have deleted it in between, and it is
named then.
"""

import hashlib
import os
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import orjson

from app.db import copying, migrate
from app.db.connect import connect
from app.db.sql import Tx
from app.domain.evidence import Evidence
from app.domain.ids import timestamp
from app.domain.lifecycle import Reason
from app.errors import Unavailable
from app.services import checkpoints, endings, live_runs
from app.settings import Settings
from app.version import VERSION

MANIFEST = "manifest.json"
_FORMAT = 1
_BLOCK = 1 << 20
_TEMPORARY = (".tmp-", ".trash-", ".probe-", ".id-")
"""Names that a draft of a checkpoint has, and what is being deleted."""


class Copied(NamedTuple):
    """The contents of a backup, or of a finished restore."""

    rows: int
    files: int
    size_bytes: int
    missing: list[str]
    """Files that were deleted while the backup was made."""


def backup(settings: Settings, folder: Path, *, with_files: bool) -> Copied:
    """Copy the database, and with `with_files` the data directory, into a new folder.

    Raises Unavailable in one sentence; what was written until then is left without a manifest,
    and is no backup.
    """
    connect(settings.database_url)  # knows what is wrong with a URL
    try:
        folder.mkdir(parents=True, mode=0o700)
    except FileExistsError:
        raise Unavailable(f"{folder} exists; a backup is made in a new folder") from None
    rows = folder / "database"
    rows.mkdir()
    made_at = timestamp()
    counts = copying.export_rows(settings.database_url, rows)
    tree = _Tree()
    if with_files:
        _copy_tree(settings.data_dir, folder / "data", tree, {folder, *_database_files(settings)})
    manifest = {
        "format": _FORMAT,
        "version": VERSION,
        "schema": migrate.HEAD,
        "made_at": made_at,
        "with_files": with_files,
        "rows": counts,
        "database": {file.name: _digest(file) for file in sorted(rows.iterdir())},
        "data": tree.files,
        "links": tree.links,
    }
    with (folder / MANIFEST).open("xb") as file:
        file.write(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        os.fsync(file.fileno())
    return _summary(manifest, tree.missing)


def restore(settings: Settings, folder: Path) -> Copied:
    """Bring a backup back: into an empty database and a data directory that does not exist.

    Every file is compared with its SHA-256. Runs that had a trainer end as `lost`: what it did
    since then is not known. Raises Unavailable in one sentence, and leaves no rows then.
    """
    connect(settings.database_url)  # knows what is wrong with a URL
    manifest = _read_manifest(folder)
    if migrate.revision(settings.database_url) is not None:
        raise Unavailable("the database is not empty; a backup is restored into a new one")
    if manifest["with_files"] and settings.data_dir.is_dir() and any(settings.data_dir.iterdir()):
        raise Unavailable(f"the data directory {settings.data_dir} is not empty")
    for name, written in manifest["database"].items():
        _compare(folder / "database" / name, _digest(folder / "database" / name), written)
    for name, written in manifest["data"].items():
        source, target = folder / "data" / name, settings.data_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        _compare(source, _copy(source, target), written)
    for name, aim in manifest["links"].items():
        (settings.data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (settings.data_dir / name).symlink_to(aim)
    why = f"Restored from a backup of {manifest['made_at']}; what it did since is not known."
    copying.import_rows(
        settings.database_url, folder / "database", manifest["schema"], partial(_end_launched, why)
    )
    return _summary(manifest, [])


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = orjson.loads((folder / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise Unavailable(f"{folder} is no complete backup: it has no {MANIFEST}") from None
    if manifest.get("format") != _FORMAT:
        raise Unavailable(f"{folder} is a backup of a newer version of this service")
    return manifest


def _summary(manifest: dict[str, Any], missing: list[str]) -> Copied:
    files = [*manifest["database"].values(), *manifest["data"].values()]
    size = sum(written[0] for written in files)
    return Copied(sum(manifest["rows"].values()), len(manifest["data"]), size, missing)


@dataclass
class _Tree:
    """The files of a data directory, by their paths in it."""

    files: dict[str, list[Any]] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def _database_files(settings: Settings) -> list[Path]:
    """Return the files of a SQLite database, which may lie in the data directory."""
    if not settings.database_url.startswith("sqlite:///"):
        return []
    path = Path(settings.database_url.removeprefix("sqlite:///"))
    return [path.with_name(path.name + suffix) for suffix in ("", "-wal", "-shm", "-owner")]


def _copy_tree(source: Path, target: Path, tree: _Tree, left_out: set[Path]) -> None:
    """Copy regular files and links; leave out drafts, and what no checkpoint can hold."""
    left_out = {path.resolve() for path in left_out}
    target.mkdir(exist_ok=True)
    for parent, folders, names in os.walk(source):
        here = Path(parent).resolve()
        skipped = {name for name in (*folders, *names) if name.startswith(_TEMPORARY)}
        skipped |= {path.name for path in left_out if path.parent == here}
        folders[:] = sorted({*folders} - skipped)
        inside = Path(parent).relative_to(source)
        (target / inside).mkdir(exist_ok=True)
        for name in sorted({*names, *folders} - skipped):
            path, relative = Path(parent, name), str(inside / name)
            try:
                if path.is_symlink():
                    tree.links[relative] = str(path.readlink())
                elif path.is_file():
                    tree.files[relative] = _copy(path, target / relative)
            except FileNotFoundError:
                tree.missing.append(relative)


def _copy(source: Path, target: Path) -> list[Any]:
    """Copy one file to the disk; return its size and SHA-256."""
    # A trainer may put a link or a FIFO in a file's place at any time.
    descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as reader, target.open("xb") as writer:
        written = _digest_of(reader, writer)
        os.fsync(writer.fileno())
    return written


def _digest(path: Path) -> list[Any]:
    with path.open("rb") as file:
        return _digest_of(file)


def _digest_of(reader: BinaryIO, writer: BinaryIO | None = None) -> list[Any]:
    sha256, size = hashlib.sha256(), 0
    while block := reader.read(_BLOCK):
        sha256.update(block)
        size += len(block)
        if writer is not None:
            writer.write(block)
    return [size, sha256.hexdigest()]


def _compare(path: Path, copied: list[Any], written: list[Any]) -> None:
    if copied != written:
        raise Unavailable(f"{path} is not as it was written")


def _end_launched(why: str, tx: Tx) -> None:
    """End every run that had a trainer: neither its process nor its later points are here."""
    for run in live_runs.list_launched(tx):
        lost = Evidence(cancel_asked=False, is_lost=True, ended_by_service=Reason.LOST, why=why)
        pending = {checkpoint.id for checkpoint in checkpoints.lock_pending(tx, run.id)}
        endings.finish_attempt(tx, run.id, run.attempt, lost, None, pending)
