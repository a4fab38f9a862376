"""Commands about alerts and webhooks, which call the service."""

from typing import Any
from urllib.parse import quote

import click

from app.cli import api
from app.cli.errors import Exit, Refused

KINDS = (
    "run_failed", "run_finished", "run_stalled", "metric_nan", "metric_spike", "metric_threshold",
    "checkpoint_released",
)  # fmt: skip
FORMATS = ("standard", "slack")


def _show(rows: list[dict[str, Any]], columns: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        api.print_json(rows)
    else:
        api.print_table(*api.cells_of(rows, columns))


def _show_made(answer: dict[str, Any], text: str, as_json: bool) -> None:
    """Print what the service has made: its whole answer as JSON, or the text alone."""
    if as_json:
        api.print_json(answer)
    else:
        click.echo(text)


def _find(rows: list[dict[str, Any]], what: str, key: str, reference: str) -> str:
    """Return the id of the one row with this id, end of an id, or name. Raises Refused."""
    named = [row[key] for row in rows if reference in (row[key], row["name"])]
    ids = named or [row[key] for row in rows if reference and row[key].endswith(reference)]
    if len(ids) != 1:
        wrong = f"several {what}s are called" if ids else f"there is no {what}"
        raise Refused(f"{wrong} {reference!r}", Exit.NOT_FOUND)
    return str(ids[0])


def _find_rule_id(reference: str) -> str:
    rules = api.call("GET", "/v1/alert-rules")["rules"]
    return _find(rules, "alert rule", "rule_id", reference)


def _find_webhook_id(reference: str) -> str:
    webhooks = api.call("GET", "/v1/webhooks")["webhooks"]
    return _find(webhooks, "webhook", "webhook_id", reference)


RULE = click.argument("rule")
WEBHOOK = click.argument("webhook")


@click.group()
def alerts() -> None:
    """Alert rules of projects, and what they found."""


@alerts.command("ls")
@click.option("--firing", is_flag=True, help="Only those that have not recovered.")
@click.option("--run", shell_complete=api.complete_run, help="Of this run alone.")
@click.option("--rule", help="Of this rule alone.")
@click.option("-n", "--limit", type=click.IntRange(1, 1_000), default=100, show_default=True)
@api.JSON
@api.calls_service
def list_alerts(firing: bool, run: str | None, rule: str | None, limit: int, as_json: bool) -> None:
    """List the newest alerts."""
    query = f"?limit={limit}" + ("&firing=true" if firing else "")
    if run is not None:
        query += f"&run_id={api.client().run(run).id}"
    if rule is not None:
        query += f"&rule_id={_find_rule_id(rule)}"
    columns = ("rule_id", "run_id", "step", "value", "fired_at", "recovered_at")
    _show(api.call("GET", f"/v1/alerts{query}")["alerts"], columns, as_json)


@alerts.command("rules")
@api.JSON
@api.calls_service
def list_rules(as_json: bool) -> None:
    """List the rules."""
    columns = (
        "rule_id", "name", "kind", "metric", "direction", "value", "points", "paused_at",
    )  # fmt: skip
    _show(api.call("GET", "/v1/alert-rules")["rules"], columns, as_json)


@alerts.command("add")
@click.argument("kind", type=click.Choice(KINDS))
@click.option("--metric", help="Of a threshold or a spike; of a NaN, left out: every metric.")
@click.option("--above", type=float, help="Fires while the metric is above this.")
@click.option("--below", type=float, help="Fires while the metric is below this.")
@click.option("--spike", type=float, help="Times the usual spread above the usual value.")
@click.option("--points", type=click.IntRange(1, 1_000), help="For how many points in a row.")
@click.option("--name", help="Name for people.")
@click.option("--project", help="The project; left out: your only one, or the default.")
@api.JSON
@api.calls_service
def add_rule(
    kind: str, above: float | None, below: float | None, spike: float | None, as_json: bool,
    **fields: Any,
) -> None:  # fmt: skip
    """Add a rule about KIND, and print its id."""
    bounds = [("above", above), ("below", below), (None, spike)]
    chosen = [(direction, value) for direction, value in bounds if value is not None]
    if len(chosen) > 1:
        raise click.UsageError("give one of --above, --below and --spike")
    body = {"kind": kind, **{name: value for name, value in fields.items() if value is not None}}
    for direction, value in chosen:
        body |= {"value": value} | ({"direction": direction} if direction else {})
    rule = api.call("POST", "/v1/alert-rules", body)
    _show_made(rule, rule["rule_id"], as_json)


@alerts.command("pause")
@RULE
@api.calls_service
def pause_rule(rule: str) -> None:
    """Pause RULE: nothing of it fires."""
    api.call("PATCH", f"/v1/alert-rules/{_find_rule_id(rule)}", {"paused": True})


@alerts.command("unpause")
@RULE
@api.calls_service
def unpause_rule(rule: str) -> None:
    """Let RULE go on."""
    api.call("PATCH", f"/v1/alert-rules/{_find_rule_id(rule)}", {"paused": False})


@alerts.command("delete")
@RULE
@api.calls_service
def delete_rule(rule: str) -> None:
    """Delete RULE, and what it found."""
    api.call("DELETE", f"/v1/alert-rules/{_find_rule_id(rule)}")


@click.group()
def webhooks() -> None:
    """Addresses that receive events."""


@webhooks.command("ls")
@api.JSON
@api.calls_service
def list_webhooks(as_json: bool) -> None:
    """List the webhooks."""
    columns = ("webhook_id", "name", "url", "types", "format", "paused_at", "failing_since")
    rows = api.call("GET", "/v1/webhooks")["webhooks"]
    if not as_json:
        rows = [row | {"types": row["types"] or "all"} for row in rows]
    _show(rows, columns, as_json)


@webhooks.command("add")
@click.argument("url")
@click.option("-t", "--type", "types", multiple=True, help="An event to tell of; none: all.")
@click.option("--name", help="Name for people.")
@click.option("--format", type=click.Choice(FORMATS), default="standard", show_default=True)
@click.option("--experiment", shell_complete=api.complete_experiment, help="Only of this one.")
@click.option("--project", help="Only of this one.")
@api.JSON
@api.calls_service
def add_webhook(experiment: str | None, project: str | None, as_json: bool, **fields: Any) -> None:
    """Send events to URL; print its id and the secret that signs, which is shown this once."""
    body = {name: value for name, value in fields.items() if value not in (None, ())}
    if experiment is not None:
        body["experiment_id"] = api.client().experiment_id(experiment)
    if project is not None:
        body["project_id"] = api.find_project_id(project)
    webhook = api.call("POST", "/v1/webhooks", body)
    _show_made(webhook, f"{webhook['webhook_id']}\n{webhook['signing_secret']}", as_json)


@webhooks.command("test")
@WEBHOOK
@api.JSON
@api.calls_service
def test_webhook(webhook: str, as_json: bool) -> None:
    """Send a message of the type `webhook.test`, and print its id."""
    message = api.call("POST", f"/v1/webhooks/{_find_webhook_id(webhook)}/test", {})
    _show_made(message, message["delivery_id"], as_json)


@webhooks.command("messages")
@WEBHOOK
@click.option("-n", "--limit", type=click.IntRange(1, 1_000), default=20, show_default=True)
@api.JSON
@api.calls_service
def list_messages(webhook: str, limit: int, as_json: bool) -> None:
    """List the newest messages to WEBHOOK."""
    path = f"/v1/webhooks/{_find_webhook_id(webhook)}/deliveries?limit={limit}"
    columns = ("delivery_id", "type", "state", "attempts", "last_status", "last_error")
    _show(api.call("GET", path)["deliveries"], columns, as_json)


@webhooks.command("redeliver")
@WEBHOOK
@click.argument("message")
@api.JSON
@api.calls_service
def redeliver(webhook: str, message: str, as_json: bool) -> None:
    """Send MESSAGE once more, under its own id."""
    path = f"/v1/webhooks/{_find_webhook_id(webhook)}/deliveries/{quote(message)}/redeliver"
    sent = api.call("POST", path, {})
    _show_made(sent, sent["delivery_id"], as_json)


@webhooks.command("pause")
@WEBHOOK
@api.calls_service
def pause_webhook(webhook: str) -> None:
    """Pause WEBHOOK: nothing is sent, and what comes waits."""
    api.call("PATCH", f"/v1/webhooks/{_find_webhook_id(webhook)}", {"paused": True})


@webhooks.command("unpause")
@WEBHOOK
@api.calls_service
def unpause_webhook(webhook: str) -> None:
    """Let WEBHOOK go on with what waits."""
    api.call("PATCH", f"/v1/webhooks/{_find_webhook_id(webhook)}", {"paused": False})


@webhooks.command("delete")
@WEBHOOK
@api.calls_service
def delete_webhook(webhook: str) -> None:
    """Delete WEBHOOK, and its messages."""
    api.call("DELETE", f"/v1/webhooks/{_find_webhook_id(webhook)}")
