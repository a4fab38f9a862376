"""Alembic's entry: runs the migrations on one connection, all of them or none."""

from alembic import context

from app.store.migrate import METADATA, in_one_transaction

with in_one_transaction(context.config.attributes["url"]) as connection:
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        render_as_batch=connection.dialect.name == "sqlite",
        compare_type=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
