"""REST and GraphQL cannot drift apart: both list with the same filters, limits and orders."""

from dataclasses import fields
from typing import Any, get_args

import pytest

from app.db import listing
from app.db.list_statements import Listing
from app.domain import filters
from app.graphql import filters as inputs
from app.rest import lists

RANGES = {f"{name}{end}" for name in filters.RANGES for end in ("", "_min", "_max")}


def names(input: type) -> set[str]:
    """The fields of a GraphQL input, a metric's range spread out."""
    found = {field.name for field in fields(input)}
    return found | RANGES if "metric" in found else found


LISTS: list[Any] = [
    (listing.EXPERIMENTS, lists.ExperimentsQuery, inputs.ExperimentFilter, filters.ExperimentFilter,
     inputs.ExperimentOrderField),
    (listing.RUNS, lists.RunsQuery, inputs.RunFilter, filters.RunFilter, inputs.RunOrderField),
    (listing.CHECKPOINTS, lists.CheckpointsQuery, inputs.CheckpointFilter, filters.CheckpointFilter,
     inputs.CheckpointOrderField),
    (listing.EVENTS, lists.EventsQuery, inputs.EventFilter, filters.EventFilter, None),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "query", "input", "shared", "order"), LISTS)
def test_both_apis_list_by_the_same_filters_and_orders(
    rows: Listing[Any], query: Any, input: Any, shared: Any, order: Any
) -> None:
    paging = {"limit", "after", "order", "metric_key", "keys"}
    assert set(query.model_fields) - paging == set(shared.model_fields)
    # REST has the experiment in its path.
    assert names(input) - {"experiment_id"} == set(shared.model_fields)
    known = {name for name in rows.filters if not name.startswith("search_")} - {"found"}
    known |= {"search"} if "search_walk" in rows.filters else set()
    known |= RANGES if "metric" in known else set()
    # Archived or not is one question, and two conditions. Who watches experiments asks by ids.
    known -= {"experiment_id", "active", *({"ids"} if rows is listing.EXPERIMENTS else ())}
    assert known == set(shared.model_fields)
    orders = {each.removeprefix("-") for each in get_args(query.model_fields["order"].annotation)}
    assert orders == set(rows.orders)
    assert order is None or {each.value for each in order} == orders
