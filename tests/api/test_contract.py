"""Every answer of a whole story is what /openapi.json says: status, headers and every field."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest

from tests.api.conftest import Api, running
from tests.api.problem import problem
from tests.support.json_schema import closed

Call = Callable[..., Any]


class Judge:
    """Makes requests and holds each answer against the document."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.document: dict[str, Any] = api.app.openapi()
        self.answered: set[str] = set()

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        more = {} if body is None else {"json": body}
        answer = self.api.send(method, path, headers=headers, **more)
        self.check(method, path.partition("?")[0], answer)
        return answer

    def check(self, method: str, path: str, answer: httpx.Response) -> None:
        template = next(each for each in self.document["paths"] if matches(each, path))
        operation = self.document["paths"][template][method.lower()]
        told = operation["responses"][str(answer.status_code)]
        media = answer.headers["content-type"].partition(";")[0]
        assert media in told["content"], f"{method} {path}: {answer.text}"
        for name in ("idempotent-replayed", "retry-after", "x-next-offset", "www-authenticate"):
            assert (name not in answer.headers) or name in map(str.lower, told["headers"]), name
        if answer.status_code >= 400:
            problem(answer)
        elif media == "application/json":
            schema = told["content"][media]["schema"]
            reference = schema["$ref"].rpartition("/")[2]
            validate(self.document, reference, answer.json())
            self.answered.add(operation["operationId"])


def matches(template: str, path: str) -> bool:
    return re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path) is not None


def validate(document: dict[str, Any], name: str, answer: Any) -> None:
    closed(document, name).validate(answer)


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    with running(tmp_path_factory.mktemp("contract")) as api:
        yield Judge(api)


def test_the_judge_sees_a_field_too_many_too_few_or_of_another_type(judge: Judge) -> None:
    good = judge.api.send("GET", "/").json()
    validate(judge.document, "ServiceAnswer", good)
    without = {key: value for key, value in good.items() if key != "name"}
    for bad in ({**good, "more": 1}, without, {**good, "name": 1}):
        with pytest.raises(jsonschema_rs.ValidationError):
            validate(judge.document, "ServiceAnswer", bad)
    detail = judge.document["components"]["schemas"]["DetailAnswer"]["examples"][0]
    for change in ({"created_at": "yesterday"}, {"status": "lazy"}, {"hidden": True}):
        bad = {**detail, "runs": [detail["runs"][0] | change]}
        with pytest.raises(jsonschema_rs.ValidationError):
            validate(judge.document, "DetailAnswer", bad)


def test_the_story_of_an_external_run_is_as_documented(judge: Judge) -> None:
    call: Call = judge
    for path in ("/", "/healthz", "/readyz"):
        call("GET", path)
    body = {"name": "a", "task_type": "sft", "param_config": {"deep": [{"x": None}]}, "tags": ["t"]}
    key = {"Idempotency-Key": '"a key"'}
    experiment = call("POST", "/v1/experiments", body, **key).json()["experiment_id"]
    replayed = call("POST", "/v1/experiments", body, **key)
    assert replayed.headers["idempotent-replayed"] == "true"
    call("POST", "/v1/experiments", body | {"name": "b"}, **key)
    base = f"/v1/experiments/{experiment}"

    submitted = {
        "model": "m", "dataset": {"name": "d"}, "hyperparams": {"lr": 0.1, "steps": 10},
        "resources": {"gpu_type": "A100", "count": 4, "cpus": 0.5}, "notes": "n",
    }  # fmt: skip
    run = call("POST", f"{base}/runs", submitted).json()
    mine, reports = f"{base}/runs/{run['run_id']}", f"/v1/runs/{run['run_id']}/reports"
    token = {"Authorization": f"Bearer {run['run_token']}"}
    call("GET", f"{mine}/status")
    call("GET", f"{mine}/logs")
    spec = f"/v1/runs/{run['run_id']}/spec"
    call("GET", spec)
    assert call("GET", spec, **token).json()["hyperparams"] == submitted["hyperparams"]
    report = {
        "session": "s", "batch": 1, "step": 4, "total_steps": 10,
        "metrics": {"loss": {"steps": [1, 2, 3], "values": [1.5, "NaN", "-Infinity"]}},
        "points": [{"key": "acc", "step": 3, "value": None, "wall_time": 1.5}],
        "checkpoints": [{"name": "step-3", "step": 3, "size_bytes": 7, "sha256": "a" * 64}],
        "effective_hyperparams": {"lr": 0.1, "steps": 12},
    }  # fmt: skip
    call("POST", reports, report)
    call("POST", reports, report, **token)
    call("POST", reports, report | {"attempt": 7, "session": None}, **token)
    for path in (
        "status",
        "metrics",
        "metrics?raw=true",
        "metrics?points=10",
        "metrics?nonsense=1",
    ):
        call("GET", f"{mine}/{path}")
    call("GET", f"{base}/metrics?run_ids={run['run_id']}")
    call("GET", mine)
    call("GET", base)
    call("PATCH", mine, {"name": "first", "tags": ["a"], "notes": None})
    call("PATCH", mine, {"archived": True})
    call("PATCH", mine, {"tags": [""]})
    call("PATCH", base, {"notes": "on record", "archived": False})
    call("GET", f"/v1/runs?experiment_id={experiment}&tags=a&keys=loss")
    call("GET", "/v1/runs?limit=0")
    call("GET", f"/v1/runs/counts?experiment_id={experiment}")
    call("GET", f"/v1/runs/compare?only_different=false&run_ids={run['run_id']}")
    call("GET", "/v1/runs/compare?run_ids=x")
    call("GET", "/v1/recipes")
    call("GET", "/v1/capacity")
    assert call("POST", f"{mine}/cancel").status_code == 202
    call("POST", reports, {"session": "s", "batch": 2}, **token)
    child = call(
        "POST", f"{mine}/resume",
        {"ckpt_path": f"/ckpts/{experiment}/{run['run_id']}/step-3",
         "override_hyperparams": {"lr": 0.01, "new": True}},
    ).json()  # fmt: skip
    call("GET", f"{base}/runs/{child['run_id']}/status")
    key = {"Authorization": f"Bearer {child['run_token']}"}
    told = call("GET", f"/v1/runs/{child['run_id']}/spec", **key).json()
    assert (told["resume"]["step"], told["hyperparams"]["lr"]) == (3, 0.01)
    assert call("POST", f"{base}/runs/{child['run_id']}/cancel").status_code == 200
    call("POST", f"{base}/runs/{child['run_id']}/resume")
    call("POST", f"{base}/runs/{child['run_id']}/redact", {"hyperparams": ["none"]})
    call("POST", f"{mine}/redact", {"metrics": ["acc"], "notes": True})
    again = call("POST", f"{mine}/rerun").json()["run_id"]
    mark = {
        "run_id": run["run_id"], "ckpt_path": f"/ckpts/{experiment}/{run['run_id']}/by-hand",
        "tag_type": "release", "release_tag": "v1", "metrics": {"loss": 1, "acc": 0.5},
    }  # fmt: skip
    call("POST", f"{base}/checkpoints/mark", mark)
    call("GET", f"{base}/releases")
    call("GET", f"{base}/releases?at=yesterday")
    call("GET", f"{base}/releases/archive?release_tag=none")
    call("GET", f"{base}/releases/archive")
    call("POST", f"{base}/checkpoints/mark", mark | {"ckpt_path": mark["ckpt_path"] + "-2"})
    call("POST", f"{base}/checkpoints/mark", mark | {"ckpt_path": "/etc/passwd"})
    call("POST", f"{base}/checkpoints/verify", {"run_id": run["run_id"]})
    started = call("POST", f"{base}/verifications", {"run_id": run["run_id"]}).json()
    call("GET", f"{base}/verifications/{started['verification_id']}")
    call("GET", f"{base}/verifications/{started['verification_id']}?after=-1")
    call("GET", f"{base}/retention?keep=1")
    call("GET", f"{base}/retention?keep=0")
    for path in ("detail", "runs", "checkpoints", "events", "runs?limit=1", "runs?limit=0"):
        call("GET", f"{base}/{path}")
    call("GET", "/v1/experiments?tags=t&order=name")

    call("POST", f"{base}/runs/{again}/cancel")
    assert call("DELETE", f"{base}/runs/{again}").status_code == 202
    call("DELETE", mine)
    call("DELETE", base)
    other = call("POST", "/v1/experiments", {"name": "c", "task_type": "sft"}).json()
    call("DELETE", f"/v1/experiments/{other['experiment_id']}")
    call("GET", "/v1/deletions?limit=1")
    call("GET", "/v1/deletions?limit=0")

    hook = call("POST", "/v1/webhooks", {"url": "https://hooks.example.com"}).json()["webhook_id"]
    call("POST", "/v1/webhooks", {"url": "ftp://hooks.example.com"})
    call("PATCH", f"/v1/webhooks/{hook}", {"paused": True, "types": ["run.failed"]})
    sent = call("POST", f"/v1/webhooks/{hook}/test").json()["delivery_id"]
    call("POST", f"/v1/webhooks/{hook}/deliveries/{sent}/redeliver")
    for path in ("", f"/{hook}", f"/{hook}/deliveries", f"/{hook}/deliveries?limit=0"):
        call("GET", f"/v1/webhooks{path}")
    assert judge.api.send("DELETE", f"/v1/webhooks/{hook}").status_code == 204
    call("GET", f"/v1/webhooks/{hook}")

    rule = {"kind": "metric_threshold", "metric": "loss", "direction": "above", "value": 3}
    rule_id = call("POST", "/v1/alert-rules", rule).json()["rule_id"]
    call("POST", "/v1/alert-rules", {"kind": "metric_threshold"})
    call("PATCH", f"/v1/alert-rules/{rule_id}", {"points": 3, "paused": True})
    for path in ("alert-rules", f"alert-rules/{rule_id}", "alerts", "alerts?limit=0"):
        call("GET", f"/v1/{path}")
    assert judge.api.send("DELETE", f"/v1/alert-rules/{rule_id}").status_code == 204
    call("GET", f"/v1/alert-rules/{rule_id}")

    project = call("POST", "/v1/projects", {"name": "speech"}).json()["project_id"]
    call("PATCH", f"/v1/projects/{project}", {"max_runs": 8, "max_bytes": 10**12})
    call(
        "PATCH",
        f"/v1/projects/{project}",
        {"logs_days": 30, "points_days": None, "curves_days": 365},
    )
    for query in ("", "?logs_days=7&curves_days=none", "?points_days=0"):
        call("GET", f"/v1/projects/{project}/retention{query}")
    gate = {"release_metrics": ["wer<0.1"], "release_verified_hours": 1, "release_approval": True}
    call("PATCH", f"/v1/projects/{project}", gate)
    call("PATCH", f"/v1/projects/{project}", {"release_metrics": ["low"]})
    call("PATCH", f"/v1/projects/{project}", {"max_runs": -1})
    call("PATCH", f"/v1/projects/{project}", {"max_gpus": 2**31})
    user = call("POST", "/v1/users", {"name": "alice"}).json()["user_id"]
    call("POST", "/v1/users", {"name": "alice"})
    call("POST", f"/v1/projects/{project}/members", {"user": "alice", "role": "viewer"})
    call("POST", f"/v1/projects/{project}/members", {"user": "nobody", "role": "viewer"})
    token = call("POST", "/v1/tokens", {"user": "alice", "scope": "viewer"}).json()
    for path in (
        "projects", f"projects/{project}", f"projects/{project}/use", f"projects/{project}/members",
        "users", "tokens",
        "tokens?user=alice", "me", "audit", "audit?limit=0",
    ):  # fmt: skip
        call("GET", f"/v1/{path}")
    asks = {"Authorization": f"Bearer {token['token']}"}
    call("GET", "/v1/me", None, **asks)
    call("POST", "/v1/experiments", {"name": "e", "task_type": "t"}, **asks)
    call("PATCH", f"/v1/users/{user}", {"disabled": True})
    call("GET", "/v1/me", None, **asks)
    for path in (f"tokens/{token['token_id']}", f"projects/{project}/members/{user}"):
        assert judge.api.send("DELETE", f"/v1/{path}").status_code == 204

    for asked in (
        "",
        "?by=run",
        f"?experiment_id={experiment}&since=2026-01-01T00:00:00Z",
        "?by=x",
    ):
        call("GET", f"/v1/usage{asked}")

    # tests/api/test_logs.py, test_prometheus.py; an answer without a body
    no_json = {
        "logs", "service_metrics", "delete_webhook", "delete_alert_rule", "revoke_token",
        "remove_member", "export_release",
    }  # fmt: skip
    everything = {
        each["operationId"]
        for item in judge.document["paths"].values()
        for each in item.values()
        if each["tags"] != ["agents"]  # tests/api/test_attempts.py
    }
    missing = everything - no_json - judge.answered
    assert judge.answered == everything - no_json, f"add {missing} to the story above"
