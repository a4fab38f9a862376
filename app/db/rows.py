"""Light rows: what the pages of long lists are made of, and the changes that a table takes.

A light row is a named tuple of a table's columns, made straight of the driver's tuple. It is no
object of the table: it cannot be changed or written. An object costs ten times as much, which a
page of fifty runs with ten checkpoints each would show. `AnyRun` is either.

`rows.pyi` declares all this to type checkers, column by column. `python -m tests.support.rows`
writes it from the tables, and a test compares.

A summary row lacks the columns that a run at a glance is not made of.
"""

from collections import namedtuple
from collections.abc import Sequence
from typing import Any

from app.db import tables
from app.db.objects import Table, column_names


def _row(table: type[Table], kind: str = "Row", without: Sequence[str] = ()) -> Any:
    names = [name for name in column_names(table) if name not in without]
    return namedtuple(f"{table.__name__}{kind}", names)


ExperimentRow = _row(tables.Experiment)
RunRow = _row(tables.Run)
RunSummaryRow = _row(tables.Run, "SummaryRow", without=(
    "root_run_id", "source_checkpoint_id", "source_ckpt_path", "source_attempt", "dataset",
    "hyperparams", "source", "resources", "notes", "preemptions", "start_step", "last_batch",
    "finished", "gpus", "nonce", "sessions", "session_closed", "history_bytes", "host",
    "launcher", "engine_id", "submitted_at", "claimed_at", "settled_step", "termination_reason",
    "termination_detail", "pace_clock", "promised_checkpoint_id", "heartbeat_seconds",
    "launched_at", "cancel_requested_at", "gpus_held", "log_removed_at", "points_thinned_at",
    "points_removed_at",
))  # fmt: skip
CheckpointRow = _row(tables.Checkpoint)
EventRow = _row(tables.Event)
MetricLatestRow = _row(tables.MetricLatest, without=("experiment_id",))
ProjectRow = _row(tables.Project)

AnyExperiment = tables.Experiment | ExperimentRow
AnyRun = tables.Run | RunRow
AnyRunSummary = AnyRun | RunSummaryRow
AnyCheckpoint = tables.Checkpoint | CheckpointRow
AnyEvent = tables.Event | EventRow
AnyMetricLatest = tables.MetricLatest | MetricLatestRow

ExperimentChanges = RunChanges = CheckpointChanges = AttemptChanges = dict
WebhookChanges = WebhookDeliveryChanges = LoggedModelChanges = dict
