"""Light rows: what the pages of long lists are made of, and the changes that a table takes.

A light row is a named tuple of a table's columns, made straight of the driver's tuple. It is no
object of the table: it cannot be changed or written. An object costs ten times as much, which a
page of fifty runs with ten checkpoints each would show. `AnyRun` is either.

`rows.pyi` declares all this to type checkers, column by column. `python -m tests.support.rows`
writes it from the tables, and a test compares.
"""

from collections import namedtuple
from typing import Any

from app.db import tables
from app.db.objects import Table, column_names


def _row(table: type[Table]) -> Any:
    return namedtuple(f"{table.__name__}Row", column_names(table))


ExperimentRow = _row(tables.Experiment)
RunRow = _row(tables.Run)
CheckpointRow = _row(tables.Checkpoint)
EventRow = _row(tables.Event)
MetricLatestRow = _row(tables.MetricLatest)
ProjectRow = _row(tables.Project)

AnyExperiment = tables.Experiment | ExperimentRow
AnyRun = tables.Run | RunRow
AnyCheckpoint = tables.Checkpoint | CheckpointRow
AnyEvent = tables.Event | EventRow
AnyMetricLatest = tables.MetricLatest | MetricLatestRow

ExperimentChanges = RunChanges = CheckpointChanges = AttemptChanges = dict
WebhookChanges = WebhookDeliveryChanges = LoggedModelChanges = dict
