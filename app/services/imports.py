"""Runs that come from another store: each is taken over once, with its own times.

    begin → log (app.services.tracking), as often as it takes → finish

An import that broke off is begun again: what was logged before is logged to the same values.
"""

from collections.abc import Mapping
from typing import Any

from app.db.sql import Tx
from app.db.tables import Run
from app.domain.evidence import Evidence
from app.domain.ids import timestamp
from app.domain.lifecycle import TERMINAL, RunStatus
from app.domain.tracking import moment
from app.errors import InvalidInput
from app.services import endings, labels, runs, tracking
from app.services.tracking import Writer

SCOPE = "import"
"""Scope of the names that runs have in the stores they come from."""
IMPORTED_FROM = "llm_train.imported_from"
"""The label that is such a name."""


def begin(
    tx: Tx, experiment: str, source: str, name: str, labelled: Mapping[str, str], started_ms: int
) -> Run:
    """Return the run that was made of another store's, which is created the first time.

    Args:
        experiment: its name; created if there is none.
        source: the run's name in the store it comes from, unique among all stores.
        started_ms: when it began there, in milliseconds since 1970.
    """
    known = labels.find_alias_target(tx, SCOPE, source)
    if known is not None:
        return runs.lock(tx, known)
    existing = tracking.get_or_create_experiment(tx, experiment)
    own = {**labelled, IMPORTED_FROM: source}
    run = tracking.create_run(tx, existing.id, name, own, heartbeat_seconds=0)
    if not labels.add_alias(tx, SCOPE, source, run.id):
        raise InvalidInput(f"{source} is being imported by somebody else.")
    started = moment(started_ms)
    return run if started is None else runs.change(tx, run, started_at=timestamp(started))


def finish(tx: Tx, run_id: str, status: str, ended_ms: int) -> Run:
    """Record how a run ended in the store it comes from. Called again, it changes nothing.

    Raises NotFound; InvalidInput for a run that was not imported, or a status that is no end.
    """
    run = runs.lock(tx, run_id)
    if IMPORTED_FROM not in labels.get_labels(tx, run_id):
        raise InvalidInput(f"Run {run_id} was not imported.")
    if status not in ("FINISHED", "FAILED", "KILLED"):
        raise InvalidInput(f"{status!r:.50} is not the end of a run.")
    if RunStatus(run.status) in TERMINAL:
        return run
    tracking.end(tx, Writer(run_id), status)
    endings.finish_attempt(tx, run_id, run.attempt, Evidence(False), None, frozenset())
    ended, changes = moment(ended_ms), dict[str, Any]()
    if ended is not None:
        changes["finished_at"] = timestamp(ended)
    return runs.change(tx, runs.get(tx, run_id), **changes) if changes else runs.get(tx, run_id)
