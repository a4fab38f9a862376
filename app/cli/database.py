"""Commands on the database itself: `migrate`, `backup`, `restore`."""

from pathlib import Path

import click

from app.cli.errors import Refused

FOLDER = click.argument("folder", type=click.Path(path_type=Path))


@click.command()
@click.option(
    "--to", default="head", show_default=True,
    help="A revision, or `base` for an empty database.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Drop all tables: with `--to base`.")
def migrate(to: str, yes: bool) -> None:
    """Bring the database to this version's schema, or back to another."""
    from app.db import migrate
    from app.db.connect import connect
    from app.settings import load_settings

    url = load_settings().database_url
    if to == "base" and not yes:
        raise Refused("--to base drops every table with all that is in it; add --yes")
    try:
        database = connect(url)  # knows what is wrong with a URL
        database.acquire_lock()  # from here to the end of this process
        before = migrate.revision(url)
        if to == "base":
            migrate.downgrade(url, "base")
        else:
            migrate.upgrade(url, to)
        after = migrate.revision(url)
    except Exception as error:  # of SQLite, psycopg, SQLAlchemy or Alembic: they share no class
        raise Refused(f"the database cannot be migrated: {_format_error(error)}") from error
    click.echo(f"{before or 'empty'} → {after or 'empty'}")


@click.command()
@FOLDER
@click.option("--database-only", is_flag=True, help="Leave out the data directory's files.")
def backup(folder: Path, database_only: bool) -> None:
    """Copy everything the service knows into a new FOLDER, while it runs."""
    from sqlalchemy.exc import SQLAlchemyError

    from app.cli import backup
    from app.errors import ServiceError
    from app.settings import load_settings

    try:
        made = backup.backup(load_settings(), folder, with_files=not database_only)
    except (ServiceError, ValueError, OSError, SQLAlchemyError) as error:
        raise Refused(f"the backup failed: {_format_error(error)}") from error
    for name in made.missing:
        click.echo(f"llm-train: {name} was deleted meanwhile", err=True)
    click.echo(f"{made.rows:,} rows and {made.files:,} files, {made.size_bytes:,} bytes")


@click.command()
@FOLDER
def restore(folder: Path) -> None:
    """Bring a backup back from FOLDER, into an empty database and data directory."""
    from sqlalchemy.exc import SQLAlchemyError

    from app.cli import backup
    from app.errors import ServiceError
    from app.settings import load_settings

    try:
        restored = backup.restore(load_settings(), folder)
    except (ServiceError, ValueError, OSError, SQLAlchemyError) as error:
        raise Refused(f"nothing can be restored: {_format_error(error)}") from error
    click.echo(
        f"{restored.rows:,} rows and {restored.files:,} files, {restored.size_bytes:,} bytes"
    )


def _format_error(error: Exception) -> str:
    return " ".join(str(error).split())
