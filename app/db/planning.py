"""What the planner of PostgreSQL is told, and is not, so that it reads as little as a page needs.

Rows lie on the disk in the order of their creation. From the statistics of such a column the
planner knows that, and takes a walk of all runs by it for cheaper than that of one experiment,
whose index it thinks scattered. A page of an experiment then passes every newer run of others.
"""

from sqlalchemy import Connection

WITHOUT_STATISTICS = {
    "run": ("created_at", "started_at", "finished_at"),
    "checkpoint": ("created_at",),
    "experiment": ("created_at",),
}
"""Columns by which lists are walked, and which rise as rows are added."""
FOR_ALL = "SET max_parallel_workers_per_gather = 0; SET jit = off"
"""For every connection. The planner takes a bound list for one of a hundred strings, and does not
know how few rows of a page are looked up: it would start workers that read all runs, or compile for
longer than the statement runs (counts by a tag took 200 ms instead of 25 for it)."""
FOR_SCANS = "SET plan_cache_mode = force_custom_plan"
"""For those of scans. A plan for any experiment is one for their mean size: where a few have very
many runs, it reads all runs to sort or count those of a small one. Planning costs 0.2 to 1 ms."""


def withhold_statistics(connection: Connection) -> None:
    """Let PostgreSQL gather no statistics of these columns of new tables."""
    if connection.dialect.name != "postgresql":
        return
    for table, names in WITHOUT_STATISTICS.items():
        changes = (f"ALTER {name} SET STATISTICS 0" for name in names)
        connection.exec_driver_sql(f"ALTER TABLE {table} {', '.join(changes)}")
