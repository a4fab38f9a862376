"""Commands that print: `help` (the guide), `export-schema`."""

from pathlib import Path

import click

from app.cli.errors import Refused


@click.command()
@click.argument("topic", required=False)
def help(topic: str | None) -> None:
    """Print a page of the guide, such as `zh/concepts`; without a TOPIC, their names."""
    from app.errors import NotFound
    from app.web import guide

    if topic is None:
        click.echo("\n".join(guide.list_topics()))
        return
    try:
        click.echo(guide.read(topic))
    except NotFound as error:
        raise Refused(error) from error


@click.command()
@click.option(
    "--check", type=click.Path(path_type=Path), metavar="FILE", help="Fail when FILE differs."
)
def export_schema(check: Path | None) -> None:
    """Print the GraphQL schema."""
    import app.main  # noqa: F401  (says what is not installed)
    from app.graphql.schema import sdl

    if check is None:
        click.echo(sdl(), nl=False)
    elif not check.is_file() or check.read_text() != sdl():
        raise Refused(f"{check} is missing or stale: llm-train export-schema > {check}")
