"""The data directory in which a database's runs are launched: one row, with its name.

adopt(tx, …)        before a server leads
holds(tx, …)        in the transaction that claims a launch
get_foreign(tx, …)  at a server's start

The directory itself and its name are in `app.storage.data_dir`.
"""

from typing import NamedTuple

from sqlalchemy import Executable, insert, select, update

from app.db.database import Database
from app.db.sql import Tx, columns, query, select_row, statement
from app.db.tables import DataDir, Run
from app.domain.lifecycle import LAUNCHED
from app.errors import Unavailable
from app.storage.base import CheckpointStorage
from app.storage.readers import Readers

_ONE = 1
_data_dir, _run = columns(DataDir), columns(Run)


class Held(NamedTuple):
    """The data directory on record: its name, and the path by which its server knows it."""

    name: str
    path: str


@query(Held)
def _seen() -> Executable:
    return select_row(DataDir, Held)


@query(Held)
def _held() -> Executable:
    return select_row(DataDir, Held).with_for_update()


@query(Held)
def _shared() -> Executable:
    return select_row(DataDir, Held).with_for_update(read=True)


@statement
def _insert(*, name: str, path: str) -> Executable:
    return insert(DataDir).values(id=_ONE, name=name, path=path)


@statement
def _update(*, name: str, path: str) -> Executable:
    return update(DataDir).values(name=name, path=path)


@statement
def _write_again() -> Executable:
    return update(DataDir).values(path=_data_dir.path)


@query(tuple[str])
def _under_way() -> Executable:
    return (
        select(_run.id)
        .where(
            _run.status.in_([status.value for status in sorted(LAUNCHED)]), _run.recipe.is_not(None)
        )
        .limit(1)
    )


class Adoption(NamedTuple):
    """`ours`: this is the database's data directory now. `before`: another one that was."""

    ours: bool
    before: Held | None = None


def write_again(tx: Tx) -> None:
    """Write to the database what is there already, to try whether it can be written."""
    tx.send(_write_again)


def adopt(tx: Tx, name: str, path: str) -> Adoption:
    """Make this the data directory of the database, unless runs are under way in another."""
    held = tx.first(_held)
    if held is None:
        tx.send(_insert, name=name, path=path)
        return Adoption(True)
    if held.name == name:
        return Adoption(True)
    # A claim of a launch shares this lock, so one of the two transactions waits.
    if tx.first(_under_way) is not None:
        return Adoption(False, held)
    tx.send(_update, name=name, path=path)
    return Adoption(True, held)


def holds(tx: Tx, name: str | None) -> bool:
    """Return True if the database's runs are launched in this data directory, until the
    transaction ends. None is on record before the first leader."""
    held = tx.first(_shared)
    return held is None or held.name == name


def get_foreign(tx: Tx, name: str | None) -> Held | None:
    """Return the data directory in which runs are under way, if it is not this one."""
    held = tx.first(_seen)
    if held is None or held.name == name or tx.first(_under_way) is None:
        return None
    return held


def get(tx: Tx) -> Held | None:
    """Return the data directory of the database; None before the first leader."""
    return tx.first(_seen)


async def require_in_place(db: Database, readers: Readers, storage: CheckpointStorage) -> None:
    """Raise Unavailable if the storage does not have the files that the database knows of."""
    held = await db.read(get)
    if held is not None and not await readers.run(storage.is_in_place, held.name):
        raise Unavailable(
            "This is not the data directory of the database's runs: set LLM_TRAIN_DATA_DIR.",
            retry_after=5,
        )
