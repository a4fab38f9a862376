"""Commands about who uses a service, which they call: `user`, `token`, `audit`, `usage`."""

from typing import TYPE_CHECKING, Any

import click

from app.cli import api

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLES = ("viewer", "member", "maintainer")


def show(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    """Print rows as a table of these columns, or as JSON."""
    if as_json:
        api.print_json(rows)
    else:
        click.echo(api.format_table(*api.cells_of(rows, columns)))


def find_user_id(reference: str) -> str:
    """Return the id of a user that is named by it or by its name. Raises Refused."""
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
    show(api.call("GET", "/v1/users")["users"], columns, as_json)


@user.command("disable")
@click.argument("name")
@click.option("--undo", is_flag=True, help="Let it in again.")
@api.calls_service
def disable_user(name: str, undo: bool) -> None:
    """Disable a user: none of its tokens and sessions is good any more, at once."""
    api.call("PATCH", f"/v1/users/{find_user_id(name)}", {"disabled": not undo})


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
    show(api.call("GET", f"/v1/tokens{query}")["tokens"], columns, as_json)


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
@click.option("--target", "target_id", help="Id of the target.")
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
    show(shown, ("at", "actor", "action", "target_id", "outcome", "address"), False)


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
    query["project_id"] = project and api.find_project_id(project)
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
    show(shown, ("group", *name, "attempts", *_KINDS, *hours, "goodput"), as_json)


_KINDS = ("used", "wasted", "saved", "waited")


def _for_people(row: "Mapping[str, Any]") -> dict[str, Any]:
    from app.cli.screen import format_duration

    hours = {name: f"{row[name]:.4g}" for name in row if name.startswith("gpu_hours_")}
    goodput = None if row["goodput"] is None else f"{row['goodput']:.1%}"
    return (
        {kind: format_duration(row[f"{kind}_seconds"]) for kind in _KINDS}
        | hours
        | {"goodput": goodput}
    )
