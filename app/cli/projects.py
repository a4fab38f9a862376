"""Commands about projects, which call the service: quotas, retention, gates and members."""

import math
from typing import Any

import click

from app.cli import api
from app.cli.errors import Refused
from app.cli.team import ROLES, find_user_id, show

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}


def _limit(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    """Return a number (`500GB` is one too) or `none`; None if the option is not given."""
    if value is None or value == "none":
        return value
    text = value.strip().upper()
    unit = text[-2:] if text[-2:] in _UNITS else ""
    digits = text.removesuffix(unit)
    if not (digits.isascii() and digits.isdigit()):
        raise click.BadParameter(f"{value!r} is not a number, such as 8 or 500GB, nor `none`.")
    return int(digits) * _UNITS.get(unit, 1)


def _parse_days(_: click.Context, __: click.Parameter, value: str | None) -> float | str | None:
    """Return a number of days or `none`; None if the option is not given."""
    if value is None or value == "none":
        return value
    try:
        days = float(value)
    except ValueError:
        days = math.nan
    if not math.isfinite(days):
        raise click.BadParameter(f"{value!r} is not a number of days, such as 30, nor `none`.")
    return days


def _collect_changes(options: dict[str, Any]) -> dict[str, Any]:
    """Return the body of a PATCH: the options that are given, with null for `none`."""
    named = {name: value for name, value in options.items() if value is not None}
    return {name: None if value == "none" else value for name, value in named.items()}


@click.group()
def project() -> None:
    """Create and list projects, and say who is in them."""


@project.command("create")
@click.argument("name")
@click.option("--description", help="What it is for.")
@api.calls_service
def create_project(name: str, description: str | None) -> None:
    """Create a project NAME."""
    body = {"name": name, "description": description}
    click.echo(api.call("POST", "/v1/projects", body)["project_id"])


@project.command("ls")
@api.JSON
@api.calls_service
def list_projects(as_json: bool) -> None:
    """List the projects that you are in; as an administrator, all."""
    columns = ("project_id", "name", "description", "created_at")
    show(api.call("GET", "/v1/projects")["projects"], columns, as_json)


@project.command("quota")
@click.argument("project")
@click.option("--runs", callback=_limit, help="Runs that may be under way at a time.")
@click.option("--gpus", callback=_limit, help="GPUs that its runs may hold together.")
@click.option("--bytes", "size", callback=_limit, help="Size of its checkpoints, such as 500GB.")
@api.JSON
@api.calls_service
def quota(
    project: str, runs: int | str | None, gpus: int | str | None, size: int | str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Show what a PROJECT has and may have at a time, or change that.

    Each limit is a number, or `none` for as much as there is.
    """
    path = f"/v1/projects/{api.find_project_id(project)}"
    limits = {"max_runs": runs, "max_gpus": gpus, "max_bytes": size}
    changes = _collect_changes(limits)
    answer = api.call("PATCH", path, changes) if changes else api.call("GET", path)
    use = api.call("GET", f"{path}/use")
    rows = [
        {"of": name, "used": use[name], "most": answer[f"max_{name}"]}
        for name in ("runs", "gpus", "bytes")
    ]
    show(rows, ("of", "used", "most"), as_json)


@project.command("retention")
@click.argument("project")
@click.option(
    "--logs", callback=_parse_days, help="Days after a run's end for which its log is kept."
)
@click.option("--points", callback=_parse_days, help="The same of all of its points: then thinned.")
@click.option(
    "--curves", callback=_parse_days, help="The same of any points: then the latest stay."
)
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@api.JSON
@api.calls_service
def retention(
    project: str, logs: float | str | None, points: float | str | None,
    curves: float | str | None, dry_run: bool, yes: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show for how long a PROJECT keeps logs and points, or change that.

    Each is a number of days, or `none` for what the service is set to. What the change would
    remove now is shown before it is made.
    """
    path = f"/v1/projects/{api.find_project_id(project)}"
    rules = {"logs_days": logs, "points_days": points, "curves_days": curves}
    changes = _collect_changes(rules)
    if dry_run or (changes and not yes):
        removed = _preview_removal(path, rules)
        if dry_run:
            show(removed, _REMOVED, as_json)
            return
        if any(row["runs"] for row in removed):
            click.echo("To be removed for good:", err=True)
            click.echo(api.format_table(*api.cells_of(removed, _REMOVED)), err=True)
            if not click.confirm("Change the rule?", err=True):
                raise Refused("nothing was changed")
    answer = api.call("PATCH", path, changes) if changes else api.call("GET", path)
    rows = [{"of": name, "days": answer[f"{name}_days"]} for name in ("logs", "points", "curves")]
    show(rows, ("of", "days"), as_json)


_REMOVED = ("of", "days", "runs", "bytes", "oldest_end")


def _preview_removal(path: str, rules: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the data that a rule would remove now; with `more`, only that of the first runs."""
    answer = api.client().connection.request("GET", f"{path}/retention", query=rules)
    names = ("logs", "points", "curves")
    return [
        {
            "of": name, "days": row["days"], "runs": row["runs"], "bytes": row["size_bytes"],
            "oldest_end": row["oldest_end"], "more": row["more"],
        }
        for name, row in zip(names, answer["removed"], strict=True)
    ]  # fmt: skip


@project.command("gate")
@click.argument("project")
@click.option(
    "--metric", "metrics", multiple=True, help="A bound such as 'val_loss<=2.0'; may be repeated."
)
@click.option(
    "--verified-hours", callback=_parse_days, help="Hours since its files were found whole."
)
@click.option("--approval/--no-approval", default=None, help="Another maintainer must approve.")
@click.option("--open", "is_open", is_flag=True, help="Take its gate away.")
@api.JSON
@api.calls_service
def gate(
    project: str, metrics: tuple[str, ...], verified_hours: float | str | None,
    approval: bool | None, is_open: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show what a release of a PROJECT needs besides what the service wants, or change that."""
    path = f"/v1/projects/{api.find_project_id(project)}"
    names = ("metrics", "verified_hours", "approval")
    changes: dict[str, Any] = dict.fromkeys((f"release_{name}" for name in names), None)
    if not is_open:
        rules = {
            "release_metrics": list(metrics) or None, "release_verified_hours": verified_hours,
            "release_approval": approval,
        }  # fmt: skip
        changes = _collect_changes(rules)
    answer = api.call("PATCH", path, changes) if changes else api.call("GET", path)
    rows = [{"of": name, "needs": answer[f"release_{name}"]} for name in names]
    show(rows, ("of", "needs"), as_json)


@project.command("members")
@click.argument("project")
@api.JSON
@api.calls_service
def list_members(project: str, as_json: bool) -> None:
    """List the members of a PROJECT."""
    rows = api.call("GET", f"/v1/projects/{api.find_project_id(project)}/members")["members"]
    show(rows, ("user", "role", "created_at"), as_json)


@project.command("add")
@click.argument("project")
@click.argument("user")
@click.option("--role", type=click.Choice(ROLES), default="member", show_default=True)
@api.calls_service
def add_member(project: str, user: str, role: str) -> None:
    """Give a USER a role in a PROJECT, in the place of the one that it has there."""
    path = f"/v1/projects/{api.find_project_id(project)}/members"
    api.call("POST", path, {"user": user, "role": role})


@project.command("remove")
@click.argument("project")
@click.argument("user")
@api.calls_service
def remove_member(project: str, user: str) -> None:
    """Take a USER's role in a PROJECT away."""
    api.call("DELETE", f"/v1/projects/{api.find_project_id(project)}/members/{find_user_id(user)}")
