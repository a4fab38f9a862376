"""The audit, whichever API a user writes with: one name for one action, and nothing left out."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute

from app.main import create_app
from app.services import audit
from app.settings import Settings
from tests.api.conftest import Api, running
from tests.support.tenants import API_TOKEN, Person, operator, person

MLFLOW = "/mlflow/api/2.0/mlflow"
OF_REST_ALONE = {  # no user's, or of the session
    "append_log", "claim_attempt", "commit_checkpoint", "commit_upload", "make_code",
    "plan_uploads", "pulse", "put_file", "record_exit", "report", "sign_in", "sign_out",
    "start_verification",
}  # fmt: skip


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("audited"), api_token=API_TOKEN) as started:
        yield started


@pytest.fixture(scope="module")
def ann(api: Api) -> Person:
    return person(operator(api.send), "ann", "default", "maintainer")


def entries(api: Api) -> list[tuple[str, str]]:
    """Return what ann has done, and to what; the first action first."""
    listed = operator(api.send).ok("GET", "/v1/audit?actor=ann&limit=1000")["entries"]
    return [(entry["action"], entry["target_id"]) for entry in reversed(listed)]


def recorded(api: Api, target: str) -> list[str]:
    """The actions of ann on something, the first one first."""
    return [action for action, about in entries(api) if about == target]


def test_what_rest_and_graphql_can_both_do_has_one_name(tmp_path: Path) -> None:
    app = create_app(Settings(database_url=f"sqlite:///{tmp_path}/app.db", data_dir=tmp_path))
    routes = [route for route in app.router.routes if isinstance(route, APIRoute)]
    of_rest = {
        audit.name_of(route.name)
        for route in routes
        if route.include_in_schema and not (route.methods or set()) <= {"GET", "HEAD"}
    }
    sdl = Path("schema.graphql").read_text()
    block = re.search(r"^type Mutation \{(.*?)^\}", sdl, re.DOTALL | re.MULTILINE)
    assert block is not None
    of_graphql = {audit.name_of(name) for name in re.findall(r"^  (\w+)\(", block[1], re.MULTILINE)}
    assert of_graphql - of_rest == set()
    assert of_rest - of_graphql <= OF_REST_ALONE


def graphql(who: Person, name: str, asked: dict[str, Any], wanted: str = "") -> Any:
    """Run a mutation; return its payload."""
    query = f"mutation($input: {name[0].upper()}{name[1:]}Input!) {{ {name}(input: $input) {{ "
    query += f"{wanted} userErrors {{ message }} }} }}"
    body = {"query": query, "variables": {"input": asked}}
    payload = who.ok("POST", "/graphql", body)["data"][name]
    assert payload["userErrors"] == [], (name, payload)
    return payload


def test_rest_and_graphql_record_the_same_of_the_same(api: Api, ann: Person) -> None:
    """Each is asked for the same in turn: the actions, and the kinds of what they are about."""
    admin = operator(api.send)
    others = [admin.ok("POST", "/v1/users", {"name": name})["user_id"] for name in ("bo", "cy")]
    new = {"name": "both", "task_type": "t"}
    made = ann.ok("POST", "/v1/experiments", new)["experiment_id"]
    runs, project, hook = f"/v1/experiments/{made}/runs", ann.project_id, "https://example.com/h"
    before = len(entries(api))

    run = ann.ok("POST", runs, {"model": "m"})["run_id"]
    ann.ok("PATCH", f"{runs}/{run}", {"name": "n"})
    ann.ok("POST", f"{runs}/{run}/cancel")
    again = ann.ok("POST", f"{runs}/{run}/rerun")["run_id"]
    ann.ok("DELETE", f"{runs}/{run}")
    ann.ok("PATCH", f"/v1/experiments/{made}", {"notes": "x"})
    webhook = ann.ok("POST", "/v1/webhooks", {"url": hook, "experiment_id": made})["webhook_id"]
    sent = ann.ok("POST", f"/v1/webhooks/{webhook}/test")["delivery_id"]
    ann.ok("POST", f"/v1/webhooks/{webhook}/deliveries/{sent}/redeliver")
    ann.ok("DELETE", f"/v1/webhooks/{webhook}")
    ann.ok("POST", f"/v1/projects/{project}/members", {"user": "bo", "role": "viewer"})
    ann.ok("DELETE", f"/v1/projects/{project}/members/{others[0]}")
    token = ann.ok("POST", "/v1/tokens", {"name": "t"})["token_id"]
    ann.ok("DELETE", f"/v1/tokens/{token}")
    over_rest = entries(api)[before:]

    run = graphql(ann, "createRun", {"experimentId": made, "model": "m"}, "run { id }")["run"]["id"]
    graphql(ann, "updateRun", {"runId": run, "name": "n"})
    graphql(ann, "cancelRun", {"runId": run})
    again = graphql(ann, "rerunRun", {"runId": run}, "run { id }")["run"]["id"]
    graphql(ann, "deleteRun", {"runId": run})
    graphql(ann, "updateExperiment", {"experimentId": made, "notes": "y"})
    asked = {"url": hook, "experimentId": made}
    webhook = graphql(ann, "createWebhook", asked, "webhook { id }")["webhook"]["id"]
    sent = graphql(ann, "testWebhook", {"webhookId": webhook}, "delivery { id }")["delivery"]["id"]
    graphql(ann, "redeliver", {"webhookId": webhook, "deliveryId": sent})
    graphql(ann, "deleteWebhook", {"webhookId": webhook})
    graphql(ann, "setMember", {"projectId": project, "user": "cy", "role": "VIEWER"})
    graphql(ann, "removeMember", {"projectId": project, "userId": others[1]})
    token = graphql(ann, "createToken", {"name": "t"}, "apiToken { id }")["apiToken"]["id"]
    graphql(ann, "revokeToken", {"tokenId": token})
    over_graphql = entries(api)[before + len(over_rest) :]

    def kinds(listed: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(action, target.partition("_")[0]) for action, target in listed]

    assert kinds(over_graphql) == kinds(over_rest) and len(over_rest) == 14
    about = dict(over_graphql)  # the last of each action
    assert about["create_run"] == about["delete_run"] == run and about["rerun_run"] == again
    assert about["redeliver"] == sent and about["revoke_token"] == token


def test_what_a_user_does_with_mlflows_client_is_on_record(api: Api, ann: Person) -> None:
    def ask(method: str, path: str, body: Any) -> Any:
        return ann.ok(method, f"{MLFLOW}/{path}", body)

    experiment = ask("POST", "experiments/create", {"name": "tracked"})["experiment_id"]
    tag = {"key": "k", "value": "v"}
    ask("POST", "experiments/set-experiment-tag", {"experiment_id": experiment, **tag})
    assert recorded(api, experiment) == ["create_experiment", "update_experiment"]

    run = ask("POST", "runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"]
    ask("POST", "runs/set-tag", {"run_id": run, **tag})
    ask("POST", "runs/delete-tag", {"run_id": run, "key": "k"})
    ask("POST", "runs/log-metric", {"run_id": run, "key": "loss", "value": 1.0, "step": 1})
    ask("POST", "runs/update", {"run_id": run, "status": "RUNNING"})

    new = {"experiment_id": experiment, "source_run_id": run, "name": "weights"}
    model = ask("POST", "logged-models", new)["model"]["info"]["model_id"]
    ask("POST", f"logged-models/{model}/params", {"params": [tag]})
    measured = {"run_id": run, "model_id": model, "key": "loss", "value": 1.0, "timestamp": 1}
    ask("POST", "runs/log-metric", measured)
    link = {"models": [{"model_id": model, "step": 1}]}
    ask("POST", "runs/outputs", {"run_id": run, **link})
    ask("PATCH", f"logged-models/{model}", {"status": "LOGGED_MODEL_READY"})
    ask("PATCH", f"logged-models/{model}/tags", {"tags": [tag]})
    ask("DELETE", f"logged-models/{model}/tags/k", None)
    assert recorded(api, model) == ["create_model", *["update_model"] * 3]

    ask("POST", "runs/update", {"run_id": run, "status": "FINISHED", "run_name": "named"})
    changed = ["update_run"] * 4  # a tag, none, the end, the name; of a metric nothing
    assert recorded(api, run) == ["create_run", *changed]

    killed = ask("POST", "runs/create", {"experiment_id": experiment})["run"]["info"]["run_id"]
    assert killed != run, "what was answered is forgotten: the same again is another run"
    ask("POST", "runs/update", {"run_id": killed, "status": "KILLED"})
    assert recorded(api, killed) == ["create_run", "cancel_run"]


def test_what_a_user_does_with_wandbs_client_is_on_record(api: Api, ann: Person) -> None:
    variables = {"name": "fast", "project": "of-wandb", "entity": None, "config": "{}"}
    body = {"operationName": "UpsertBucket", "query": "…", "variables": variables}
    bucket = ann.ok("POST", "/wandb/graphql", body)["data"]["upsertBucket"]["bucket"]
    again = ann.ok("POST", "/wandb/graphql", body)["data"]["upsertBucket"]
    assert (again["bucket"]["id"], again["inserted"]) == (bucket["id"], False)
    content = {
        "wandb-history.jsonl": '{"_step": 1, "loss": 1}',
        "wandb-summary.json": '{"best": 2}',
    }
    files = {name: {"offset": 0, "content": [line]} for name, line in content.items()}
    stream = "/wandb/files/e/of-wandb/fast/file_stream"
    ann.ok("POST", stream, {"files": files})
    ann.ok("POST", stream, {"files": files, "complete": True, "exitcode": 0})
    assert recorded(api, bucket["project"]["id"]) == ["create_experiment"]
    assert recorded(api, bucket["id"]) == ["create_run", "update_run"]


def test_a_run_that_a_user_imports_is_on_record(api: Api, ann: Person) -> None:
    source = {"experiment": "imported", "source": "elsewhere/1", "name": "old"}
    made = ann.ok("POST", "/mlflow/import/runs", source)
    ann.ok("POST", "/mlflow/import/runs/finish", {"run_id": made["run_id"], "status": "FINISHED"})
    assert recorded(api, made["run_id"]) == ["create_run", "update_run"]
    assert recorded(api, made["experiment_id"]) == ["create_experiment"]
