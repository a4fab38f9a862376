"""The database: tables, statements compiled once, transactions, SQLite and PostgreSQL.

    Database.write(use_case, …) → Tx → Query → SQLModel objects, or light rows → commit → topics

tables, migrations       the schema, and how an older one is brought to it
objects, rows            what a statement makes: objects of the tables, light rows for pages
sql, database, changes   queries, transactions, and who is woken after a commit
keyset, list_statements  pages of long lists; listing, search: what they are listed by
matching, counting       which rows match, how a text is found; how many they are
narrowing, seen          what few rows have, found first; lists for a user who sees few of very many
efforts, planning        where a read runs by what it may cost; what PostgreSQL's planner is told
chunks, chunk_ranges     the points of a metric, and of a curve
sqlite, postgresql…      the two engines: threads, connections, what can go wrong with them

How to add a column of runs that clients see:

1. `tables.py`: a field of `Run` with a default, which every new row gets.
2. `migrations/versions/NNNN_….py`: `op.add_column`; the number after the last one, its
   `down_revision` the last one's. A column that is never null needs a `server_default`: there are
   rows already.
3. `app/rest/schemas.py`: the field, in `RunSummary` for lists and the status, in `RunAnswer` for a
   submission. A column of the same name is copied, and shown in the examples, by itself.
4. `app/graphql/types.py`: an `attribute` of `Run`.

Then `python -m tests.support.rows`, which declares it to the type checker, and `llm-train
export-schema > schema.graphql`. A use case sets it with `runs.change`. Run `tests/unit`, which
holds the migrations to the tables, and `tests/api`.
"""
