"""How a PostgreSQL database of tests is emptied for the next one, unless its schema has changed."""

from dataclasses import dataclass
from typing import Any

import psycopg


@dataclass(frozen=True)
class Tables:
    """The tables of a migrated database in PostgreSQL, and the rows that a migration makes."""

    names: list[str]
    schema: str
    rows: dict[str, bytes]
    """By table, as COPY writes them."""

    @classmethod
    def read(cls, connection: psycopg.Connection[Any]) -> "Tables":
        """Read them from a database that nobody has used."""
        query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        names = [name for (name,) in connection.execute(query)]
        rows = {}
        for name in names:
            with connection.cursor().copy(f'COPY "{name}" TO STDOUT') as copy:
                if text := b"".join(bytes(part) for part in copy):
                    rows[name] = text
        return cls(names, cls._schema(connection), rows)

    def restore(self, connection: psycopg.Connection[Any]) -> bool:
        """Give a database these rows and no others. False: its schema is another one."""
        connection.execute(
            "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with connection.transaction():
            if self._schema(connection) != self.schema:
                return False
            connection.execute("SET session_replication_role = replica")  # no order, no triggers
            connection.execute(";".join(f'DELETE FROM "{name}"' for name in self.names))
            for name, text in self.rows.items():
                with connection.cursor().copy(f'COPY "{name}" FROM STDIN') as copy:
                    copy.write(text)
            return True

    @staticmethod
    def _schema(connection: psycopg.Connection[Any]) -> str:
        row = connection.execute(SCHEMA).fetchone()
        assert row is not None
        return str(row[0])


SCHEMA = """
WITH public AS (
    SELECT oid, relname, relkind, relnatts, relchecks, relrowsecurity, reloptions FROM pg_class
    WHERE relnamespace = 'public'::regnamespace
)
SELECT concat(
    (SELECT string_agg(t::text, ',' ORDER BY relname)
     FROM (SELECT relname, relkind, relnatts, relchecks, relrowsecurity, reloptions FROM public) t),
    (SELECT string_agg(t::text, ',' ORDER BY relname, attnum)
     FROM (SELECT relname, attnum, attname, atttypid, attnotnull, attisdropped
           FROM pg_attribute JOIN public ON attrelid = public.oid) t),
    (SELECT string_agg(t::text, ',' ORDER BY relname, tgname)
     FROM (SELECT relname, tgname, tgenabled FROM pg_trigger JOIN public ON tgrelid = public.oid
           WHERE NOT tgisinternal) t),
    (SELECT string_agg(t::text, ',' ORDER BY proname)
     FROM (SELECT proname, md5(prosrc) FROM pg_proc WHERE pronamespace = 'public'::regnamespace) t),
    (SELECT string_agg(nspname, ',' ORDER BY nspname) FROM pg_namespace),
    (SELECT string_agg(pg_get_viewdef(oid), ',' ORDER BY relname) FROM public WHERE relkind = 'v')
)
"""
"""Everything that a test could change of a schema, as text."""
