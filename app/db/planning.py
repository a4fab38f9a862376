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
CONNECTION_SETTINGS = "SET max_parallel_workers_per_gather = 0; SET jit = off"
"""Of every connection. The planner assumes a hundred strings in a bound list and so overestimates
what a page costs: it would start parallel workers that read all runs, or compile the statement for
longer than it runs (counts by a tag took 200 ms instead of 25)."""
SCAN_SETTINGS = "SET plan_cache_mode = force_custom_plan; SET enable_seqscan = off"
"""Of connections of scans: each execution is planned for its parameters, in 0.2 to 1 ms. A generic
plan assumes an experiment of the mean size; where a few have very many runs, it reads all runs to
sort or count those of a small one. So it does for each of several in one statement, but for the
second setting."""


def withhold_statistics(connection: Connection) -> None:
    """Let PostgreSQL gather no statistics of these columns of new tables."""
    if connection.dialect.name != "postgresql":
        return
    for table, names in WITHOUT_STATISTICS.items():
        changes = (f"ALTER {name} SET STATISTICS 0" for name in names)
        connection.exec_driver_sql(f"ALTER TABLE {table} {', '.join(changes)}")
