"""Which data directory a database's runs live in: the two belong together.

A server that does not see the run directories would take launched runs for never begun, and
launch them again. So each data directory has a random name of its own, in its file `id`, and the
database holds the name of the one in which its runs are launched.

make(…)                the directory
once(…), identity(…)   the files
adopt(tx, …)           before a server leads
holds(tx, …)           in the transaction that claims a launch
foreign(tx, …)         at a server's start
"""

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import bindparam, insert, select, update

from app import files
from app.db.sql import Statement, Tx, columns, select_all
from app.db.tables import DataDir, Run
from app.domain.lifecycle import LAUNCHED
from app.errors import Unavailable

_ONE = 1
_MOST_BYTES = 4096
_data_dir, _run = columns(DataDir), columns(Run)
_SEEN = Statement(select_all(DataDir), DataDir)
_HELD = Statement(select_all(DataDir).with_for_update(), DataDir)
_SHARED = Statement(select_all(DataDir).with_for_update(read=True), DataDir)
_INSERT = Statement[Any](insert(DataDir))
_UPDATE = Statement[Any](update(DataDir).values(name=bindparam("name"), path=bindparam("path")))
_WRITE_AGAIN = Statement[Any](update(DataDir).values(path=_data_dir.path))
_UNDER_WAY = Statement[tuple[str]](
    select(_run.id)
    .where(_run.status.in_([each.value for each in sorted(LAUNCHED)]), _run.recipe.is_not(None))
    .limit(1)
)


class Adoption(NamedTuple):
    """Whether the data directory is the database's now, and which other one was before."""

    ours: bool
    before: DataDir | None = None


def make(data_dir: Path) -> None:
    """Makes the data directory. Raises OSError when runs could not be kept there."""
    with suppress(FileExistsError):
        data_dir.mkdir(parents=True, exist_ok=True)
    writable = os.access(data_dir, os.W_OK | os.X_OK)
    for number, fine in ((errno.ENOTDIR, data_dir.is_dir()), (errno.EACCES, writable)):
        if not fine:
            raise OSError(number, os.strerror(number), str(data_dir))


def once(data_dir: Path, name: str, text: str) -> str:
    """What a file of the data directory says, which is made when there is none."""
    with files.directory(data_dir, make=True) as folder:
        if not files.exists(folder, name):
            new = f".{name}-{secrets.token_hex(8)}"
            files.write(folder, new, text.encode())
            # A link, so that of two first starts one wins, and a crash leaves no empty file.
            with suppress(FileExistsError):
                os.link(new, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.unlink(new, dir_fd=folder)
        return files.read(folder, name, _MOST_BYTES).decode(errors="replace")


def named(data_dir: Path) -> str:
    """The name of a data directory, which gets one when it has none."""
    return once(data_dir, "id", secrets.token_hex(16))


def identity(data_dir: Path) -> str | None:
    """The name of a data directory. None: it is not there, or not the one that it was."""
    try:
        with files.directory(data_dir) as folder:
            return files.read(folder, "id", _MOST_BYTES).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError, files.Unusable):
        return None


def probe(data_dir: Path) -> None:
    """Write a file into the data directory and remove it. Raises OSError."""
    name = f".probe-{secrets.token_hex(8)}"
    with files.directory(data_dir) as folder:
        files.write(folder, name, b"?")
        os.unlink(name, dir_fd=folder)


def write_again(tx: Tx) -> None:
    """Write to the database what is there already."""
    tx.run(_WRITE_AGAIN)


def adopt(tx: Tx, name: str, path: str) -> Adoption:
    """Makes this the data directory of the database, unless runs are under way in another."""
    held = tx.first(_HELD)
    if held is None:
        tx.run(_INSERT, id=_ONE, name=name, path=path)
        return Adoption(True)
    if held.name == name:
        return Adoption(True)
    # Whoever is about to claim a launch waits for this transaction, or this one for theirs.
    if tx.first(_UNDER_WAY) is not None:
        return Adoption(False, held)
    tx.run(_UPDATE, name=name, path=path)
    return Adoption(True, held)


def holds(tx: Tx, name: str | None) -> bool:
    """Whether the database's runs are launched in this data directory, until the transaction
    ends; nobody has led where none is on record."""
    held = tx.first(_SHARED)
    return held is None or held.name == name


def foreign(tx: Tx, name: str | None) -> DataDir | None:
    """The data directory in which runs are under way, if it is not this one."""
    held = tx.first(_SEEN)
    if held is None or held.name == name or tx.first(_UNDER_WAY) is None:
        return None
    return held


def check(tx: Tx, name: str | None) -> None:
    """Whoever judges files must see those of the database. Raises Unavailable."""
    held = tx.first(_SEEN)
    if held is not None and held.name != name:
        raise Unavailable(
            "This is not the data directory of the database's runs: set LLM_TRAIN_DATA_DIR.",
            retry_after=5,
        )
