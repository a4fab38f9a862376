"""The secret that signs run tokens: one row of the database, so that every server signs alike.

Until 0003 it was a file of the data directory, which servers need not share. The file of the first
server that starts is taken over, so that the tokens of external trainers stay valid.
"""

from pathlib import Path

from sqlalchemy import Executable, insert, select

from app.db.sql import Tx, columns, query, statement
from app.db.tables import ServiceSecret

_ONE = 1


@query(tuple[str])
def _kept() -> Executable:
    return select(columns(ServiceSecret).secret)


@statement
def _keep(*, secret: str) -> Executable:
    return insert(ServiceSecret).values(id=_ONE, secret=secret)


def get(tx: Tx) -> str | None:
    """Return the secret; None before the first server has kept one."""
    row = tx.first(_kept)
    return row[0] if row is not None else None


def keep(tx: Tx, secret: str) -> str:
    """Return the secret, which is `secret` from now on if there was none."""
    kept = get(tx)
    if kept is None:
        tx.run(_keep, secret=secret)
    return kept or secret


def read_file(data_dir: Path) -> str | None:
    """Return the secret of an earlier version's data directory. Raises OSError."""
    try:
        return (data_dir / "secret").read_text() or None
    except FileNotFoundError:
        return None
