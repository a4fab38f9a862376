"""Counts and facets over more runs than anybody reads: true, and bounded where they say so."""

import pytest

from app.db import groups, keyset
from app.db.cursors import Order, Window
from app.db.groups import RunFacet
from app.db.listing import RUNS
from app.db.sql import Tx
from app.domain.filters import AnyRunFilter, conditions
from app.domain.requests import ExperimentRequest, RunRequest, UpdateRunRequest
from app.services import edits, experiments, runs
from tests.services.conftest import Write

MANY = 1_200


def fill(tx: Tx) -> str:
    """Make runs of three models; every tenth is cancelled, and every hundredth archived."""
    experiment = experiments.create(tx, ExperimentRequest(name="many", task_type="t", owner="ada"))
    for number in range(MANY):
        request = RunRequest(model=f"m{number % 3}", tags=[f"t{number % 2}"])
        run = runs.submit(tx, experiment.id, request, {})
        if number % 10 == 0:
            runs.cancel(tx, run.id)
        if number % 100 == 0:
            edits.update_run(tx, run.id, UpdateRunRequest(archived=True))
    return experiment.id


def test_more_than_a_thousand_runs_are_counted_truly(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = write(fill)
    active, every = (
        conditions(AnyRunFilter, AnyRunFilter.model_validate({"experiment_id": experiment} | more))
        for more in ({}, {"archived": None})
    )
    assert dict(write(groups.by_status, active)) == {"queued": 1_080, "cancelled": 108}
    assert dict(write(groups.by_status, every)) == {"queued": 1_080, "cancelled": 120}
    assert dict(write(groups.by_status_of, [experiment])[0]) == {"queued": 1_080, "cancelled": 108}
    assert write(keyset.count, RUNS, active) == MANY - 12
    assert write(keyset.count, RUNS, every) == MANY
    assert write(keyset.counts, RUNS, "experiment_id", [experiment], active | {}) == [MANY - 12]
    page = write(keyset.page, RUNS, active, Order("created_at"), Window(500))
    assert len(page.rows) == 500 and page.has_next

    models = dict(write(groups.facet, RunFacet.MODEL, every, "", 10))
    assert models == {"m0": 400, "m1": 400, "m2": 400}
    assert dict(write(groups.facet, RunFacet.TAG, every, "t1", 10)) == {"t1": 600}
    assert dict(write(groups.facet, RunFacet.OWNER, every, "", 10)) == {"ada": MANY}
    monkeypatch.setattr(groups, "NEWEST", 300)
    models = dict(write(groups.facet, RunFacet.MODEL, every, "", 10))
    assert sum(models.values()) == 300, "the newest alone are looked at"
