"""`llm-train`: every command, one function each.

serve           the service, as `python -m app.main` starts it
demo            the service, and a real model that trains, is cancelled, resumed and released
migrate         bring the database to this version's schema, or back
export-schema   print the GraphQL schema (`schema.graphql` is its copy)
"""

import argparse
import gc
import signal
import sys
from pathlib import Path
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main() -> None:
    """The entry point of the command `llm-train`."""
    # Ctrl-C just ends it, wherever it is: what matters is on disk, and uvicorn minds its own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # until start-up has made what stays
    parser = _Parser(prog="llm-train", description="A control plane for LLM training.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help)

    for name, help in (
        ("serve", "Serve REST and GraphQL; configure it by LLM_TRAIN_* variables."),
        ("demo", "Serve, and watch a real language model train, stop, resume and be released."),
    ):
        each = command(name, help)
        each.add_argument("--port", type=int, help="instead of LLM_TRAIN_PORT (8000)")
    demo = commands.choices["demo"]
    demo.add_argument("--exit", action="store_true", help="end when the story is told")
    migrate = command("migrate", "Bring the database to this version's schema, or back to another.")
    migrate.add_argument("--to", default="head", help="a revision, or `base` for an empty database")
    export = command("export-schema", "Print the GraphQL schema.")
    export.add_argument("--check", type=Path, metavar="FILE", help="fail when FILE differs")

    arguments = parser.parse_args()
    {"serve": _serve, "demo": _demo, "migrate": _migrate, "export-schema": _export_schema}[
        arguments.command
    ](arguments)


def _overrides(arguments: argparse.Namespace) -> dict[str, object]:
    return {} if arguments.port is None else {"port": arguments.port}


def _serve(arguments: argparse.Namespace) -> None:
    from app.main import load_settings, serve

    serve(load_settings(**_overrides(arguments)))


def _demo(arguments: argparse.Namespace) -> None:
    from app.demo import run
    from app.main import load_settings

    run(load_settings(**_overrides(arguments)), stay=not arguments.exit)


def _migrate(arguments: argparse.Namespace) -> None:
    from app.main import load_settings
    from app.store import migrate
    from app.store.database import connect

    url = load_settings().database_url
    try:
        connect(url)  # knows what is wrong with a URL
        before = migrate.revision(url)
        if arguments.to == "base":
            migrate.downgrade(url, "base")
        else:
            migrate.upgrade(url, arguments.to)
        after = migrate.revision(url)
    except Exception as error:  # of SQLite, psycopg, SQLAlchemy or Alembic: they share no class
        sys.exit("llm-train: the database cannot be migrated: " + " ".join(str(error).split()))
    print(f"{before or 'empty'} → {after or 'empty'}")


def _export_schema(arguments: argparse.Namespace) -> None:
    import app.main  # noqa: F401  (says what is not installed)
    from app.graphql.export import sdl

    file: Path | None = arguments.check
    if file is None:
        print(sdl(), end="")
    elif not file.is_file() or file.read_text() != sdl():
        sys.exit(f"llm-train: {file} is missing or stale: llm-train export-schema > {file}")


if __name__ == "__main__":
    main()
