"""Webhooks and alert rules by GraphQL are those of REST."""

import pytest

from tests.api.conftest import Api
from tests.support.graphql import Graph


@pytest.fixture
def graph(api: Api) -> Graph:
    return Graph(api.send)


def test_a_webhook_is_made_tried_paused_and_deleted(api: Api, graph: Graph) -> None:
    made = graph.do(
        "createWebhook", "webhook { id types format } signingSecret",
        url="https://hooks.example.com", types=["RUN_FAILED", "ALERT_FIRED"], format="SLACK",
    )  # fmt: skip
    assert made["userErrors"] == [] and made["signingSecret"].startswith("whsec_")
    id = made["webhook"]["id"]
    assert made["webhook"] == {"id": id, "types": ["RUN_FAILED", "ALERT_FIRED"], "format": "SLACK"}
    known = api.send("GET", f"/v1/webhooks/{id}").json()
    assert (known["types"], known["format"]) == (["run.failed", "alert.fired"], "slack")
    paused = graph.do("updateWebhook", "webhook { pausedAt }", webhookId=id, paused=True)
    assert paused["webhook"]["pausedAt"]
    sent = [
        graph.do("testWebhook", "delivery { id state message }", webhookId=id)["delivery"]
        for _ in range(2)
    ]
    assert sent[0]["state"] == "PENDING" and sent[0]["message"]["type"] == "webhook.test"
    again = graph.do(
        "redeliver", "delivery { id attempts }", webhookId=id, deliveryId=sent[0]["id"]
    )
    assert again["delivery"] == {"id": sent[0]["id"], "attempts": 0}
    query = "query ($after: ID) { webhooks { id deliveries(first: 1, after: $after) { id } } }"
    pages = []
    for after in (None, sent[1]["id"]):
        found = graph.data(query, after=after)["webhooks"]
        pages += [hook["deliveries"] for hook in found if hook["id"] == id]
    assert pages == [[{"id": sent[1]["id"]}], [{"id": sent[0]["id"]}]]
    assert graph.code("{ webhooks { deliveries(first: 0) { id } } }") == "BAD_USER_INPUT"
    assert graph.do("deleteWebhook", "webhook { id }", webhookId=id)["webhook"] is None
    assert api.send("GET", f"/v1/webhooks/{id}").status_code == 404
    (error,) = graph.do("testWebhook", "delivery { id }", webhookId=id)["userErrors"]
    assert error["code"] == "not_found"


def test_an_alert_rule_is_made_changed_and_deleted_and_a_wrong_one_is_named(
    api: Api, graph: Graph
) -> None:
    (error,) = graph.do(
        "createAlertRule", "alertRule { id }", kind="METRIC_THRESHOLD", metric="loss", value=1.5
    )["userErrors"]
    assert (error["code"], error["field"]) == ("invalid_input", ["input", "direction"])
    made = graph.do(
        "createAlertRule", "alertRule { id kind direction value points }",
        kind="METRIC_THRESHOLD", metric="loss", value=1.5, direction="BELOW", points=3,
    )["alertRule"]  # fmt: skip
    id = made.pop("id")
    assert made == {"kind": "METRIC_THRESHOLD", "direction": "BELOW", "value": 1.5, "points": 3}
    changed = graph.do("updateAlertRule", "alertRule { value pausedAt }", ruleId=id, value=2.5,
                       paused=True)["alertRule"]  # fmt: skip
    assert changed["value"] == 2.5 and changed["pausedAt"]
    assert id in [rule["id"] for rule in graph.data("{ alertRules { id } }")["alertRules"]]
    assert api.send("GET", f"/v1/alert-rules/{id}").json()["value"] == 2.5
    graph.do("deleteAlertRule", "alertRule { id }", ruleId=id)
    assert api.send("GET", f"/v1/alert-rules/{id}").status_code == 404


def test_a_run_that_fails_is_an_alert_in_both(api: Api, graph: Graph) -> None:
    rule = graph.do("createAlertRule", "alertRule { id }", kind="RUN_FINISHED")["alertRule"]["id"]
    experiment = api.post("/v1/experiments", {"name": "e", "task_type": "t"})["experiment_id"]
    run = api.post(f"/v1/experiments/{experiment}/runs", {"model": "m"})["run_id"]
    api.send("POST", f"/v1/experiments/{experiment}/runs/{run}/cancel")
    query = "query ($run: ID) { alerts(runId: $run, firing: true) { ruleId runId ckptPath } }"
    (alert,) = graph.data(query, run=run)["alerts"]
    assert alert == {"ruleId": rule, "runId": run, "ckptPath": None}
    (told,) = api.send("GET", f"/v1/alerts?run_id={run}").json()["alerts"]
    assert (told["rule_id"], told["recovered_at"]) == (rule, None)
