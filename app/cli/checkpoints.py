"""Commands of operators on checkpoints: `verify`, `prune`."""

import asyncio

import click

from app.cli.errors import Exit, Refused


@click.command()
@click.argument("experiment")
@click.option("--run", "run_id", help="Those of this run only.")
@click.option("--path", "ckpt_path", help="The checkpoint of this /ckpts/… path only.")
def verify(experiment: str, run_id: str | None, ckpt_path: str | None) -> None:
    """Read the checkpoints of an EXPERIMENT again, every byte. Fails when one is lost."""
    from pydantic import ValidationError

    from app.cli import maintenance
    from app.domain.lifecycle import CheckpointState
    from app.domain.requests import VerifyRequest
    from app.errors import ServiceError
    from app.services import verification
    from app.settings import load_settings

    async def verify(request: VerifyRequest) -> bool:
        whole = True
        async for verified in maintenance.verify(load_settings(), experiment, request):
            click.echo(f"{verified.state:10} {verified.ckpt_path} {verified.reason or ''}".rstrip())
            whole &= verified.state not in (CheckpointState.LOST, verification.UNREADABLE)
        return whole

    try:
        request = VerifyRequest(run_id=run_id, ckpt_path=ckpt_path)
        whole = asyncio.run(verify(request))
    except ValidationError as error:
        wrong = error.errors()[0]
        option = {"run_id": "--run", "ckpt_path": "--path"}[str(wrong["loc"][0])]
        raise Refused(f"{option}: {wrong['msg'].removeprefix('Value error, ')}") from error
    except (ServiceError, ValueError) as error:
        raise Refused(error) from error
    if not whole:
        raise SystemExit(Exit.REFUSED)


def _check_number(_: click.Context, __: click.Parameter, text: str | None) -> int | None:
    if text is not None and (not text.isdecimal() or int(text) < 1):
        raise click.BadParameter(f"{text!r} is not a whole number from 1")
    return None if text is None else int(text)


@click.command()
@click.option("--keep", callback=_check_number, help="How many; else as each recipe says.")
@click.option("--dry-run", is_flag=True, help="Only show what would be deleted.")
def prune(keep: int | None, dry_run: bool) -> None:
    """Delete all but the newest checkpoints of each run."""
    from app.cli import maintenance
    from app.domain.recipes import RecipeError
    from app.errors import ServiceError
    from app.settings import load_settings

    try:
        pruned = maintenance.prune(load_settings(), keep, dry_run)
        deleted, left = asyncio.run(pruned)
    except (ServiceError, RecipeError, ValueError, OSError) as error:
        raise Refused(error) from error
    for checkpoint in deleted:
        click.echo(f"{checkpoint.size_bytes or 0:>16,} bytes  {checkpoint.ckpt_path}")
    total = sum(checkpoint.size_bytes or 0 for checkpoint in deleted)
    what = "would be deleted" if dry_run else "deleted"
    click.echo(f"{total:>16,} bytes in {len(deleted)} checkpoints {what}")
    for why in left.values():
        click.echo(f"llm-train: {why}", err=True)
    if left:
        raise SystemExit(Exit.REFUSED)
