"""Rare values of runs found by an index that the list does not walk: of texts, tags and metrics.

Runs of an owner, a project or a type that has few are those of its experiments.

A model, a recipe or a name is part of the text that a run is found by, so the index of texts finds
the few runs that may have it; the condition itself decides.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Executable, bindparam, literal_column, or_, select, true

from app.db import counting, matching, tally
from app.db.cursors import METRIC
from app.db.json_lists import listed, one_of
from app.db.list_statements import FOUND_BY, INDEXED, Listing, unwalked
from app.db.matching import SEARCH, bind, count_hits, indexed_search
from app.db.seen import MERGED, OF_EXPERIMENT, RUNS_OF
from app.db.sql import Tx, columns, dump, query
from app.db.tables import ACTIVE, ExperimentTag, MetricLatest, Run, RunTag

TEXTS = ("name", "recipe", "model")
"""Filters by the whole of a value that is in the searchable text of a run."""

MERGED_RUNS = 10_000
"""Runs of experiments whose lists are read one by one and merged."""

OF_ONE = ("experiment_id", *OF_EXPERIMENT)
_tag, _latest, _of_experiment = columns(RunTag), columns(MetricLatest), columns(ExperimentTag)
_run = columns(Run)
_MOST: Any = literal_column(f"{matching.MATCHES}")


@query(tuple[str])
def _tagged(*, tag: str, most: int) -> Executable:
    return select(_tag.run_id).where(_tag.tag == tag).limit(most)


@query(tuple[str])
def _tagged_experiment(*, tag: str) -> Executable:
    return select(_of_experiment.experiment_id).where(_of_experiment.tag == tag).limit(1)


@query(tuple[str])
def _within(*, key: str, least: float, greatest: float, most: int) -> Executable:
    of_key = select(_latest.run_id).where(_latest.key == key)
    return of_key.where(_latest.value >= least, _latest.value <= greatest).limit(most)


@query(tuple[str])
def _archived(*, within: str, most: int) -> Executable:
    # An index of an experiment would have to be read for those of its runs that are archived.
    own = or_(bindparam("within") == "", unwalked(_run.experiment_id) == within)
    return select(_run.id).where(_run.archived_at.is_not(None), own).limit(most)


@query(tuple[str])
def _active_on_sqlite(*, experiments: str) -> Executable:
    return select(_run.id).where(one_of(_run.experiment_id, experiments), ACTIVE)


@query(tuple[str])
def _active_on_postgresql(*, experiments: str) -> Executable:
    # It takes active runs for few, and would read those of all experiments.
    parents = listed(experiments)
    own = select(_run.id).where(_run.experiment_id == parents.c.value, ACTIVE)
    active = own.limit(_MOST).lateral("active")
    return select(active.c.id).select_from(parents.join(active, true()))


_ACTIVE_OF = {"sqlite": _active_on_sqlite, "postgresql": _active_on_postgresql}


def narrow(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the filters with one by which an index finds fewer than `MATCHES` rows.

    None where no index does.
    """
    for text in _texts(listing, filters):
        searched = indexed_search({**filters, SEARCH: text})
        if count_hits(tx, listing, searched, matching.MATCHES) < matching.MATCHES:
            return searched
    if SEARCH in filters:
        return None
    found = _of_found(_ids(tx, listing, filters)) if listing.table is Run else None
    return of_few(tx, listing, filters) if found is None else found


def of_tagged(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the filters with the ids of all runs that have one of the tags, where these are few.

    None but for a list of an experiment that is not short: in such a one the tags of each run would
    be looked up, twice in the order of a metric.
    """
    if not (_decides("tags", listing, filters) and "experiment_id" in filters):
        return None
    if matching.is_short(tx, listing, filters):
        return None
    return _of_found(_tagged_ids(tx, filters))


def _texts(listing: Listing[Any], filters: Mapping[str, Any]) -> Iterator[str]:
    if SEARCH in filters:
        yield filters[SEARCH]
    elif listing.table is Run:
        yield from (filters[name] for name in TEXTS if name in filters)


_Found = Iterator[tuple[dict[str, Any], list[str]]]
"""The filters without the one by which runs were looked up, and the ids of up to `MATCHES` runs."""


def _ids(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]) -> _Found:
    """Look up all runs with a tag, or within a range."""
    yield from _tagged_ids(tx, filters)
    if METRIC in filters:
        within = bind(tx, listing, {METRIC: filters[METRIC]})
        rows = tx.all(
            _within, key=within["filter_key"], least=within["filter_min"],
            greatest=within["filter_max"], most=matching.MATCHES,
        )  # fmt: skip
        yield _without(METRIC, filters), [row[0] for row in rows]


def _tagged_ids(tx: Tx, filters: Mapping[str, Any]) -> _Found:
    """Look up all runs with each tag that no experiment has."""
    tags = filters.get("tags", ())
    for tag in tags:
        if tx.first(_tagged_experiment, tag=tag) is None:  # whose runs have it as well
            rows = tx.all(_tagged, tag=tag, most=matching.MATCHES)
            others = [other for other in tags if other != tag]
            rest = _without("tags", filters)
            yield {**rest, "tags": others} if others else rest, [row[0] for row in rows]


def _without(name: str, filters: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in filters.items() if key != name}


def _of_found(found: _Found) -> dict[str, Any] | None:
    """Return the first of these filters with the ids of runs, where they are fewer than `MATCHES`.

    The filter by which these were looked up is not among them: every one of the runs passes it.
    """
    few = next(((rest, ids) for rest, ids in found if len(ids) < matching.MATCHES), None)
    return None if few is None else {**few[0], "found": few[1]}


def of_few(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the filters with the ids of all runs of an owner, a project or a type of few runs.

    Or of an experiment, where those that are not archived are asked for, and are few. None where
    there are many, or none of these is asked for.
    """
    of = {name: filters[name] for name in (*OF_ONE, "active") if name in filters}
    if listing.table is not Run or not of.keys() - {"active"}:
        return None
    having = tally.experiments(tx, Run, frozenset(of), bind(tx, listing, of))
    if sum(number for _, number in having) >= matching.MATCHES:
        return None
    runs = _ACTIVE_OF[tx.dialect] if "active" in of else RUNS_OF[tx.dialect]
    rows = tx.all(runs, experiments=dump([id for id, _ in having]))
    return {**filters, "found": [row[0] for row in rows]}


def of_experiments(
    tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]
) -> list[dict[str, Any]] | None:
    """Return the filters once for each experiment of an owner, a project or a type.

    None where these are many, or where their runs are too many to look for a value that none has.
    """
    of = {name: filters[name] for name in (*OF_ONE, "active") if name in filters}
    having = tally.experiments(tx, Run, frozenset(of), bind(tx, listing, of))
    if len(having) > MERGED or sum(number for _, number in having) > MERGED_RUNS:
        return None
    rest = {name: value for name, value in filters.items() if name not in OF_EXPERIMENT}
    return [{**rest, "experiment_id": id} for id, _ in having]


def _decides(name: str, listing: Listing[Any], filters: Mapping[str, Any]) -> bool:
    """Return True if runs are asked for by a filter, and by none that finds them by an index."""
    found_by = (SEARCH, *FOUND_BY, *INDEXED)
    return listing.table is Run and name in filters and filters.keys().isdisjoint(found_by)


def of_active(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the filters with the ids of all active runs, where nearly all of many are archived.

    None where that is not so, or where other runs are asked for, too.
    """
    if not _decides("active", listing, filters):
        return None
    of = {name: filters[name] for name in OF_ONE if name in filters}
    if not of:
        return None
    if tally.total(tx, Run, frozenset(of), bind(tx, listing, of)) <= counting.READ:
        return None
    return of_few(tx, listing, filters)


def of_archived(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the filters with the ids of all archived runs, where few of very many are archived.

    None where that is not so, or where other runs are asked for, too.
    """
    if not _decides("archived", listing, filters):
        return None
    if not counting.is_long(tx, listing, filters):
        return None
    within = filters.get("experiment_id", "")
    rows = tx.all(_archived, within=within, most=matching.MATCHES)
    if len(rows) >= matching.MATCHES:
        return None
    return {**filters, "found": [row[0] for row in rows]}
