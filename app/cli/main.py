"""`llm-train`: every command, one function each.

serve           the service, as `python -m app.main` starts it
demo            the service, and a real model that trains, is cancelled, resumed and released
migrate         bring the database to this version's schema, or back
verify          read checkpoints again, every byte
prune           delete all but the newest checkpoints of each run
backup          copy everything the service knows into a folder, while it runs
restore         bring a backup back
export-schema   print the GraphQL schema (`schema.graphql` is its copy)
help            print a page of the guide
"""

import argparse
import asyncio
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
    """Run the command line of `llm-train`."""
    # Ctrl-C just ends it, wherever it is: what matters is on disk, and uvicorn minds its own.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    gc.disable()  # until start-up has made what stays
    arguments = _parser().parse_args()
    {
        "serve": _serve, "demo": _demo, "migrate": _migrate, "verify": _verify, "prune": _prune,
        "backup": _backup, "restore": _restore, "export-schema": _export_schema, "help": _help,
    }[arguments.command](arguments)  # fmt: skip


def _parser() -> _Parser:
    parser = _Parser(prog="llm-train", description="A control plane for LLM training.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help)

    for name, help in (
        ("serve", "Serve REST and GraphQL; configure it by LLM_TRAIN_* variables."),
        ("demo", "Serve, and watch a real language model train, stop, resume and be released."),
    ):
        command(name, help).add_argument(
            "--port", type=int, help="instead of LLM_TRAIN_PORT (8000)"
        )
    demo = commands.choices["demo"]
    demo.add_argument("--exit", action="store_true", help="end when the story is told")
    migrate = command("migrate", "Bring the database to this version's schema, or back to another.")
    migrate.add_argument("--to", default="head", help="a revision, or `base` for an empty database")
    migrate.add_argument("--yes", action="store_true", help="drop all tables: with `--to base`")
    verify = command("verify", "Read checkpoints again, every byte. Fails when one is lost.")
    verify.add_argument("experiment", help="its id")
    verify.add_argument("--run", help="those of this run only")
    verify.add_argument("--path", help="the checkpoint of this /ckpts/… path only")
    prune = command("prune", "Delete all but the newest checkpoints of each run.")
    prune.add_argument("--keep", type=_positive, help="how many; else as each recipe says")
    prune.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
    backup = command("backup", "Copy everything the service knows into a folder, while it runs.")
    backup.add_argument("folder", type=Path, help="a new one")
    backup.add_argument(
        "--database-only", action="store_true", help="leave out the data directory's files"
    )
    restore = command("restore", "Bring a backup back, into an empty database and data directory.")
    restore.add_argument("folder", type=Path, help="what `llm-train backup` has made")
    export = command("export-schema", "Print the GraphQL schema.")
    export.add_argument("--check", type=Path, metavar="FILE", help="fail when FILE differs")
    guide = command("help", "Print a page of the guide; without a topic, which pages there are.")
    guide.add_argument("topic", nargs="?", help="such as `recipes` or `zh/concepts`")
    return parser


class _Version(argparse.Action):
    """Prints the version: looked up only when it is asked for, since that reads the disk."""

    def __call__(self, *_: object) -> None:
        from app.version import VERSION

        print(f"llm-train {VERSION}")
        sys.exit(0)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)


def _overrides(arguments: argparse.Namespace) -> dict[str, object]:
    return {} if arguments.port is None else {"port": arguments.port}


def _serve(arguments: argparse.Namespace) -> None:
    from app.main import load_settings, serve

    serve(load_settings(**_overrides(arguments)))


def _demo(arguments: argparse.Namespace) -> None:
    from app.cli.demo import run
    from app.main import load_settings

    run(load_settings(**_overrides(arguments)), stay=not arguments.exit)


def _migrate(arguments: argparse.Namespace) -> None:
    from app.db import migrate
    from app.db.connect import connect
    from app.main import load_settings

    url = load_settings().database_url
    if arguments.to == "base" and not arguments.yes:
        sys.exit("llm-train: --to base drops every table with all that is in it; add --yes")
    try:
        database = connect(url)  # knows what is wrong with a URL
        database.acquire_lock()  # from here to the end of this process
        before = migrate.revision(url)
        if arguments.to == "base":
            migrate.downgrade(url, "base")
        else:
            migrate.upgrade(url, arguments.to)
        after = migrate.revision(url)
    except Exception as error:  # of SQLite, psycopg, SQLAlchemy or Alembic: they share no class
        sys.exit("llm-train: the database cannot be migrated: " + " ".join(str(error).split()))
    print(f"{before or 'empty'} → {after or 'empty'}")


def _verify(arguments: argparse.Namespace) -> None:
    from pydantic import ValidationError

    from app.cli import maintenance
    from app.domain.lifecycle import CheckpointState
    from app.domain.requests import VerifyRequest
    from app.errors import ServiceError
    from app.main import load_settings
    from app.services import verification

    async def verify(request: VerifyRequest) -> bool:
        whole = True
        async for each in maintenance.verify(load_settings(), arguments.experiment, request):
            print(f"{each.state:10} {each.ckpt_path} {each.reason or ''}".rstrip(), flush=True)
            whole &= each.state not in (CheckpointState.LOST, verification.UNREADABLE)
        return whole

    try:
        request = VerifyRequest(run_id=arguments.run, ckpt_path=arguments.path)
        whole = asyncio.run(verify(request))
    except ValidationError as error:
        wrong = error.errors()[0]
        option = {"run_id": "--run", "ckpt_path": "--path"}[str(wrong["loc"][0])]
        sys.exit(f"llm-train: {option}: {wrong['msg'].removeprefix('Value error, ')}")
    except (ServiceError, ValueError) as error:
        sys.exit(f"llm-train: {error}")
    sys.exit(not whole)


def _prune(arguments: argparse.Namespace) -> None:
    from app.cli import maintenance
    from app.domain.recipes import RecipeError
    from app.errors import ServiceError
    from app.main import load_settings

    try:
        pruned = maintenance.prune(load_settings(), arguments.keep, arguments.dry_run)
        found, left = asyncio.run(pruned)
    except (ServiceError, RecipeError, ValueError, OSError) as error:
        sys.exit(f"llm-train: {error}")
    for each in found:
        print(f"{each.size_bytes or 0:>16,} bytes  {each.ckpt_path}")
    total = sum(each.size_bytes or 0 for each in found)
    what = "would be deleted" if arguments.dry_run else "deleted"
    print(f"{total:>16,} bytes in {len(found)} checkpoints {what}")
    for why in left.values():
        print(f"llm-train: {why}", file=sys.stderr)
    if left:
        sys.exit(1)


def _backup(arguments: argparse.Namespace) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    from app.cli import backup
    from app.errors import ServiceError
    from app.main import load_settings

    try:
        made = backup.backup(
            load_settings(), arguments.folder, with_files=not arguments.database_only
        )
    except (ServiceError, ValueError, OSError, SQLAlchemyError) as error:
        sys.exit("llm-train: the backup failed: " + " ".join(str(error).split()))
    for name in made.missing:
        print(f"llm-train: {name} was deleted meanwhile", file=sys.stderr)
    print(f"{made.rows:,} rows and {made.files:,} files, {made.size_bytes:,} bytes")


def _restore(arguments: argparse.Namespace) -> None:
    from sqlalchemy.exc import SQLAlchemyError

    from app.cli import backup
    from app.errors import ServiceError
    from app.main import load_settings

    try:
        restored = backup.restore(load_settings(), arguments.folder)
    except (ServiceError, ValueError, OSError, SQLAlchemyError) as error:
        sys.exit("llm-train: nothing can be restored: " + " ".join(str(error).split()))
    print(f"{restored.rows:,} rows and {restored.files:,} files, {restored.size_bytes:,} bytes")


def _export_schema(arguments: argparse.Namespace) -> None:
    import app.main  # noqa: F401  (says what is not installed)
    from app.graphql.schema import sdl

    file: Path | None = arguments.check
    if file is None:
        print(sdl(), end="")
    elif not file.is_file() or file.read_text() != sdl():
        sys.exit(f"llm-train: {file} is missing or stale: llm-train export-schema > {file}")


def _help(arguments: argparse.Namespace) -> None:
    from app.errors import NotFound
    from app.web import guide

    if arguments.topic is None:
        print("\n".join(guide.topics()))
        return
    try:
        print(guide.read(arguments.topic))
    except NotFound as error:
        sys.exit(f"llm-train: {error}")


if __name__ == "__main__":
    main()
