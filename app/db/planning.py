"""What the planner of PostgreSQL is not told, so that it chooses the index of the list.

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


def withhold_statistics(connection: Connection) -> None:
    """Let PostgreSQL gather no statistics of these columns of new tables."""
    if connection.dialect.name != "postgresql":
        return
    for table, names in WITHOUT_STATISTICS.items():
        changes = (f"ALTER {name} SET STATISTICS 0" for name in names)
        connection.exec_driver_sql(f"ALTER TABLE {table} {', '.join(changes)}")
