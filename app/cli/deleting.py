"""Commands that take away for good: `delete`, `redact`."""

from typing import Any

import click

from app.cli import api
from app.cli.errors import Refused


@click.command()
@click.argument("runs", nargs=-1, shell_complete=api.complete_run)
@click.option(
    "-e", "--experiment", "experiments", multiple=True, shell_complete=api.complete_experiment,
    help="An experiment with all of its runs, by id or name; may be repeated.",
)  # fmt: skip
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@api.JSON
@api.calls_service
def delete(runs: tuple[str, ...], experiments: tuple[str, ...], yes: bool, as_json: bool) -> None:
    """Delete runs for good, or experiments with all of their runs.

    Points, logs, artifacts and checkpoints go; an event says that there was a run. What has not
    ended, is a release, or was resumed by a run that stays is refused. `update --archive` only
    keeps runs out of lists.
    """
    if not (runs or experiments):
        raise click.UsageError("name runs, or an experiment (-e)")
    client = api.client()
    # Those that were resumed last first: a run is refused while another one begins with it.
    listed = sorted(
        {run.id: run for run in map(client.run, runs)}.values(),
        key=lambda run: run.data["created_at"],
        reverse=True,
    )
    ids = [client.experiment_id(experiment) for experiment in experiments]
    if not yes:
        click.echo(
            "To be deleted for good, with points, logs, artifacts and checkpoints:", err=True
        )
        for run in listed:
            name = api.plain(run.data["name"] or run.data["model"])
            click.echo(f"  run {run.id[-6:]} {name}, {run.status}", err=True)
        for name, experiment_id in zip(experiments, ids, strict=True):
            count = len(client.runs(experiment_id, limit=1_000, archived="any"))
            more = " or more" if count == 1_000 else ""
            click.echo(f"  experiment {api.plain(name)} with {count}{more} runs", err=True)
        if not click.confirm("Delete?", err=True):
            raise Refused("nothing was deleted")
    deleted = [run.delete() for run in listed] + [client.delete_experiment(id_) for id_ in ids]
    if as_json:
        api.print_json(deleted)
        return
    for record in deleted:
        click.echo(_format_line(record))


def _format_line(record: dict[str, Any]) -> str:
    what = f"run {record['run_id'][-6:]}" if record["run_id"] else record["experiment_id"]
    name = api.plain(record["name"] or "")
    size = f"{record['checkpoints']} checkpoints, {record['size_bytes']:,} bytes"
    return f"{what} {name}: deleted, with {size}"


@click.command()
@api.RUN
@click.option("-p", "--param", "params", multiple=True, help="A hyperparameter's name.")
@click.option("-k", "--metric", "metrics", multiple=True, help="A metric's key.")
@click.option("--notes", is_flag=True, help="The notes.")
@api.JSON
@api.calls_service
def redact(
    run: str, params: tuple[str, ...], metrics: tuple[str, ...], notes: bool, as_json: bool
) -> None:
    """Take out of a run what should never have been sent, and out of all that it was copied to."""
    if not (params or metrics or notes):
        raise click.UsageError("say what: -p NAME, -k METRIC or --notes")
    answer = api.client().run(run).redact(hyperparams=params, metrics=metrics, notes=notes)
    if as_json:
        api.print_json(answer)
    else:
        count = len(answer["run_ids"])
        click.echo(f"redacted in {count} run{'s' * (count != 1)}")
        click.echo(f"not reached: {', '.join(answer['not_reached'])}")
