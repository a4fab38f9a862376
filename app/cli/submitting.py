"""Commands that change runs: `submit`, `cancel`, `resume`, `rerun`, `mark`, `update`."""

from typing import Any

import click

from app.cli import api, screen

PARAM = click.option(
    "-p", "--param", "params", multiple=True, metavar="NAME=VALUE", callback=api.parse_parameters,
    help="A hyperparameter; may be repeated. VALUE is JSON, or else a text.",
)  # fmt: skip
WAIT = click.option("--wait", is_flag=True, help="Wait for its end; its outcome is the exit code.")
NAME = click.option("--name", help="Name for people.")
NOTES = click.option("--notes", help="Free text.")
TAG = click.option("--tag", "tags", multiple=True, help="A tag to find it by; may be repeated.")
PRIORITY = click.option("--priority", type=click.Choice(["high", "normal", "low"]))
RESOURCES = (
    click.option("--gpu-type", help="Type of GPU, such as A100."),
    click.option("--gpus", "count", type=int, help="Number of GPUs."),
    click.option("--cpus", type=float, help="Number of CPU cores."),
    click.option("--memory-gb", type=float, help="Memory in GB."),
    click.option("--nodes", type=int, help="Number of machines."),
    click.option("--time-limit", "time_limit_minutes", type=float, help="In minutes."),
)
_RESOURCES = ("gpu_type", "count", "cpus", "memory_gb", "nodes", "time_limit_minutes")


def with_resources(command: Any) -> Any:
    """Add the options of resources to a command."""
    for option in reversed(RESOURCES):
        command = option(command)
    return command


def _collect_resources(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in _RESOURCES if options[name] is not None}


@click.command()
@click.option(
    "-r", "--recipe", shell_complete=api.complete_recipe,
    help="What the service executes; left out: a trainer attaches by itself.",
)  # fmt: skip
@click.option(
    "-e", "--experiment", shell_complete=api.complete_experiment,
    help="Its id or name, made if there is none; left out: the recipe's name.",
)  # fmt: skip
@click.option("-m", "--model", help="The model; left out: the recipe's name.")
@PARAM
@click.option(
    "-d", "--dataset", multiple=True, metavar="NAME=VALUE", callback=api.parse_parameters,
    help="What the data are, such as name=alpaca; may be repeated.",
)  # fmt: skip
@NAME
@TAG
@NOTES
@PRIORITY
@with_resources
@WAIT
@api.JSON
@api.calls_service
def submit(
    recipe: str | None, experiment: str | None, model: str | None, params: dict[str, Any],
    dataset: dict[str, Any], name: str | None, tags: tuple[str, ...], notes: str | None,
    priority: str | None, wait: bool, as_json: bool, **resources: Any,
) -> None:  # fmt: skip
    """Submit a training run, and print its id."""
    experiment = experiment or recipe
    if experiment is None:
        raise click.UsageError("name a recipe (-r) or an experiment (-e)")
    run = api.client().submit(
        experiment, recipe=recipe, model=model, hyperparams=params, dataset=dataset,
        resources=_collect_resources(resources), name=name, tags=tags, notes=notes,
        priority=priority or "normal",
    )  # fmt: skip
    _print_and_wait(run, as_json, wait)


def _print_and_wait(run: Any, as_json: bool, wait: bool) -> None:
    if as_json and not wait:
        api.print_json(run.data)
    else:
        click.echo(run.id, err=as_json)
    if not wait:
        return
    if as_json or not screen.is_terminal():
        run.wait(check=False)
    else:
        screen.watch_run(run)
    if as_json:
        api.print_json(run.data)
    else:
        click.echo(
            f"{api.color_status(run.status)} {run.data['status_detail'] or ''}".rstrip(), err=True
        )
    api.end_with(run)


@click.command()
@api.RUNS
@click.option("--wait/--no-wait", default=True, help="Until each has saved and ended.")
@api.JSON
@api.calls_service
def cancel(runs: tuple[str, ...], wait: bool, as_json: bool) -> None:
    """Cancel runs without losing their work; print the checkpoint that each leaves."""
    client = api.client()
    cancelled = [client.run(run) for run in runs]  # all of them, before one is cancelled
    told = []
    for run in cancelled:
        checkpoint = run.cancel(wait=wait)
        told.append({"run_id": run.id, "status": run.status, "checkpoint": checkpoint})
        if not as_json:
            click.echo(
                f"{run.id[-6:]} {api.color_status(run.status)}: {checkpoint['ckpt_path']}"
                f" ({checkpoint['state']})"
            )
    if as_json:
        api.print_json(told)


@click.command()
@api.RUN
@PARAM
@click.option("--from", "ckpt_path", help="A checkpoint's path; left out: the newest good one.")
@NAME
@NOTES
@with_resources
@WAIT
@api.JSON
@api.calls_service
def resume(
    run: str, params: dict[str, Any], ckpt_path: str | None, name: str | None, notes: str | None,
    wait: bool, as_json: bool, **resources: Any,
) -> None:  # fmt: skip
    """Go on from a checkpoint of a run with other hyperparameters; print the new run's id."""
    child = api.client().run(run).resume(
        ckpt_path=ckpt_path, hyperparams=params, resources=_collect_resources(resources) or None,
        name=name, notes=notes,
    )  # fmt: skip
    _print_and_wait(child, as_json, wait)


@click.command()
@api.RUN
@WAIT
@api.JSON
@api.calls_service
def rerun(run: str, wait: bool, as_json: bool) -> None:
    """Submit a run again as it was; print the new run's id."""
    _print_and_wait(api.client().run(run).rerun(), as_json, wait)


def _parse_numbers(
    context: click.Context, parameter: click.Parameter, options: tuple[str, ...]
) -> dict[str, float]:
    values = api.parse_parameters(context, parameter, options)
    for name, value in values.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise click.BadParameter(f"{name}: {value!r} is not a number")
    return values


@click.command()
@api.RUN
@click.argument("tag")
@click.option("--release", help="A release tag, unique in the experiment.")
@click.option("--path", "ckpt_path", help="The checkpoint; left out: the newest good one.")
@click.option(
    "-k", "--metric", "metrics", multiple=True, metavar="NAME=VALUE", callback=_parse_numbers,
    help="A number to keep with it; may be repeated.",
)  # fmt: skip
@api.JSON
@api.calls_service
def mark(
    run: str, tag: str, release: str | None, ckpt_path: str | None, metrics: dict[str, float],
    as_json: bool,
) -> None:  # fmt: skip
    """Mark a checkpoint of a run with a TAG, such as `candidate` or `release`."""
    marked = api.client().run(run)
    checkpoint = marked.mark(tag, release=release, ckpt_path=ckpt_path, metrics=metrics)
    if as_json:
        api.print_json(checkpoint)
    else:
        click.echo(f"{checkpoint['ckpt_path']} {tag} {release or ''}".rstrip())


@click.command()
@api.RUNS
@NAME
@NOTES
@TAG
@PRIORITY
@click.option("--archive/--restore", default=None, help="Keep them out of lists, or bring back.")
@api.JSON
@api.calls_service
def update(
    runs: tuple[str, ...], name: str | None, notes: str | None, tags: tuple[str, ...],
    priority: str | None, archive: bool | None, as_json: bool,
) -> None:  # fmt: skip
    """Change name, notes, tags, priority or archive of runs. An empty text removes."""
    changes: dict[str, Any] = {}
    if name is not None:
        changes["name"] = name or None
    if notes is not None:
        changes["notes"] = notes or None
    if tags:
        changes["tags"] = [tag for tag in tags if tag]
    if priority is not None:
        changes["priority"] = priority
    if archive is not None:
        changes["archived"] = archive
    if not changes:
        raise click.UsageError("say what to change")
    client = api.client()
    changed = [run.update(**changes) for run in [client.run(run) for run in runs]]
    if as_json:
        api.print_json([run.data for run in changed])
