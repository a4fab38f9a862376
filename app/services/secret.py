"""The secret that signs run tokens: one row of the database, so that every server signs alike.

Until 0003 it was a file of the data directory, which servers need not share. The file of the first
server that starts is taken over, so that the tokens of external trainers stay valid.
"""

from pathlib import Path

from sqlalchemy import Executable

from app.db.sql import Tx, query, select_all
from app.db.tables import ServiceSecret

_ONE = 1


@query(ServiceSecret)
def _kept() -> Executable:
    return select_all(ServiceSecret)


def get(tx: Tx) -> str | None:
    """Return the secret; None before the first server has kept one."""
    row = tx.first(_kept)
    return row.secret if row is not None else None


def keep(tx: Tx, secret: str) -> str:
    """Return the secret, which is `secret` from now on if there was none."""
    kept = get(tx)
    if kept is None:
        tx.insert(ServiceSecret(id=_ONE, secret=secret))
    return kept or secret


def read_file(data_dir: Path) -> str | None:
    """Return the secret of an earlier version's data directory. Raises OSError."""
    try:
        return (data_dir / "secret").read_text() or None
    except FileNotFoundError:
        return None
