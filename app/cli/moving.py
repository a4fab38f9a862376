"""Commands that take checkpoints elsewhere: `move-checkpoints`, `export-checkpoint`,
`import-checkpoint`.

Each may be killed at any moment and repeated: nothing is removed before it is whole where it goes.
"""

import asyncio
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from app.cli.errors import Exit, Refused

if TYPE_CHECKING:
    from app.storage.staged import StagedStorage

_INSTEAD = "stop it first, so that this command has the database"


@click.command("move-checkpoints")
@click.option("--to", "store", required=True, help="A table [stores.NAME], or a URL.")
@click.option("--keep", is_flag=True, help="Leave the files here, too.")
def move_checkpoints(store: str, keep: bool) -> None:
    """Move the data directory's checkpoints into a bucket, or into another package's storage.

    Each is copied and verified there; then its files here go, unless --keep is given. While the
    service still keeps its checkpoints in the data directory, --keep is required.
    """
    from app.domain.recipe_file import read_configuration
    from app.domain.recipes import RecipeError
    from app.errors import ServiceError
    from app.settings import load_settings
    from app.storage import get_storage
    from app.storage.staged import StagedStorage

    settings = load_settings()
    try:
        stores = read_configuration(settings.recipes).stores
        storage = get_storage(store, settings.data_dir, stores)
        if not isinstance(storage, StagedStorage):
            raise Refused(f"--to {store}: that is a directory already; name a table [stores.NAME]")
        if not keep and settings.storage != store:
            raise Refused(
                f"the service keeps its checkpoints in {settings.storage!r}, so their files here "
                f"must stay: add --keep, or first set LLM_TRAIN_STORAGE={store}"
            )
        moved, failed = _move(storage, keep)
    except (ServiceError, RecipeError, ValueError, OSError) as error:
        raise Refused(error) from error
    click.echo(f"{moved} checkpoints are whole in {store}" + (f", {failed} not" * bool(failed)))
    if failed:
        raise SystemExit(Exit.REFUSED)


def _move(storage: "StagedStorage", keep: bool) -> tuple[int, int]:
    """Copy what is whole here into the bucket; return how many are whole there, how many not."""
    from app.storage.base import Damaged

    storage.prepare()
    moved, failed = 0, 0
    for run in storage.local.list_runs():
        for path in filter(storage.local.is_whole, storage.local.list_run(*run)):
            try:
                storage.take_in(path)
                storage.store.verify(path)
                if not keep:
                    storage.local.strip(path)
            except Damaged as damage:
                failed += 1
                click.echo(f"llm-train: {path}: {damage}", err=True)
                continue
            moved += 1
            click.echo(str(path))
    return moved, failed


@click.command("export-checkpoint")
@click.argument("ckpt_path")
@click.argument("folder", type=click.Path(path_type=Path))
def export_checkpoint(ckpt_path: str, folder: Path) -> None:
    """Copy the checkpoint CKPT_PATH with its manifest into a new FOLDER, verified."""
    from llm_train import checkpoint
    from llm_train.checkpoint import CheckpointError

    from app.cli.maintenance import open_storage
    from app.domain import paths
    from app.errors import ServiceError
    from app.settings import load_settings
    from app.storage.base import MANIFEST, Damaged

    draft = folder.with_name(f".{folder.name}.part")
    try:
        path = paths.parse(ckpt_path)
        storage = open_storage(load_settings())
        content = b"".join(storage.read(path, MANIFEST))
        manifest = checkpoint.parse(content)
        if folder.exists():
            if checkpoint.verify(folder).sha256 != manifest.sha256:
                raise Refused(f"{folder} exists and is another checkpoint")
            click.echo(f"{folder} is that checkpoint")
            return
        shutil.rmtree(draft, ignore_errors=True)
        for file in manifest.files:
            (draft / file.path).parent.mkdir(parents=True, exist_ok=True)
            with (draft / file.path).open("wb") as stream:
                for piece in storage.read(path, file.path):
                    stream.write(piece)
        for link in manifest.links:
            (draft / link.path).parent.mkdir(parents=True, exist_ok=True)
            (draft / link.path).symlink_to(link.target)
        (draft / MANIFEST).write_bytes(content)
        checkpoint.verify(draft)
        draft.rename(folder)
    except (ServiceError, Damaged, CheckpointError, ValueError, OSError) as error:
        raise Refused(error) from error
    click.echo(f"{manifest.size_bytes:,} bytes of step {manifest.step} in {folder}")


@click.command("import-checkpoint")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--run", "run_id", required=True, help="The run that gets it.")
def import_checkpoint(folder: Path, run_id: str) -> None:
    """Make a checkpoint of a run from a FOLDER with a manifest, such as an exported one.

    It is verified, and can be resumed from like any other. Without a server on the same SQLite.
    """
    from llm_train.checkpoint import CheckpointError

    from app.cli import maintenance
    from app.domain.ids import is_id
    from app.errors import NotFound, ServiceError
    from app.settings import load_settings
    from app.storage.base import Damaged

    try:
        if not is_id(run_id, "run"):
            raise NotFound(f"There is no run {run_id!a}.")
        folder = folder.absolute()
        imported = asyncio.run(
            maintenance.import_checkpoint(load_settings(), folder, run_id, _INSTEAD)
        )
    except NotFound as error:
        raise Refused(error, Exit.NOT_FOUND) from error
    except (ServiceError, Damaged, CheckpointError, ValueError, OSError) as error:
        raise Refused(error) from error
    click.echo(f"{imported.state:10} {imported.ckpt_path} {imported.reason or ''}".rstrip())
