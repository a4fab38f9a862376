"""The MLflow API, as its clients call it: paths, words and error codes are theirs."""

import asyncio
import base64
import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.domain.tokens import attempt_token, run_token
from tests.api.conftest import Api, running
from tests.support.database import postgresql_heavy
from tests.support.server import wait_until

pytestmark = postgresql_heavy  # what is stored is what REST and reports store

A = "/mlflow/api/2.0/mlflow"
F = "/mlflow/api/2.0/mlflow-artifacts/artifacts"
TOKEN = "an-api-token-of-the-tests"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("closed"), api_token=TOKEN) as api:
        yield api


def post(api: Api, path: str, body: Any, expect: int = 200, **more: Any) -> Any:
    answer = api.send("POST", f"{A}/{path}", json=body, **more)
    assert answer.status_code == expect, answer.text
    return answer.json()


def get(api: Api, path: str, expect: int = 200, **params: Any) -> Any:
    answer = api.send("GET", f"{A}/{path}", params=params)
    assert answer.status_code == expect, answer.text
    return answer.json()


def basic(user: str, password: str) -> dict[str, str]:
    encoded = base64.b64encode(f"{user}:{password}".encode()).decode()
    return {"Authorization": f"Basic {encoded}"}


def new_run(api: Api, name: str, experiment: str = "0", **more: Any) -> str:
    body = {"experiment_id": experiment, "run_name": name, **more}
    return str(post(api, "runs/create", body)["run"]["info"]["run_id"])


def log(api: Api, run: str, **metrics: tuple[int, Any]) -> None:
    points = [
        {"key": key, "step": step, "value": value, "timestamp": 1_700_000_000_000 + step}
        for key, (step, value) in metrics.items()
    ]
    post(api, "runs/log-batch", {"run_id": run, "metrics": points})


def view(api: Api, run: str) -> Any:
    return get(api, "runs/get", run_id=run)["run"]


def data(api: Api, run: str, kind: str) -> dict[str, Any]:
    return {each["key"]: each["value"] for each in view(api, run)["data"].get(kind, [])}


def status(api: Api, run: str) -> Any:
    experiment = view(api, run)["info"]["experiment_id"]
    answer = api.send("GET", f"/v1/experiments/{experiment}/runs/{run}/status")
    return answer.json()


def ended(api: Api, run: str) -> Any:
    def now() -> Any:
        found = status(api, run)
        return found["status"] in ("succeeded", "failed", "cancelled") and found

    return wait_until(now, lambda: str(status(api, run)))


def test_an_experiment_is_found_by_its_name_and_made_once(api: Api) -> None:
    missing = get(api, "experiments/get-by-name", 404, experiment_name="by name")
    assert missing["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    body = {"name": "by name", "tags": [{"key": "team", "value": "nlp"}]}
    made = post(api, "experiments/create", body)["experiment_id"]
    again = post(api, "experiments/create", body, 400)
    assert again["error_code"] == "RESOURCE_ALREADY_EXISTS"
    # One of the same name that REST makes later is another: clients go on with theirs.
    api.post("/v1/experiments", {"name": "by name", "task_type": "sft"})
    found = get(api, "experiments/get-by-name", experiment_name="by name")["experiment"]
    assert found["experiment_id"] == made
    assert found["tags"] == [{"key": "team", "value": "nlp"}]
    assert type(found["creation_time"]) is int
    assert get(api, "experiments/get", experiment_id=made)["experiment"]["name"] == "by name"
    default = get(api, "experiments/get", experiment_id="0")["experiment"]
    assert default["name"] == "Default"
    post(api, "experiments/set-experiment-tag",
         {"experiment_id": made, "key": "team", "value": "cv"})  # fmt: skip
    matching = post(api, "experiments/search", {"filter": "tags.team = 'cv'"})["experiments"]
    assert [each["experiment_id"] for each in matching] == [made]


def test_an_experiment_of_rest_is_found_by_its_name(api: Api) -> None:
    made = api.post("/v1/experiments", {"name": "of rest", "task_type": "sft"})
    found = get(api, "experiments/get-by-name", experiment_name="of rest")["experiment"]
    assert found["experiment_id"] == made["experiment_id"]
    refused = post(api, "experiments/create", {"name": "of rest"}, 400)
    assert refused["error_code"] == "RESOURCE_ALREADY_EXISTS"


def test_a_run_reports_metrics_params_and_tags_and_reads_them_back(api: Api) -> None:
    run = new_run(api, "first", tags=[{"key": "mlflow.user", "value": "ann"}])
    log(api, run, loss=(1, 2.0), nan=(1, "NaN"), inf=(1, "-Infinity"))
    log(api, run, loss=(2, 1.0))
    body = {"run_uuid": run, "key": "acc", "value": 0.5, "timestamp": "1700000000000", "step": "3"}
    post(api, "runs/log-metric", body)
    params = {"lr": "1e-05", "flag": "True", "none": "None", "list": "[1, 'a']", "text": "1.0.0"}
    listed = [{"key": key, "value": value} for key, value in params.items()]
    post(api, "runs/log-batch", {"run_id": run, "params": listed,
                                 "tags": [{"key": "stage", "value": "dev"}]})  # fmt: skip
    post(api, "runs/log-parameter", {"run_id": run, "key": "n", "value": "3"})
    post(api, "runs/set-tag", {"run_id": run, "key": "note", "value": "x"})
    post(api, "runs/delete-tag", {"run_id": run, "key": "note"})
    gone = post(api, "runs/delete-tag", {"run_id": run, "key": "note"}, 404)
    assert gone["error_code"] == "RESOURCE_DOES_NOT_EXIST"

    found = view(api, run)
    info = found["info"]
    assert (info["run_id"], info["run_uuid"], info["status"]) == (run, run, "RUNNING")
    assert (info["run_name"], info["user_id"], type(info["start_time"])) == ("first", "ann", int)
    latest = {each["key"]: each for each in found["data"]["metrics"]}
    assert latest["loss"] == {
        "key": "loss", "value": 1.0, "step": 2, "timestamp": 1_700_000_000_002,
    }  # fmt: skip
    assert latest["nan"]["value"] == "NaN"
    assert data(api, run, "params") == {**params, "n": "3"}
    assert data(api, run, "tags") == {
        "mlflow.runName": "first", "mlflow.user": "ann", "stage": "dev",
    }  # fmt: skip
    used = api.send("GET", f"/v1/experiments/{info['experiment_id']}/detail").json()["runs"]
    assert used[-1]["step"] == 3
    effective = effective_hyperparams(api, run)
    assert effective == {
        "lr": 1e-05, "flag": True, "none": None, "list": [1, "a"], "text": "1.0.0", "n": 3,
    }  # fmt: skip


def effective_hyperparams(api: Api, run: str) -> Any:
    query = "query($id: ID!) { run(id: $id) { effectiveHyperparams } }"
    answer = api.post("/graphql", {"query": query, "variables": {"id": run}})
    return answer["data"]["run"]["effectiveHyperparams"]


def test_what_is_on_another_axis_moves_no_progress(api: Api) -> None:
    run = new_run(api, "axes")
    log(api, run, loss=(5, 1.0), **{"system/cpu": (400, 1.0), "no_step": (0, 1.0)})
    log(api, run, early=(-3, 1.0))
    log(api, run, early=(-4, 2.0))
    assert status(api, run)["step"] == 5
    log(api, run, **{"system/cpu": (401, 1.0)})
    assert status(api, run)["step"] == 5
    assert {each["key"]: each["step"] for each in view(api, run)["data"]["metrics"]} == {
        "loss": 5, "system/cpu": 401, "no_step": 0, "early": -3,
    }  # fmt: skip


def test_negative_steps_are_kept_in_their_order(api: Api) -> None:
    run = new_run(api, "negative")
    points = [
        {"key": "loss", "step": step, "value": step / 2, "timestamp": 7} for step in range(-70, 70)
    ]
    post(api, "runs/log-batch", {"run_id": run, "metrics": points[70:]})
    post(api, "runs/log-batch", {"run_id": run, "metrics": points[:70]})
    first = get(api, "metrics/get-history", run_id=run, metric_key="loss", max_results=40)
    rest = get(api, "metrics/get-history", run_id=run, metric_key="loss",
               page_token=first["next_page_token"])  # fmt: skip
    history = first["metrics"] + rest["metrics"]
    assert [each["step"] for each in history] == list(range(-70, 70))
    assert [each["value"] for each in history] == [step / 2 for step in range(-70, 70)]
    assert status(api, run)["step"] == 69


def test_a_history_is_read_in_pages_with_its_nan(api: Api) -> None:
    run = new_run(api, "history")
    points = [
        {"key": "loss", "step": step, "value": "NaN" if step == 3 else 1.0 / step, "timestamp": 7}
        for step in range(1, 8)
    ]
    for _ in range(2):  # a client that got no answer sends it again
        post(api, "runs/log-batch", {"run_id": run, "metrics": points})
    first = get(api, "metrics/get-history", run_id=run, metric_key="loss", max_results=4)
    assert [each["step"] for each in first["metrics"]] == [1, 2, 3, 4]
    assert first["metrics"][2] == {"key": "loss", "value": "NaN", "step": 3, "timestamp": 7}
    rest = get(api, "metrics/get-history", run_id=run, metric_key="loss",
               page_token=first["next_page_token"])  # fmt: skip
    assert [each["step"] for each in rest["metrics"]] == [5, 6, 7]
    assert "next_page_token" not in rest


def test_what_a_client_says_ends_an_external_run(api: Api) -> None:
    told = {}
    for word in ("FINISHED", "FAILED", "KILLED"):
        run = new_run(api, word)
        log(api, run, loss=(1, 1.0))
        info = post(api, "runs/update", {"run_id": run, "status": word, "end_time": 1})["run_info"]
        assert info["status"] == word, "also before it is recorded"
        post(api, "runs/update", {"run_id": run, "status": word})
        found = ended(api, run)
        told[word] = (found["status"], found["status_reason"])
        # Names, tags and files may still come; the end stands.
        post(api, "runs/update", {"run_id": run, "status": "RUNNING", "run_name": "renamed"})
        post(api, "runs/set-tag", {"run_id": run, "key": "k", "value": "v"})
        assert (view(api, run)["info"]["status"], view(api, run)["info"]["run_name"]) == (
            word, "renamed",
        )  # fmt: skip
        assert status(api, run)["name"] == "renamed"
        late = post(api, "runs/log-metric", {"run_id": run, "key": "a", "value": 1.0}, 409)
        assert late["error_code"] == "INVALID_STATE"
    assert told == {
        "FINISHED": ("succeeded", None),
        "FAILED": ("failed", "reported_failure"),
        "KILLED": ("cancelled", "cancel_requested"),
    }
    cancelled = new_run(api, "FAILED after a cancel")
    log(api, cancelled, loss=(1, 1.0))
    experiment = status(api, cancelled)["experiment_id"]
    api.send("POST", f"/v1/experiments/{experiment}/runs/{cancelled}/cancel")
    update = {"run_id": cancelled, "status": "FAILED"}
    assert post(api, "runs/update", update)["run_info"]["status"] == "KILLED"
    found = ended(api, cancelled)
    assert (found["status"], found["status_detail"]) == (
        "cancelled", "Its client reports that it has failed.",
    )  # fmt: skip


def test_runs_are_searched_by_what_they_reported(api: Api) -> None:
    experiment = post(api, "experiments/create", {"name": "searched"})["experiment_id"]
    names = ["a", "b", "c", "d"]
    for number, name in enumerate(names):
        run = new_run(api, name, experiment, tags=[{"key": "mlflow.x y", "value": f"v{number}"}])
        log(api, run, loss=(1, float(number)))
        post(api, "runs/log-parameter", {"run_id": run, "key": "lr", "value": f"0.{number}"})
    bad = new_run(api, "bad", experiment)
    log(api, bad, loss=(1, "NaN"))

    def search(text: str = "", expect: int = 200, **more: Any) -> Any:
        body = {"experiment_ids": [experiment], "filter": text, **more}
        return post(api, "runs/search", body, expect)

    def found(text: str = "", **more: Any) -> list[str]:
        return [each["info"]["run_name"] for each in search(text, **more)["runs"]]

    assert found() == ["bad", "d", "c", "b", "a"]
    assert found("metrics.loss < 2 AND params.lr != '0.0'") == ["b"]
    assert found("metrics.`loss` >= 2") == ["d", "c"]
    assert found("tags.`mlflow.x y` LIKE 'v%' and attributes.run_name IN ('a', 'd')") == ["d", "a"]
    assert found("params.lr IS NULL") == ["bad"]
    assert found("status = 'RUNNING'", order_by=["metrics.loss DESC"]) == [*"dcba", "bad"]
    assert found(order_by=["metrics.loss ASC", "start_time DESC"]) == [*"abcd", "bad"]
    assert found(run_view_type="DELETED_ONLY") == []
    for order in ([], ["metrics.loss"]):
        pages: list[str] = []
        token = ""
        while True:
            page = search(order_by=order, max_results=2, page_token=token)
            pages += [each["info"]["run_name"] for each in page["runs"]]
            token = page.get("next_page_token", "")
            if not token:
                break
        assert sorted(pages) == [*names[:1], "b", "bad", "c", "d"]
    for text in ("loss <", "metrics.loss < 'x'", "nonsense.a = 1", "a = 1", "metrics.a = 1 OR b"):
        assert search(text, 400)["error_code"] == "INVALID_PARAMETER_VALUE", text
    assert search(page_token="?", expect=400)["error_code"] == "INVALID_PARAMETER_VALUE"


def test_artifacts_are_streamed_listed_and_replaced(api: Api) -> None:
    run = new_run(api, "files")
    uri = view(api, run)["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    big = b"0123456789abcdef" * (1 << 20)  # 16 MiB: more than any other body may have
    assert len(big) > api.settings.max_body_bytes
    for name, content in (("big.bin", b"x"), ("big.bin", big), ("notes/a b.txt", b"hi")):
        answer = api.send("PUT", f"{F}/{uri}/{name}", content=content)
        assert answer.status_code == 200, answer.text
    assert api.send("GET", f"{F}/{uri}/big.bin").content == big
    listed = api.send("GET", F, params={"path": uri}).json()["files"]
    assert listed == [
        {"path": "big.bin", "is_dir": False, "file_size": len(big)},
        {"path": "notes", "is_dir": True},
    ]
    inner = api.send("GET", F, params={"path": f"{uri}/notes"}).json()["files"]
    assert inner == [{"path": "a b.txt", "is_dir": False, "file_size": 2}]
    of_a_file = api.send("GET", F, params={"path": f"{uri}/notes/a b.txt"})
    assert of_a_file.json() == {"files": []}, "so a client knows that it is one"
    page = api.send("GET", f"{F}/{uri}/notes/a b.txt")
    assert page.headers["content-disposition"] == "attachment"
    assert api.send("GET", f"{F}/{uri}/none").json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    taken = api.send("PUT", f"{F}/{uri}/big.bin/x", content=b"")
    assert (taken.status_code, taken.json()["error_code"]) == (409, "INVALID_STATE")
    assert api.send("PUT", f"{F}/{uri}/notes", content=b"").status_code == 409
    assert not list((api.settings.data_dir / "artifacts").rglob(".part-*"))


@pytest.mark.parametrize(
    "path",
    [
        "../../../id",
        "..%2f..%2fid",
        "a/../../b",
        "%2e%2e/x",
        "a//b",
        "x\\y",
        "a%00b",
        "n" * 300,
        "%0a",
    ],
)
def test_no_path_leads_out_of_the_artifacts(api: Api, path: str) -> None:
    run = new_run(api, "hostile")
    uri = view(api, run)["info"]["artifact_uri"].removeprefix("mlflow-artifacts:/")
    before = {each for each in api.settings.data_dir.rglob("*") if "artifacts" not in each.parts}
    url = httpx.URL(f"http://127.0.0.1:8000{F}/{uri}/").copy_with(
        raw_path=f"{F}/{uri}/{path}".encode()
    )
    for method in ("PUT", "GET"):
        answer = api.send(method, str(url), content=b"!" if method == "PUT" else None)
        assert answer.status_code in (400, 404), answer.text
    after = {each for each in api.settings.data_dir.rglob("*") if "artifacts" not in each.parts}
    assert after == before


def test_a_link_among_the_artifacts_leads_nowhere(api: Api) -> None:
    run = new_run(api, "links")
    info = view(api, run)["info"]
    uri = info["artifact_uri"].removeprefix("mlflow-artifacts:/")
    assert api.send("PUT", f"{F}/{uri}/a", content=b"a").status_code == 200
    place = api.settings.data_dir / "artifacts" / info["experiment_id"] / run
    (place / "link").symlink_to("/etc")
    (place / "file").symlink_to("/etc/hostname")
    assert api.send("GET", f"{F}/{uri}/link/hostname").status_code == 409
    assert api.send("GET", f"{F}/{uri}/file").status_code == 409
    assert api.send("PUT", f"{F}/{uri}/link/x", content=b"").status_code == 409
    names = [each["path"] for each in api.send("GET", F, params={"path": uri}).json()["files"]]
    assert names == ["a"]


def test_a_logged_model_has_files_metrics_and_a_state(api: Api) -> None:
    run = new_run(api, "modeller")
    experiment = view(api, run)["info"]["experiment_id"]
    body = {
        "experiment_id": experiment, "name": "m", "source_run_id": run, "model_type": "llm",
        "tags": [{"key": "a", "value": "b"}], "params": [{"key": "p", "value": "1"}],
    }  # fmt: skip
    model = post(api, "logged-models", body)["model"]["info"]
    assert model["status"] == "LOGGED_MODEL_PENDING"
    uri = model["artifact_uri"].removeprefix("mlflow-artifacts:/")
    assert api.send("PUT", f"{F}/{uri}/MLmodel", content=b"flavors").status_code == 200
    path = f"{A}/logged-models/{model['model_id']}"
    ready = api.send("PATCH", path, json={"status": "LOGGED_MODEL_READY"}).json()["model"]
    assert ready["info"]["status"] == "LOGGED_MODEL_READY"
    link = {"model_id": model["model_id"], "step": 4}
    post(api, "runs/outputs", {"run_id": run, "models": [link]})
    metric = {"key": "acc", "value": 0.5, "timestamp": 9, **link}
    post(api, "runs/log-batch", {"run_id": run, "metrics": [metric]})
    dataset = {"name": "d", "digest": "x", "source_type": "local", "source": "{}", "schema": "{}"}
    post(api, "runs/log-inputs", {"run_id": run, "datasets": [{"dataset": dataset, "tags": []}]})
    found = api.send("GET", path).json()["model"]
    assert found["data"]["params"] == [{"key": "p", "value": "1"}]
    assert found["data"]["metrics"][0]["value"] == 0.5
    searched = post(api, "logged-models/search", {"experiment_ids": [experiment],
                                                  "filter": "name = 'm'"})  # fmt: skip
    assert [each["info"]["model_id"] for each in searched["models"]] == [model["model_id"]]
    linked = view(api, run)
    assert linked["outputs"]["model_outputs"] == [link]
    assert linked["inputs"]["dataset_inputs"][0]["dataset"]["name"] == "d"
    assert post(api, "runs/outputs", {"run_id": run, "models": [{"model_id": "m-0"}]}, 404)

    query = """query($id: ID!) { run(id: $id) {
        labels models { id name state modelType } artifacts { path sizeBytes } } }"""
    assert api.send("PUT", f"{F}/{experiment}/{run}/artifacts/a/b", content=b"xy").is_success
    answer = api.post("/graphql", {"query": query, "variables": {"id": run}})["data"]["run"]
    assert answer["models"] == [
        {"id": model["model_id"], "name": "m", "state": "ready", "modelType": "llm"}
    ]
    assert answer["labels"]["mlflow.runName"] == "modeller"
    assert answer["artifacts"] == [{"path": "a", "sizeBytes": None}]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("runs/log-batch", {"metrics": [{"key": "", "value": 1.0}]}),
        ("runs/log-batch", {"metrics": [{"key": "a", "value": "much"}]}),
        ("runs/log-batch", {"metrics": [{"key": "a", "value": 1.0, "step": 2**63}]}),
        ("runs/log-batch", {"metrics": [{"key": f"k{n}", "value": 1.0} for n in range(1001)]}),
        ("runs/log-batch", {"params": [{"key": "p", "value": "x" * 8001}]}),
        ("runs/log-batch", {"params": [{"key": f"p{n}", "value": "x" * 7000} for n in range(20)]}),
        ("runs/log-batch", {"params": 7}),
        ("runs/set-tag", {"key": "a\0b", "value": "x"}),
        ("runs/set-tag", {"key": "k" * 251, "value": "x"}),
        ("runs/update", {"status": "WONDERFUL"}),
        ("runs/log-inputs", {"datasets": [{"dataset": {"digest": "no name"}}]}),
    ],
)
def test_what_is_wrong_is_refused_and_changes_nothing(api: Api, path: str, body: Any) -> None:
    run = new_run(api, "refused")
    before = api.digest()
    answer = api.send("POST", f"{A}/{path}", json={**body, "run_id": run})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
    assert api.digest() == before


def test_other_forms_of_nonsense_have_errors_of_mlflows_form(api: Api) -> None:
    run = new_run(api, "nonsense")
    path = f"{A}/runs/set-tag"
    text = api.send("POST", path, content=b"{}", headers={"Content-Type": "text/plain"})
    assert (text.status_code, text.json()["error_code"]) == (415, "BAD_REQUEST")
    broken = api.send("POST", path, content=b"{", headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["error_code"]) == (400, "BAD_REQUEST")
    for unknown in ("/mlflow/api/3.0/mlflow/server-info", "/mlflow/version", f"{A}/traces"):
        answer = api.send("GET", unknown)
        assert (answer.status_code, answer.json()["error_code"]) == (
            404, "RESOURCE_DOES_NOT_EXIST",
        )  # fmt: skip
    kept = post(api, "runs/delete", {"run_id": run}, 400)
    assert "keeps every run" in kept["message"]
    assert get(api, "runs/get", 404, run_id="run_x")["error_code"] == "RESOURCE_DOES_NOT_EXIST"


def test_a_token_is_needed_and_that_of_a_run_is_good_for_it_alone(closed: Api) -> None:
    owner = {"Authorization": f"Bearer {TOKEN}"}

    def send(path: str, body: Any, headers: dict[str, str], method: str = "POST") -> httpx.Response:
        more = {"json": body} if method == "POST" else {"params": body}
        return closed.send(method, f"{A}/{path}", headers=headers, **more)

    answer = send("runs/create", {}, {})
    assert (answer.status_code, answer.json()["error_code"]) == (401, "UNAUTHENTICATED")
    assert closed.send("PUT", f"{F}/a/b/artifacts/c", content=b"x").status_code == 401
    assert send("runs/create", {}, basic("anybody", TOKEN)).status_code == 200
    first = send("runs/create", {}, owner).json()["run"]["info"]
    other = send("runs/create", {"run_name": "other"}, owner).json()["run"]["info"]
    secret = closed.app.state.secret
    own = basic(first["run_id"], run_token(secret, first["run_id"]))
    for wrong in (
        basic(first["run_id"], run_token(secret, other["run_id"])),
        basic(first["run_id"], "rt_x"),
        basic(other["run_id"], attempt_token(secret, first["run_id"], 1)),
        {"Authorization": "Basic ???"},
    ):
        assert send("runs/get", {"run_id": first["run_id"]}, wrong, "GET").status_code == 401
    assert send("runs/get", {"run_id": first["run_id"]}, own, "GET").status_code == 200
    metric = {"key": "a", "value": 1.0, "step": 1}
    assert send("runs/log-metric", {**metric, "run_id": first["run_id"]}, own).status_code == 200
    for path, body in (
        ("runs/log-metric", metric),
        ("runs/set-tag", {"key": "a", "value": "b"}),
        ("runs/update", {"status": "FINISHED"}),
        ("runs/log-inputs", {}),
        ("runs/outputs", {}),
        ("logged-models", {"experiment_id": "0", "source_run_id": other["run_id"]}),
    ):
        denied = send(path, {**body, "run_id": other["run_id"]}, own)
        assert (denied.status_code, denied.json()["error_code"]) == (403, "PERMISSION_DENIED"), path
    place = other["artifact_uri"].removeprefix("mlflow-artifacts:/")
    for method in ("PUT", "GET"):
        answer = closed.send(method, f"{F}/{place}/x", headers=own, content=None)
        assert answer.status_code == 403
    # Whatever it creates or looks for is its own.
    assert send("runs/create", {}, own).json()["run"]["info"]["run_id"] == first["run_id"]
    named = send("experiments/get-by-name", {"experiment_name": "any"}, own, "GET").json()
    assert named["experiment"]["experiment_id"] == first["experiment_id"]
    assert named["experiment"]["name"] == "any"
    made = send("experiments/create", {"name": "new"}, own).json()["experiment_id"]
    assert made == first["experiment_id"]
    found = send("runs/search", {"experiment_ids": [first["experiment_id"]]}, own).json()["runs"]
    assert [each["info"]["run_id"] for each in found] == [first["run_id"]]


def test_infinite_values_are_stored_as_they_are(api: Api) -> None:
    run = new_run(api, "infinite")
    log(api, run, up=(1, "Infinity"), down=(1, "-Infinity"))
    history = get(api, "metrics/get-history", run_id=run, metric_key="up")["metrics"]
    assert history[0]["value"] == "Infinity"
    assert math.isinf(float(history[0]["value"]))
    log(api, run, nan=(1, "NaN"))
    latest = {each["key"]: each["value"] for each in view(api, run)["data"]["metrics"]}
    assert latest == {"up": "Infinity", "down": "-Infinity", "nan": "NaN"}


def test_a_client_that_got_no_answer_gets_the_run_that_it_was_not_told_of(api: Api) -> None:
    body = {"experiment_id": "0", "run_name": "asked twice", "start_time": 1_700_000_000_123}
    hang_up(api, f"{A}/runs/create", body)
    first = post(api, "runs/create", body)["run"]["info"]["run_id"]
    found = post(api, "runs/search", {
        "experiment_ids": ["0"], "filter": "attributes.run_name = 'asked twice'",
    })["runs"]  # fmt: skip
    assert [run["info"]["run_id"] for run in found] == [first], "no double"
    # That answer arrived: the same again is another process that began in the same millisecond.
    assert post(api, "runs/create", body)["run"]["info"]["run_id"] != first
    both = asyncio.run_coroutine_threadsafe(at_once(api, body | {"start_time": 9}), api.loop)
    assert len(set(both.result(30))) == 2


async def at_once(api: Api, body: Any) -> list[str]:
    """Two processes create a run by the same bytes, at the same time."""
    transport = httpx.ASGITransport(api.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        answers = await asyncio.gather(
            *(client.post(f"{A}/runs/create", json=body) for _ in range(2))
        )
    return [answer.json()["run"]["info"]["run_id"] for answer in answers]


def hang_up(api: Api, path: str, body: Any) -> None:
    """Send a request, and be gone before it is answered."""
    content = json.dumps(body, separators=(",", ":")).encode()
    messages = [
        {"type": "http.request", "body": content, "more_body": False}, {"type": "http.disconnect"},
    ]  # fmt: skip
    headers = [
        (b"host", b"127.0.0.1:8000"), (b"content-type", b"application/json"),
        (b"content-length", str(len(content)).encode()),
    ]  # fmt: skip
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST",
        "scheme": "http", "path": path, "raw_path": path.encode(), "query_string": b"",
        "root_path": "", "headers": headers, "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
    }  # fmt: skip

    async def receive() -> Any:
        return messages.pop(0) if len(messages) > 1 else messages[0]

    async def send(message: Any) -> None:
        pass  # nobody is there

    asyncio.run_coroutine_threadsafe(api.app(scope, receive, send), api.loop).result(30)
