"""Commands about who may use a service, which they call: `user`, `token`, `project`, `audit`."""

import math
from typing import TYPE_CHECKING, Any

import click

from app.cli import api

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLES = ("viewer", "member", "maintainer")


_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "PB": 10**15}


def _limit(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    """Return a number of which bytes may have a unit, or `none`; None if it is not given."""
    if value is None or value == "none":
        return value
    text = value.strip().upper()
    unit = text[-2:] if text[-2:] in _UNITS else ""
    digits = text.removesuffix(unit)
    if not (digits.isascii() and digits.isdigit()):
        raise click.BadParameter(f"{value!r} is not a number, such as 8 or 500GB, nor `none`.")
    return int(digits) * _UNITS.get(unit, 1)


def _days(_: click.Context, __: click.Parameter, value: str | None) -> float | str | None:
    """Return a number of days, or `none`; None if it is not given."""
    if value is None or value == "none":
        return value
    try:
        days = float(value)
    except ValueError:
        days = math.nan
    if not math.isfinite(days):
        raise click.BadParameter(f"{value!r} is not a number of days, such as 30, nor `none`.")
    return days


def _changes(options: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that are given, with null for `none`."""
    named = {name: value for name, value in options.items() if value is not None}
    return {name: None if value == "none" else value for name, value in named.items()}


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        api.print_json(rows)
    else:
        click.echo(api.table(*api.cells_of(rows, columns)))


def _user_id(reference: str) -> str:
    return api.find_id(api.call("GET", "/v1/users")["users"], "user", "user_id", reference)


@click.group()
def user() -> None:
    """Create, list and disable users."""


@user.command("create")
@click.argument("name")
@click.option("--service", is_flag=True, help="A service account, not a person.")
@click.option("--admin", is_flag=True, help="May do everything in every project.")
@click.option("--email", help="Its address.")
@api.calls_service
def create_user(name: str, service: bool, admin: bool, email: str | None) -> None:
    """Create a user NAME."""
    kind = "service" if service else "person"
    body = {"name": name, "kind": kind, "email": email, "is_admin": admin}
    click.echo(api.call("POST", "/v1/users", body)["user_id"])


@user.command("ls")
@api.JSON
@api.calls_service
def list_users(as_json: bool) -> None:
    """List the users."""
    columns = ("name", "kind", "is_admin", "email", "created_at", "disabled_at")
    _show(api.call("GET", "/v1/users")["users"], columns, as_json)


@user.command("disable")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Let it in again.")
@api.calls_service
def disable_user(name: str, undo: bool) -> None:
    """Disable a user: none of its tokens and sessions is good any more, at once."""
    api.call("PATCH", f"/v1/users/{_user_id(name)}", {"disabled": not undo})


@click.group()
def token() -> None:
    """Create, list and revoke tokens."""


@token.command("create")
@click.option("--user", help="Whose it is; left out: yours.")
@click.option("--name", help="What it is for.")
@click.option("--scope", type=click.Choice((*ROLES, "admin")), default="member", show_default=True)
@click.option("--expires", help="A time such as 2027-01-31T00:00:00Z; left out: it does not.")
@api.calls_service
def create_token(user: str | None, name: str | None, scope: str, expires: str | None) -> None:
    """Create a token and print it. It is shown this once.

    SCOPE is the highest role that it may act in, whatever its user's.
    """
    body = {"user": user, "name": name, "scope": scope, "expires_at": expires}
    click.echo(api.call("POST", "/v1/tokens", body)["token"])


@token.command("ls")
@click.option("--user", help="Whose.")
@api.JSON
@api.calls_service
def list_tokens(user: str | None, as_json: bool) -> None:
    """List the newest tokens: yours; as an administrator, everybody's."""
    from urllib.parse import quote

    query = "" if user is None else f"?user={quote(user, safe='')}"
    columns = ("token_id", "user", "name", "scope", "expires_at", "revoked_at", "last_used_at")
    _show(api.call("GET", f"/v1/tokens{query}")["tokens"], columns, as_json)


@token.command("revoke")
@click.argument("token_id")
@api.calls_service
def revoke_token(token_id: str) -> None:
    """Revoke a token, at once and on every server."""
    from urllib.parse import quote

    api.call("DELETE", f"/v1/tokens/{quote(token_id, safe='')}")


@click.command()
@click.option("--actor", help="Name of the user.")
@click.option("--action", help="Such as `create_run` or `sign_in`.")
@click.option("--target", "target_id", help="Id of what it was about.")
@click.option("--outcome", type=click.Choice(("done", "refused")))
@click.option("--since", help="At or after a time (2026-11-01T00:00:00Z).")
@click.option("--until", help="Before a time.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@api.JSON
@api.calls_service
def audit(as_json: bool, **query: str | int | None) -> None:
    """List who wrote what, and failed sign-ins, newest first."""
    rows = api.client().connection.request("GET", "/v1/audit", query=query)["entries"]
    if as_json:
        api.print_json(rows)
        return
    shown = [row | {"actor": row["actor"]["name"] or row["actor"]["kind"]} for row in rows]
    _show(shown, ("at", "actor", "action", "target_id", "outcome", "address"), False)


@click.command()
@click.option(
    "--by", type=click.Choice(("month", "project", "experiment", "run")), default="month",
    show_default=True, help="What is summed.",
)  # fmt: skip
@click.option("--project", help="Of this project alone.")
@click.option(
    "--experiment", shell_complete=api.complete_experiment, help="Of this experiment alone."
)
@click.option("--since", help="Attempts that ended at or after a time (2026-11-01T00:00:00Z).")
@click.option("--until", help="Attempts that ended before a time.")
@click.option("--csv", "as_csv", is_flag=True, help="A table in CSV.")
@api.JSON
@api.calls_service
def usage(
    project: str | None, experiment: str | None, as_csv: bool, as_json: bool, **query: str | None
) -> None:
    """Sum what ended attempts used, wasted, waited and saved."""
    query["project_id"] = project and api.project_id(project)
    query["experiment_id"] = experiment and api.client().experiment_id(experiment)
    service, by = api.client().connection, query["by"]
    if as_csv:
        with service.open("GET", "/v1/usage", query=query | {"csv": True}) as table:
            click.echo(table.read().decode(), nl=False)
        return
    rows: list[dict[str, Any]] = []
    after: str | None = ""
    while after is not None:
        page = service.request("GET", "/v1/usage", query=query | {"after": after})
        rows, after = rows + page["usage"], page["next"]
    name = () if by == "month" else ("name",)
    hours = [f"gpu_hours_{kind}" for kind in _KINDS]
    shown = rows if as_json else [row | _for_people(row) for row in rows]
    _show(shown, ("group", *name, "attempts", *_KINDS, *hours, "goodput"), as_json)


_KINDS = ("used", "wasted", "saved", "waited")


def _for_people(row: "Mapping[str, Any]") -> dict[str, Any]:
    from app.cli.screen import duration

    hours = {name: f"{row[name]:.4g}" for name in row if name.startswith("gpu_hours_")}
    goodput = None if row["goodput"] is None else f"{row['goodput']:.1%}"
    return (
        {kind: duration(row[f"{kind}_seconds"]) for kind in _KINDS} | hours | {"goodput": goodput}
    )


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
    _show(api.call("GET", "/v1/projects")["projects"], columns, as_json)


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
    path = f"/v1/projects/{api.project_id(project)}"
    limits = {"max_runs": runs, "max_gpus": gpus, "max_bytes": size}
    changes = _changes(limits)
    answer = api.call("PATCH", path, changes) if changes else api.call("GET", path)
    use = api.call("GET", f"{path}/use")
    rows = [
        {"of": name, "used": use[name], "most": answer[f"max_{name}"]}
        for name in ("runs", "gpus", "bytes")
    ]
    _show(rows, ("of", "used", "most"), as_json)


@project.command("retention")
@click.argument("project")
@click.option("--logs", callback=_days, help="Days after a run's end for which its log is kept.")
@click.option("--points", callback=_days, help="The same of all of its points: then thinned.")
@click.option("--curves", callback=_days, help="The same of any points: then the latest stay.")
@api.JSON
@api.calls_service
def retention(
    project: str, logs: float | str | None, points: float | str | None,
    curves: float | str | None, as_json: bool,
) -> None:  # fmt: skip
    """Show for how long a PROJECT keeps logs and points, or change that.

    Each is a number of days, or `none` for what the service is set to.
    """
    path = f"/v1/projects/{api.project_id(project)}"
    rules = {"logs_days": logs, "points_days": points, "curves_days": curves}
    changes = _changes(rules)
    answer = api.call("PATCH", path, changes) if changes else api.call("GET", path)
    rows = [{"of": name, "days": answer[f"{name}_days"]} for name in ("logs", "points", "curves")]
    _show(rows, ("of", "days"), as_json)


@project.command("gate")
@click.argument("project")
@click.option(
    "--metric", "metrics", multiple=True, help="A bound such as 'val_loss<=2.0'; may be repeated."
)
@click.option("--verified-hours", callback=_days, help="Hours since its files were found whole.")
@click.option("--approval/--no-approval", default=None, help="Another maintainer must approve.")
@click.option("--open", "is_open", is_flag=True, help="Take its gate away.")
@api.JSON
@api.calls_service
def gate(
    project: str, metrics: tuple[str, ...], verified_hours: float | str | None,
    approval: bool | None, is_open: bool, as_json: bool,
) -> None:  # fmt: skip
    """Show what a release of a PROJECT needs besides what the service wants, or change that."""
    path = f"/v1/projects/{api.project_id(project)}"
    names = ("metrics", "verified_hours", "approval")
    changes: dict[str, Any] = dict.fromkeys((f"release_{name}" for name in names), None)
    if not is_open:
        rules = {
            "release_metrics": list(metrics) or None, "release_verified_hours": verified_hours,
            "release_approval": approval,
        }  # fmt: skip
        changes = _changes(rules)
    answer = api.call("PATCH", path, changes) if changes else api.call("GET", path)
    rows = [{"of": name, "needs": answer[f"release_{name}"]} for name in names]
    _show(rows, ("of", "needs"), as_json)


@project.command("members")
@click.argument("project")
@api.JSON
@api.calls_service
def list_members(project: str, as_json: bool) -> None:
    """List the members of a PROJECT."""
    rows = api.call("GET", f"/v1/projects/{api.project_id(project)}/members")["members"]
    _show(rows, ("user", "role", "created_at"), as_json)


@project.command("add")
@click.argument("project")
@click.argument("user")
@click.option("--role", type=click.Choice(ROLES), default="member", show_default=True)
@api.calls_service
def add_member(project: str, user: str, role: str) -> None:
    """Give a USER a role in a PROJECT, in the place of the one that it has there."""
    path = f"/v1/projects/{api.project_id(project)}/members"
    api.call("POST", path, {"user": user, "role": role})


@project.command("remove")
@click.argument("project")
@click.argument("user")
@api.calls_service
def remove_member(project: str, user: str) -> None:
    """Take a USER's role in a PROJECT away."""
    api.call("DELETE", f"/v1/projects/{api.project_id(project)}/members/{_user_id(user)}")
