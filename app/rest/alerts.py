"""`/v1/alert-rules`, `/v1/alerts`: rules that raise alerts, and the alerts."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field
from typing_extensions import TypedDict

from app.db.tables import Alert, AlertRule
from app.domain.alerts import AlertRuleRequest, AlertRuleUpdate
from app.domain.ids import PATTERN
from app.rest import responses, schemas
from app.rest.body import read
from app.rest.parameters import DocumentedRoute, Parameters, accepts_json
from app.rest.problems import describe_errors
from app.services import alerts
from app.services.alerts import MAX_LISTED

router = APIRouter(prefix="/v1", tags=["alerts"], route_class=DocumentedRoute)

RULE_ID = "alr_0cc4q1zt8b3k5m7p9s1v3x5z7a"
RuleId = Annotated[str, Path(pattern=PATTERN.format("alr"), examples=[RULE_ID])]


class AlertRuleAnswer(TypedDict):
    """Rule that raises an alert."""

    rule_id: str
    project_id: str
    name: str | None
    kind: Annotated[str, Field(description="Such as `run_failed` or `metric_threshold`.")]
    metric: Annotated[str | None, Field(description="The metric that it is about.")]
    direction: Annotated[str | None, Field(description="`above` or `below`.")]
    value: Annotated[float | None, Field(description="The bound, or the size of a spike.")]
    points: Annotated[int, Field(description="For how many points in a row.")]
    created_at: schemas.Time
    paused_at: schemas.Time | None


class AlertRulesAnswer(TypedDict):
    """The rules of the projects that the caller sees."""

    rules: list[AlertRuleAnswer]


class AlertAnswer(TypedDict):
    """The last firing of a rule for one run, or one released checkpoint."""

    rule_id: str
    experiment_id: str
    run_id: str
    ckpt_path: Annotated[str | None, Field(description="The checkpoint that was released.")]
    attempt: int
    step: int | None
    value: Annotated[float | None, Field(description="Of the metric.")]
    fired_at: schemas.Time
    recovered_at: Annotated[schemas.Time | None, Field(description="Null while it is firing.")]


class AlertsAnswer(TypedDict):
    """The newest alerts."""

    alerts: list[AlertAnswer]


def view(rule: AlertRule) -> AlertRuleAnswer:
    """Return `AlertRuleAnswer`."""
    return {
        "rule_id": rule.id,
        "project_id": rule.project_id,
        "name": rule.name,
        "kind": rule.kind,
        "metric": rule.metric,
        "direction": rule.direction,
        "value": rule.value,
        "points": rule.points,
        "created_at": rule.created_at,
        "paused_at": rule.paused_at,
    }


def view_alert(alert: Alert) -> AlertAnswer:
    """Return `AlertAnswer`."""
    return {
        "rule_id": alert.rule_id,
        "experiment_id": alert.experiment_id,
        "run_id": alert.run_id,
        "ckpt_path": alerts.released_path(alert),
        "attempt": alert.attempt,
        "step": alert.step,
        "value": alert.value,
        "fired_at": alert.fired_at,
        "recovered_at": alert.recovered_at,
    }


@router.post(
    "/alert-rules", status_code=201, response_model=AlertRuleAnswer,
    **accepts_json(AlertRuleRequest),
)  # fmt: skip
async def create_alert_rule(request: Request) -> Response:
    """Create a rule that raises an alert, once for each run until it recovers."""
    body = await read(request, AlertRuleRequest)
    return responses.respond(
        await responses.perform(request, lambda tx: alerts.create(tx, body), view, 201)
    )


@router.get("/alert-rules", response_model=AlertRulesAnswer, responses=describe_errors())
async def list_alert_rules(request: Request) -> Response:
    """List the alert rules of the projects that you are in, oldest first."""
    rows = await request.app.state.db.scan(alerts.list_rules)
    return responses.json({"rules": list(map(view, rows))})


@router.get(
    "/alert-rules/{rule_id}", response_model=AlertRuleAnswer, responses=describe_errors(404)
)
async def get_alert_rule(request: Request, rule_id: RuleId) -> Response:
    """Return an alert rule."""
    return responses.json(view(await request.app.state.db.read(alerts.get, rule_id)))


@router.patch(
    "/alert-rules/{rule_id}", response_model=AlertRuleAnswer,
    **accepts_json(AlertRuleUpdate, 404),
)  # fmt: skip
async def update_alert_rule(request: Request, rule_id: RuleId) -> Response:
    """Change an alert rule, pause it, or let it go on."""
    body = await read(request, AlertRuleUpdate)
    return responses.respond(
        await responses.perform(request, lambda tx: alerts.update(tx, rule_id, body), view)
    )


@router.delete("/alert-rules/{rule_id}", status_code=204, responses=describe_errors(404))
async def delete_alert_rule(request: Request, rule_id: RuleId) -> Response:
    """Delete an alert rule, and what it has found."""
    await responses.write(request, lambda tx: alerts.remove(tx, rule_id))
    return Response(status_code=204)


class AlertsQuery(Parameters):
    """The filters of alerts."""

    run_id: Annotated[str | None, Field(pattern=PATTERN.format("run"))] = None
    rule_id: Annotated[str | None, Field(pattern=PATTERN.format("alr"))] = None
    firing: bool = Field(default=False, description="Only those that have not recovered.")
    limit: Annotated[int, Field(ge=1, le=MAX_LISTED)] = 100


@router.get("/alerts", response_model=AlertsAnswer, responses=describe_errors(422))
async def list_alerts(request: Request, query: Annotated[AlertsQuery, Query()]) -> Response:
    """List the newest alerts of a rule, of a run or of all that you see."""
    conditions = {"run_id": query.run_id, "rule_id": query.rule_id}
    filters = {name: value for name, value in conditions.items() if value is not None}
    rows = await request.app.state.db.scan(alerts.list_alerts, filters, query.firing, query.limit)
    return responses.json({"alerts": list(map(view_alert, rows))})
