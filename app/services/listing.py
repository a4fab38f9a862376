"""Lists of experiments, runs, checkpoints and events: filters, orders, keyset pages.

`page` reads one page of one list, `pages` the same page of the lists of many parents in
one statement, `count` and `counts` their lengths. A cursor is the place of a row in its
order, so a page neither repeats nor skips a row when others come or go. Rows that lack
the value they are ordered by come last, in either direction.
"""

import base64
import binascii
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Generic, NamedTuple, TypeVar, cast

import orjson
from sqlalchemy import Select, and_, bindparam, exists, func, null, or_, select, true, tuple_
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlmodel import SQLModel

from app.errors import InvalidInput
from app.store.sql import Statement, Tx, columns, dump, row_type
from app.store.tables import Checkpoint, Event, Experiment, ExperimentTag, MetricLatest, Run

RowT = TypeVar("RowT", bound=SQLModel)

MOST = 100


class _Listed(FunctionElement[Any]):
    """The strings of a JSON list as a table, so that one statement serves any number."""

    inherit_cache = True
    name = "listed"


@compiles(_Listed, "sqlite")
def _sqlite(element: Any, compiler: Any, **options: Any) -> str:
    return f"json_each({compiler.process(element.clauses, **options)})"


@compiles(_Listed, "postgresql")
def _postgresql(element: Any, compiler: Any, **options: Any) -> str:
    return f"json_array_elements_text(CAST({compiler.process(element.clauses, **options)} AS json))"


def listed(name: str) -> Any:
    """A table with one column `value`: the strings of the JSON list bound to `name`."""
    return _Listed(bindparam(name)).table_valued("value", name=name)


def _one_of(column: Any, name: str) -> Any:
    return column.in_(select(listed(name).c.value))


def _contains(*texts: Any) -> Any:
    return or_(*(text.ilike(bindparam("search"), escape="\\") for text in texts))


def _tagged(experiment_id: Any) -> Any:
    """The experiment has every one of the tags."""
    tags, held = listed("tags"), columns(ExperimentTag)
    has = exists().where(held.tag == tags.c.value, held.experiment_id == experiment_id)
    return ~exists(select(tags.c.value).where(~has))


def _equal(table: Any, *names: str) -> dict[str, Any]:
    return {name: getattr(table, name) == bindparam(name) for name in names}


def _within(column: Any, after: str, before: str) -> dict[str, Any]:
    return {after: column >= bindparam(after), before: column < bindparam(before)}


_experiment = columns(Experiment)
_run = columns(Run)
_checkpoint = columns(Checkpoint)
_event = columns(Event)
_latest = columns(MetricLatest)
_of_run = and_(_latest.run_id == _run.id, _latest.key == bindparam("metric_key"))


@dataclass(frozen=True, eq=False)
class Listing(Generic[RowT]):
    """What one table can be listed by: its orders, filters and tie-breaking key."""

    table: type[RowT]
    tie: Any
    orders: Mapping[str, Any]
    filters: Mapping[str, Any]

    @property
    def columns(self) -> Any:
        return columns(self.table)


EXPERIMENTS = Listing(
    Experiment,
    _experiment.id,
    {"created_at": _experiment.created_at, "name": _experiment.name},
    _equal(_experiment, "task_type", "owner", "base_model")
    | _within(_experiment.created_at, "created_after", "created_before")
    | {
        "tags": _tagged(_experiment.id),
        "search": _contains(
            _experiment.id, _experiment.name, _experiment.goal, _experiment.owner,
            _experiment.base_model, _experiment.task_type,
        ),
    },
)  # fmt: skip
RUNS = Listing(
    Run,
    _run.id,
    {
        "created_at": _run.created_at,
        "started_at": _run.started_at,
        "finished_at": _run.finished_at,
        "step": _run.step,
        "metric": _latest.value,
    },
    _equal(_run, "experiment_id", "recipe", "root_run_id", "parent_run_id")
    | _within(_run.created_at, "created_after", "created_before")
    | {
        "status": _one_of(_run.status, "status"),
        "tags": _tagged(_run.experiment_id),
        "metric": exists().where(
            _latest.run_id == _run.id,
            _latest.key == bindparam("filter_key"),
            _latest.value >= bindparam("filter_min"),
            _latest.value <= bindparam("filter_max"),
        ),
        "search": _contains(_run.id, _run.model, _run.recipe, _run.notes),
    }
    | {
        name: exists().where(
            _experiment.id == _run.experiment_id, getattr(_experiment, name) == bindparam(name)
        )
        for name in ("task_type", "owner")
    },
)
CHECKPOINTS = Listing(
    Checkpoint,
    _checkpoint.id,
    {
        "created_at": _checkpoint.created_at,
        "marked_at": _checkpoint.marked_at,
        "step": _checkpoint.step,
    },
    _equal(_checkpoint, "experiment_id", "run_id", "tag_type", "release_tag")
    | {
        "state": _one_of(_checkpoint.state, "state"),
        "marked": (_checkpoint.marked_at.is_not(None)) == bindparam("marked"),
    },
)
EVENTS = Listing(
    Event, _event.seq, {"seq": _event.seq}, _equal(_event, "experiment_id", "run_id", "type")
)


class Order(NamedTuple):
    """By what a list is sorted. `metric_key` goes with the field `metric` alone."""

    field: str
    descending: bool = True
    metric_key: str | None = None


class Window(NamedTuple):
    """Which page: `size` rows after or before a cursor, from the end when `backward`."""

    size: int = 50
    after: str | None = None
    before: str | None = None
    backward: bool = False


class Page(NamedTuple, Generic[RowT]):
    """One page. `keys` holds what each row is sorted by; `cursor` makes a cursor of it."""

    rows: list[RowT]
    keys: list[Any]
    order: Order
    has_next: bool
    has_previous: bool

    def cursor(self, index: int) -> str:
        """The cursor of a row of this page."""
        row: Any = self.rows[index]
        key = self.keys[index]
        # JSON has no infinities; their repr is a number to `float` all the same.
        value = repr(key) if isinstance(key, float) else key
        place = [self.order.field, self.order.metric_key, value, getattr(row, "id", key)]
        return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def _place(cursor: str, order: Order, argument: str) -> tuple[Any, Any]:
    """What a cursor stands for: the sort value and the tie-breaker. Raises InvalidInput."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        field, metric_key, value, tie = orjson.loads(base64.b64decode(padded, b"-_", True))
        if (field, metric_key) != (order.field, order.metric_key):
            raise ValueError
        if field == "metric" and value is not None:
            value = float(value)
        kind: Any = {"metric": float, "step": int, "seq": int}.get(field, str)
        if not isinstance(value, kind | None) or not isinstance(
            tie, int if field == "seq" else str
        ):
            raise ValueError
        if any(isinstance(part, int) and not -(2**63) <= part < 2**63 for part in (value, tie)):
            raise ValueError
        if any(isinstance(part, str) and "\x00" in part for part in (value, tie)):
            raise ValueError
    except (ValueError, TypeError, binascii.Error):
        raise InvalidInput(
            f"{argument!r} is not a cursor of this list in this order; "
            "take one from its pageInfo or edges.",
            errors=[{"pointer": f"/{argument}", "detail": "not a cursor of this list"}],
        ) from None
    return value, tie


class _Shape(NamedTuple):
    """All that makes one statement differ from another."""

    listing: Listing[Any]
    filters: frozenset[str]
    field: str
    downward: bool
    # The rows that have the value they are ordered by, or those that lack it.
    valued: bool
    # Of "low" and "high": the places, exclusive, that the page lies between.
    bounds: frozenset[str]
    # The column that says whose list a row is in, where many lists are read at once.
    parent: str | None = None
    dialect: str = ""


def _nullable(listing: Listing[Any], field: str) -> bool:
    return field == "metric" or bool(listing.orders[field].nullable)


@cache
def _statement(shape: _Shape) -> Statement[Any]:
    """Rows of one page: the parent if there are many, the columns, the sort value."""
    listing, metric = shape.listing, shape.field == "metric"
    sort, tie = listing.orders[shape.field], listing.tie
    if metric and shape.valued:
        tie = _latest.run_id  # so that the index on values gives the order
    query = select(*listing.columns, (sort if shape.valued else null()).label("sort"))
    query = query.where(*(listing.filters[name] for name in sorted(shape.filters)))
    if metric and shape.valued:
        query = query.join(MetricLatest, _of_run).where(sort.is_not(None))
    elif metric:
        query = query.where(~exists().where(_of_run, sort.is_not(None)))
    elif _nullable(listing, shape.field):
        query = query.where(sort.is_not(None) if shape.valued else sort.is_(None))
    key = tuple_(sort, tie) if shape.valued else tie
    for bound in sorted(shape.bounds):
        place: Any = bindparam(f"{bound}_tie")
        if shape.valued:
            place = tuple_(bindparam(f"{bound}_value"), place)
        query = query.where(key > place if bound == "low" else key < place)
    by = [sort, tie] if shape.valued else [tie]
    query = query.order_by(*(column.desc() if shape.downward else column for column in by))
    query = query.limit(bindparam("most"))
    return Statement(query if shape.parent is None else _of_each(query, tie, shape))


def _of_each(query: Select[Any], tie: Any, shape: _Shape) -> Select[Any]:
    """The first rows of `query` for each parent, found through the index of each.

    A window function would read every row of every parent. SQLite has no LATERAL; there a
    correlated list of keys is the same walk.
    """
    parents = listed("parents")
    own = query.where(getattr(shape.listing.columns, shape.parent or "") == parents.c.value)
    page: Any
    sort: Any
    if shape.dialect == "postgresql":
        page = own.lateral("page")
        return select(parents.c.value, *page.c).select_from(parents.join(page, true()))
    table = cast(Any, shape.listing.table).__table__
    page = table.alias("page")
    keys = own.with_only_columns(tie, maintain_column_froms=True).correlate(parents)
    found = page.c[shape.listing.tie.name].in_(keys)
    if shape.listing is EVENTS:
        found = and_(page.c.experiment_id == parents.c.value, found)
    if not shape.valued:
        sort = null()
    elif shape.field == "metric":
        value = select(_latest.value).where(
            _latest.run_id == page.c.id, _latest.key == bindparam("metric_key")
        )
        sort = value.scalar_subquery()
    else:
        sort = page.c[shape.listing.orders[shape.field].name]
    by = [
        column.desc() if shape.downward else column
        for column in (sort, page.c[shape.listing.tie.name])
    ]
    return (
        select(parents.c.value, *page.c, sort.label("sort"))
        .select_from(parents.join(page, found))
        .order_by(*by)
    )


@cache
def _count(listing: Listing[Any], filters: frozenset[str], parent: str | None) -> Statement[Any]:
    conditions = [listing.filters[name] for name in sorted(filters)]
    if parent is None:
        return Statement(select(func.count()).select_from(listing.table).where(*conditions))
    column = getattr(listing.columns, parent)
    return Statement(
        select(column, func.count()).where(*conditions, _one_of(column, "parents")).group_by(column)
    )


def _params(listing: Listing[Any], filters: Mapping[str, Any]) -> dict[str, Any]:
    """The filters as bound parameters. Lists travel as JSON."""
    params: dict[str, Any] = {}
    for name, value in filters.items():
        assert name in listing.filters, name
        if name == "metric":
            key, least, greatest = value
            params["filter_key"] = key
            params["filter_min"] = -math.inf if least is None else least
            params["filter_max"] = math.inf if greatest is None else greatest
        elif name == "search":
            params[name] = "%" + re.sub(r"([\\%_])", r"\\\1", value) + "%"
        else:
            params[name] = value if isinstance(value, str | bool) else dump(list(value))
    return params


class _Part(NamedTuple):
    """One statement of a page, and its parameters."""

    shape: _Shape
    params: dict[str, Any]


def _parts(
    listing: Listing[Any], filters: Mapping[str, Any], order: Order, window: Window
) -> list[_Part]:
    """The statements that make a page: first those that have a sort value, then the rest."""
    params = _params(listing, filters) | {"most": window.size + 1}
    if order.field == "metric":
        params["metric_key"] = order.metric_key
    parts = []
    for valued in (True, False) if _nullable(listing, order.field) else (True,):
        bounds: dict[str, Any] = {}
        beyond = False
        for cursor, argument in ((window.after, "after"), (window.before, "before")):
            if cursor is None:
                continue
            value, tie = _place(cursor, order, argument)
            if (value is not None) == valued:
                side = "low" if (argument == "after") != order.descending else "high"
                bounds |= {f"{side}_tie": tie} | ({f"{side}_value": value} if valued else {})
            elif valued == (argument == "after"):
                beyond = True
        if not beyond:
            names = frozenset(name.partition("_")[0] for name in bounds)
            downward = order.descending != window.backward
            shape = _Shape(listing, frozenset(filters), order.field, downward, valued, names)
            parts.append(_Part(shape, params | bounds))
    return parts[::-1] if window.backward else parts


def _page(found: list[Any], order: Order, window: Window, make: Any) -> Page[Any]:
    more = len(found) > window.size
    del found[window.size :]
    if window.backward:
        found.reverse()
    return Page(
        [make(row[:-1]) for row in found],
        [row[-1] for row in found],
        order,
        more if not window.backward else window.before is not None,
        more if window.backward else window.after is not None,
    )


def page(
    tx: Tx, listing: Listing[RowT], filters: Mapping[str, Any], order: Order, window: Window
) -> Page[RowT]:
    """One page of a list. Raises InvalidInput for a cursor that is not of this list."""
    found: list[Any] = []
    for shape, params in _parts(listing, filters, order, window):
        if len(found) <= window.size:
            found += tx.all(_statement(shape), **params)
    return _page(found, order, window, cast(Any, row_type(listing.table))._make)


def pages(
    tx: Tx,
    listing: Listing[RowT],
    parent: str,
    parents: Sequence[str],
    filters: Mapping[str, Any],
    order: Order,
    window: Window,
) -> list[Page[RowT]]:
    """The same page of the list of each parent: the rows whose column `parent` holds its id."""
    if len(parents) == 1:
        return [page(tx, listing, {**filters, parent: parents[0]}, order, window)]
    found: dict[str, list[Any]] = {each: [] for each in parents}
    for shape, params in _parts(listing, filters, order, window):
        shape = shape._replace(parent=parent, dialect=tx.dialect)
        for row in tx.all(_statement(shape), parents=dump(list(parents)), **params):
            found[row[0]].append(row[1:])
    make = cast(Any, row_type(listing.table))._make
    return [_page(found[each], order, window, make) for each in parents]


def count(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]) -> int:
    """How many rows a list has."""
    row = tx.first(_count(listing, frozenset(filters), None), **_params(listing, filters))
    return int(row[0]) if row else 0


def counts(
    tx: Tx, listing: Listing[Any], parent: str, parents: Sequence[str], filters: Mapping[str, Any]
) -> list[int]:
    """How many rows the list of each parent has."""
    statement = _count(listing, frozenset(filters), parent)
    params = _params(listing, filters) | {"parents": dump(list(parents))}
    found: dict[str, int] = dict(tx.all(statement, **params))
    return [found.get(each, 0) for each in parents]


@cache
def _many(column: Any, table: type[SQLModel]) -> Statement[Any]:
    return Statement(select(*columns(table)).where(_one_of(column, "ids")), table)


def by_ids(tx: Tx, table: type[RowT], ids: Sequence[str]) -> list[RowT | None]:
    """The rows with these ids, None where there is none."""
    rows = tx.all(_many(columns(table).id, table), ids=dump(list(ids)))
    found = {row.id: row for row in rows}
    return [found.get(each) for each in ids]


def latest_metrics(tx: Tx, run_ids: Sequence[str]) -> list[list[MetricLatest]]:
    """The latest value of each key of each run, by key."""
    found: dict[str, list[MetricLatest]] = {each: [] for each in run_ids}
    for row in tx.all(_many(_latest.run_id, MetricLatest), ids=dump(list(run_ids))):
        found[row.run_id].append(row)
    return [sorted(rows, key=lambda row: row.key) for rows in found.values()]
