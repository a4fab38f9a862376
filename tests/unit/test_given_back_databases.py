"""A database that a test gives back is for the next one as a new one would be."""

import psycopg

from tests.support.database import Databases, dsn

INSERT = "INSERT INTO project (id, name, created_at) VALUES ('prj_1', 'mine', '2026')"


def test_the_next_test_finds_what_a_migration_makes_and_nothing_else(
    postgresql_databases: Databases,
) -> None:
    databases = postgresql_databases
    url = databases.migrated()
    with psycopg.connect(dsn(url)) as used:
        new = used.execute("SELECT id, name FROM project").fetchall()
        used.execute("UPDATE project SET name = 'renamed'")
        used.execute(INSERT)
        used.commit()
        databases.give_back(url)  # ends this connection, too
    assert databases.migrated() == url
    with psycopg.connect(dsn(url)) as again:
        assert again.execute("SELECT id, name FROM project").fetchall() == new
    databases.drop(url)


def test_one_with_another_schema_is_not_used_again(postgresql_databases: Databases) -> None:
    databases = postgresql_databases
    url = databases.migrated()
    with psycopg.connect(dsn(url)) as used:
        used.execute("ALTER TABLE run ALTER COLUMN status DROP NOT NULL")
    databases.give_back(url)
    other = databases.migrated()
    assert other != url
    databases.drop(other)
