"""Numbers of runs and checkpoints, counted when they change and not when they are read.

    trigger on `run`, `checkpoint`   one row of `tally` for a change: +1 here, -1 where it was
    total, by_state                  the sum of those rows, in one statement: exact in any snapshot
    compact                          the leading server replaces rows of one group by their sum

Adding a row blocks nobody; one counter that each submit raised would be a lock that all submits of
an experiment wait for. Triggers count every write: use cases, imports, restores, deletions. Counts
by anything the rows do not hold (a model, a text) still read the table.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Executable, delete, exists, func, insert, select
from sqlalchemy.sql.expression import bindparam

from app.db.json_lists import one_of
from app.db.sql import Statement, Tx, columns, dump, query, statement
from app.db.tables import Experiment, Tally

MERGED = 20_000
"""Rows added up by one transaction. Where a million have been written at once it takes 0.2 s, in
which SQLite admits no other write."""
FEW = 200
"""So many rows more cost a sum nothing."""

_ARCHIVED = {"run": "{0}.archived_at IS NOT NULL", "checkpoint": "{0}.state IS NULL"}
_STATE = {"run": "status", "checkpoint": "state"}
_tally = columns(Tally)
_experiment = columns(Experiment)


def _add(listed: str, row: str, number: str) -> str:
    archived = _ARCHIVED[listed].format(row)
    return (
        "INSERT INTO tally (listed, experiment_id, state, archived, number)"  # noqa: S608
        f" VALUES ('{listed}', {row}.experiment_id, {row}.{_STATE[listed]},"
        f" CASE WHEN {archived} THEN 1 ELSE 0 END, {number});"
    )


def _changed(listed: str) -> tuple[str, str]:
    """Return the columns whose change may move a row to another group, and when it does."""
    state, archived = _STATE[listed], _ARCHIVED[listed]
    moved = f"old.{state} <> new.{state}"
    if listed == "checkpoint":
        return state, moved
    was, now = (f"({archived.format(row)})" for row in ("old", "new"))
    return f"{state}, archived_at", f"{moved} OR {was} <> {now}"


def sqlite_triggers(listed: str) -> Iterator[str]:
    """Yield the statements that let SQLite count the rows of a table."""
    of, moved = _changed(listed)
    more, less = _add(listed, "new", "1"), _add(listed, "old", "-1")
    yield f"CREATE TRIGGER {listed}_tally_added AFTER INSERT ON {listed} BEGIN {more} END"
    yield f"CREATE TRIGGER {listed}_tally_removed AFTER DELETE ON {listed} BEGIN {less} END"
    yield (
        f"CREATE TRIGGER {listed}_tally_moved AFTER UPDATE OF {of} ON {listed}"
        f" WHEN {moved} BEGIN {less} {more} END"
    )


def postgresql_triggers(listed: str) -> Iterator[str]:
    """Yield the statements that let PostgreSQL count the rows of a table."""
    of, moved = _changed(listed)
    more, less = _add(listed, "new", "1"), _add(listed, "old", "-1")
    yield (
        f"CREATE FUNCTION {listed}_tally() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF TG_OP <> 'INSERT' THEN {less} END IF; IF TG_OP <> 'DELETE' THEN {more} END IF;"
        " RETURN NULL; END $$"
    )
    yield (
        f"CREATE TRIGGER {listed}_tally AFTER INSERT OR DELETE ON {listed}"
        f" FOR EACH ROW EXECUTE FUNCTION {listed}_tally()"
    )
    yield (
        f"CREATE TRIGGER {listed}_tally_moved AFTER UPDATE OF {of} ON {listed}"
        f" FOR EACH ROW WHEN ({moved}) EXECUTE FUNCTION {listed}_tally()"
    )


def create_triggers(connection: Connection) -> None:
    """Let a database that has just got its tables count their rows."""
    on_sqlite = connection.dialect.name == "sqlite"
    for listed in _STATE:
        for text in (sqlite_triggers if on_sqlite else postgresql_triggers)(listed):
            connection.exec_driver_sql(text)


CONDITIONS: dict[str, Any] = {
    "experiment_id": _tally.experiment_id == bindparam("experiment_id"),
    "status": one_of(_tally.state, "status"),
    "state": one_of(_tally.state, "state"),
    "active": _tally.archived == 0,
    "archived": _tally.archived == 1,
} | {
    name: exists().where(
        _experiment.id == _tally.experiment_id, getattr(_experiment, name) == bindparam(name)
    )
    for name in ("task_type", "owner", "project_id")
}
"""Filters of lists that the tally knows, with the parameters that they have there."""
_FILTERS = {
    "run": CONDITIONS.keys() - {"state"},
    "checkpoint": {"experiment_id", "state"},
}


def covers(table: Any, filters: Mapping[str, Any]) -> bool:
    """Return True if the rows of a table that pass these filters are counted."""
    known = _FILTERS.get(table.__tablename__)
    return known is not None and filters.keys() <= known


def total(tx: Tx, table: Any, filters: frozenset[str], params: Mapping[str, Any]) -> int:
    """Return how many rows of a table pass filters that are covered."""
    row = tx.first(_total(filters), listed=table.__tablename__, **params)
    return int((row and row[0]) or 0)


@query(tuple[str, str, int])
def _everything() -> Executable:
    sums = select(_tally.listed, _tally.state, func.sum(_tally.number))
    return sums.group_by(_tally.listed, _tally.state)


def count_by_state(tx: Tx) -> dict[tuple[str, str], int]:
    """Return how many rows there are, by table and state."""
    rows = tx.all(_everything)
    return {(listed, state): int(number) for listed, state, number in rows if number}


def experiments(
    tx: Tx, table: Any, filters: frozenset[str], params: Mapping[str, Any]
) -> list[tuple[str, int]]:
    """Return the experiments that have such rows, and how many."""
    return tx.all(_by_experiment(filters), listed=table.__tablename__, **params)


def totals(
    tx: Tx, table: Any, ids: Sequence[str], filters: frozenset[str], params: Mapping[str, Any]
) -> list[int]:
    """Return the same of each of these experiments."""
    own = {"listed": table.__tablename__, "tallied": dump(list(ids))}
    numbers = dict(tx.all(_totals(filters), **own, **params))
    return [int(numbers.get(id, 0)) for id in ids]


def by_state(
    tx: Tx, table: Any, filters: frozenset[str], params: Mapping[str, Any]
) -> list[tuple[str, int]]:
    """Return how many of the same are in each state; those with none are left out."""
    return tx.all(_by_state(filters), listed=table.__tablename__, **params)


def by_state_of(tx: Tx, table: Any, ids: Sequence[str]) -> list[tuple[str, str, int]]:
    """Return experiment, state and number of rows that are not archived."""
    return tx.all(_BY_STATE_OF, listed=table.__tablename__, tallied=dump(list(ids)))


_number = func.sum(_tally.number)
_listed = _tally.listed == bindparam("listed")
_of = one_of(_tally.experiment_id, "tallied")


def _where(filters: frozenset[str]) -> list[Any]:
    return [_listed, *(CONDITIONS[name] for name in sorted(filters))]


@lru_cache(128)
def _total(filters: frozenset[str]) -> Statement[tuple[int | None]]:
    return Statement(select(_number).where(*_where(filters)))


@lru_cache(128)
def _by_experiment(filters: frozenset[str]) -> Statement[tuple[str, int]]:
    counted = select(_tally.experiment_id, _number).where(*_where(filters))
    return Statement(counted.group_by(_tally.experiment_id).having(_number > 0))


@lru_cache(128)
def _totals(filters: frozenset[str]) -> Statement[tuple[str, int]]:
    counted = select(_tally.experiment_id, _number).where(_of, *_where(filters))
    return Statement(counted.group_by(_tally.experiment_id))


@lru_cache(128)
def _by_state(filters: frozenset[str]) -> Statement[tuple[str, int]]:
    counted = select(_tally.state, _number).where(*_where(filters))
    return Statement(counted.group_by(_tally.state).having(_number > 0))


_BY_STATE_OF = Statement[tuple[str, str, int]](
    select(_tally.experiment_id, _tally.state, _number)
    .where(_listed, _of, CONDITIONS["active"])
    .group_by(_tally.experiment_id, _tally.state)
    .having(_number > 0)
)


@query(tuple[int, str])
def _newer(*, mark: int, most: int) -> Executable:
    rows = select(_tally.id, _tally.experiment_id).where(_tally.id > mark)
    return rows.order_by(_tally.id).limit(most)


@query(tuple[str, str, str, int])
def _repeated(*, tallied: str, upto: int) -> Executable:
    group = (_tally.listed, _tally.experiment_id, _tally.state, _tally.archived)
    counted = select(*group).where(one_of(_tally.experiment_id, tallied), _tally.id <= upto)
    return counted.group_by(*group).having(func.count() > 1)


@query(tuple[int])
def _take(*, listed: str, experiment: str, state: str, archived: int, upto: int) -> Executable:
    return (
        delete(Tally)
        .where(
            _tally.listed == listed, _tally.experiment_id == experiment,
            _tally.state == state, _tally.archived == archived, _tally.id <= upto,
        )
        .returning(_tally.number)
    )  # fmt: skip


@statement
def _put(*, listed: str, experiment: str, state: str, archived: int, number: int) -> Executable:
    row = {"listed": listed, "experiment_id": experiment, "state": state, "archived": archived}
    return insert(Tally).values(row | {"number": number}).inline()


def compact(tx: Tx, mark: int) -> int:
    """Replace rows of one group by their sum; return the id up to which that was done.

    The same as `mark` if there is little to do. No other transaction waits for it: rows are only
    ever changed here.
    """
    newer = tx.all(_newer, mark=mark, most=MERGED)
    if len(newer) < FEW:
        return mark
    upto = newer[-1][0]
    touched = dump(sorted({experiment for _, experiment in newer}))
    for listed, experiment, state, archived in tx.all(_repeated, tallied=touched, upto=upto):
        rows = tx.all(
            _take, listed=listed, experiment=experiment, state=state, archived=archived, upto=upto
        )
        if number := sum(row[0] for row in rows):
            tx.send(
                _put, listed=listed, experiment=experiment, state=state, archived=archived,
                number=number,
            )  # fmt: skip
    return upto
