"""Filters of lists as bound parameters, and the two ways to find a text among them.

A text that many rows have is found in the first rows of a list; one that few have is found by the
index of texts, which for a common one would return nearly all rows.
"""

import math
from collections.abc import Mapping
from typing import Any

from app.db.count_statements import first_few
from app.db.cursors import METRIC
from app.db.json_lists import dump_few, number_params
from app.db.list_statements import FOUND_BY, INDEXED, Listing
from app.db.search import GRAM, search_params
from app.db.sql import Tx, dump
from app.domain.ids import SHORTEST_END
from app.domain.texts import fold

Parent = tuple[str, str]
"""A column, and the id that it holds in the rows of a list."""

SEARCH = "search"
UNVALUED = ("active", "archived")
"""Conditions without a parameter."""
FEW = 2_000
"""Rows of a list that is short: all of it is read, whatever the order."""
PEEKED = 1_000
"""The newest rows, by which a text is known to be a usual one."""
LOOKED_AT = 4_000
"""The first rows of a long list, among which a page looks for those that match."""
MATCHES = 4_000
"""Rows that an index finds, and that are then sorted; more are met soon in the list's order."""


def bind(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters as bound parameters. Lists travel as JSON."""
    params: dict[str, Any] = {}
    for name, value in filters.items():
        assert name in listing.filters, name
        if name == METRIC:
            key, least, greatest = value
            params["filter_key"] = key
            params["filter_min"] = -math.inf if least is None else least
            params["filter_max"] = math.inf if greatest is None else greatest
        elif name == "hyperparam":
            key, least, greatest = value
            params |= number_params(key)
            params["param_min"] = -math.inf if least is None else least
            params["param_max"] = math.inf if greatest is None else greatest
        elif name == "id_ends":
            params |= {"id_ends": value, "id_end": value[-SHORTEST_END:]}
        elif name in UNVALUED:
            continue
        elif name == "tags":
            params[name] = dump_few(tx.dialect, value)
        elif name.startswith(SEARCH):
            params |= {"search_id": value, "search": fold(value)}
            if name in FOUND_BY:
                params |= search_params(tx.dialect, fold(value))
        else:
            params[name] = value if isinstance(value, str | bool) else dump(list(value))
    return params


def indexed_search(filters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the filters, with the way of finding a text in a long list."""
    short = len(fold(filters[SEARCH])) < GRAM
    return with_search(filters, "search_short" if short else "search_match")


def count_hits(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any], most: int) -> int:
    """Return how many rows of the table the index of texts finds, counted up to `most`."""
    (name,) = FOUND_BY & filters.keys()
    assert listing.matches is not None
    asked = search_params(tx.dialect, fold(filters[name]))
    row = tx.first(listing.matches[name], **asked, most=most)
    return row[0] if row else 0


def first_hits(tx: Tx, listing: Listing[Any], text: str, most: int) -> tuple[list[str], bool]:
    """Return the ids of rows with a text among the first `most` that the index of texts finds.

    True beside them: it finds more than that.
    """
    assert listing.hits is not None
    (name,) = FOUND_BY & indexed_search({SEARCH: text}).keys()
    asked = search_params(tx.dialect, fold(text)) | {"search": fold(text), "most": most + 1}
    rows = tx.all(listing.hits[name], **asked)
    return [id for id, place in rows[:most] if place], len(rows) > most


def with_search(filters: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the filters with one way of finding a text: the filter `name` of the list."""
    rest = {key: value for key, value in filters.items() if key != SEARCH}
    return rest | {name: filters[SEARCH]}


def is_short(tx: Tx, listing: Listing[Any], filters: Mapping[str, Any]) -> bool:
    """Return True if few rows pass the filters that have an index."""
    if any(name in filters for name in (*INDEXED, "id_ends")):
        return True
    if "experiment_id" not in filters:
        return False
    row = tx.first(first_few(listing), experiment_id=filters["experiment_id"], few=FEW)
    return row is not None and row[0] < FEW
