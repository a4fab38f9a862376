"""The protocol of W&B's client, as the client speaks it: operations, streams and uploads."""

import base64
import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.domain.tokens import run_token
from tests.api.conftest import Api, running
from tests.support.database import postgresql_heavy
from tests.support.server import wait_until

pytestmark = postgresql_heavy

TOKEN = "an-api-token-of-the-tests-for-forty-letters"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("closed"), api_token=TOKEN) as api:
        yield api


def key(secret: str) -> dict[str, str]:
    encoded = base64.b64encode(f"api:{secret}".encode()).decode()
    return {"Authorization": f"Basic {encoded}"}


def operate(api: Api, operation: str, variables: Any, **more: Any) -> httpx.Response:
    body = {"operationName": operation, "query": "…", "variables": variables}
    return api.send("POST", "/wandb/graphql", json=body, **more)


def begin(api: Api, name: str, project: str = "p", config: Any = None, **more: Any) -> Any:
    variables = {"name": name, "project": project, "entity": None, **more}
    if config is not None:
        variables["config"] = json.dumps({k: {"value": v} for k, v in config.items()})
    answer = operate(api, "UpsertBucket", variables)
    assert answer.status_code == 200, answer.text
    assert "errors" not in answer.json(), answer.text
    return answer.json()["data"]["upsertBucket"]


def stream(
    api: Api,
    name: str,
    rows: Any = (),
    project: str = "p",
    expect: int = 200,
    *,
    summary: Any = None,
    events: Any = None,
    **more: Any,
) -> Any:
    files = {"wandb-history.jsonl": {"offset": 0, "content": [json.dumps(row) for row in rows]}}
    for file, row in (("wandb-summary.json", summary), ("wandb-events.jsonl", events)):
        if row is not None:
            files[file] = {"offset": 0, "content": [json.dumps(row)]}
    headers = more.pop("headers", None)
    answer = api.send(
        "POST", f"/wandb/files/llm-train/{project}/{name}/file_stream",
        json={"files": files, **more}, headers=headers,
    )  # fmt: skip
    assert answer.status_code == expect, answer.text
    return answer.json()


def run_of(api: Api, run_id: str) -> Any:
    query = """query($id: ID!) { run(id: $id) { status step effectiveHyperparams labels
        metrics { key step value } statusReason name } }"""
    answer = api.post("/graphql", {"query": query, "variables": {"id": run_id}})
    return answer["data"]["run"]


def history(api: Api, run_id: str, metric: str) -> dict[int, Any]:
    experiment = api.send("GET", "/v1/runs?limit=100").json()
    (found,) = [run for run in experiment["runs"] if run["run_id"] == run_id]
    path = f"/v1/experiments/{found['experiment_id']}/runs/{run_id}/metrics"
    series = api.send("GET", path, params={"keys": metric, "raw": "true", "limit": 20_000}).json()[
        "series"
    ]
    return {s: v for each in series for s, v in zip(each["steps"], each["values"], strict=True)}


def ended(api: Api, run_id: str) -> Any:
    def now() -> Any:
        found = run_of(api, run_id)
        return found["status"] in ("SUCCEEDED", "FAILED", "CANCELLED") and found

    return wait_until(now, lambda: str(run_of(api, run_id)))


def test_a_run_is_made_once_for_its_name_and_reports(api: Api) -> None:
    config = {"lr": 1e-4, "deep": {"a": [1, math.inf]}, "_wandb": {"cli_version": "0.31.0"}}
    first = begin(api, "one", config=config, displayName="my run", tags=["a", "b"], groupName="g")
    assert (first["inserted"], first["bucket"]["name"]) == (True, "one")
    run = first["bucket"]["id"]
    again = begin(api, "one", config={"late": 3})
    assert (again["inserted"], again["bucket"]["id"]) == (False, run), "a retry makes no second"
    assert begin(api, "one", project="another project")["bucket"]["id"] != run
    rows = [
        {"_step": step, "_timestamp": 1.7e9 + step, "loss": 1 / (step + 1), "_runtime": 1.0,
         "odd": math.nan, "up": math.inf, "text": "x", "flag": True, "val": {"acc": step},
         "image": {"_type": "image-file", "size": 3}}
        for step in range(5)
    ]  # fmt: skip
    events = {"_wandb": True, "_timestamp": 1.7e9, "system.cpu": 40.0}
    for _ in range(2):  # a client that got no answer sends it again
        stream(api, "one", rows, events=events)
    found = run_of(api, run)
    assert (found["step"], found["name"]) == (4, "my run")
    assert found["effectiveHyperparams"] == {"lr": 1e-4, "deep": {"a": [1, "inf"]}, "late": 3}
    assert history(api, run, "loss") == {step: 1 / (step + 1) for step in range(5)}
    assert history(api, run, "up").keys() == set(range(5))
    latest = {each["key"]: each for each in found["metrics"]}
    assert latest.keys() == {"loss", "odd", "up", "val.acc", "system/cpu"}
    assert latest["system/cpu"]["step"] == 4
    labels = found["labels"]
    assert (labels["wandb.tags"], labels["wandb.group"], labels["wandb.project"]) == (
        "a, b", "g", "p",
    )  # fmt: skip


def test_points_are_at_the_step_of_the_training_loop_where_one_is_logged(api: Api) -> None:
    run = begin(api, "loop")["bucket"]["id"]
    stream(api, "loop", [
        {"_step": 0, "train/loss": 2.0, "train/global_step": 10},
        {"_step": 1, "eval/loss": 3.0, "train/global_step": 10},
        {"_step": 2, "train/loss": 1.0, "train/global_step": 20},
    ])  # fmt: skip
    assert history(api, run, "train/loss") == {10: 2.0, 20: 1.0}
    assert run_of(api, run)["step"] == 20
    stream(api, "loop", [{"_step": 900, "gradients": 1.0}])
    assert history(api, run, "gradients") == {20: 1.0}, "calls of log are no steps of such a loop"
    assert run_of(api, run)["step"] == 20


def test_a_summary_without_a_curve_is_kept_as_labels(api: Api) -> None:
    run = begin(api, "summary")["bucket"]["id"]
    summary = {"loss": 0.5, "best": 0.75, "text": "x", "_step": 1}
    stream(api, "summary", [{"_step": 1, "loss": 0.5}], summary=summary)
    found = run_of(api, run)["labels"]
    assert {k: v for k, v in found.items() if "summary" in k} == {"wandb.summary.best": "0.75"}


def test_an_end_that_a_client_tells_ends_an_external_run_and_stands(api: Api) -> None:
    told = {}
    for code in (0, 3):
        name = f"end {code}"
        run = begin(api, name)["bucket"]["id"]
        stream(api, name, [{"_step": 1, "loss": 0.5}], complete=True, exitcode=code)
        told[code] = ended(api, run)
        stream(api, name, [{"_step": 1, "loss": 0.5}], complete=True, exitcode=code)  # again
        late = stream(api, name, [{"_step": 2, "loss": 0.5}], expect=422)
        assert late["code"] == "run_finished"
        refused = operate(api, "UpsertBucket", {"name": name, "project": "p"}).json()
        assert refused["errors"][0]["extensions"]["code"] == "run_finished"
    assert told[0]["status"] == "SUCCEEDED"
    assert (told[3]["status"], told[3]["statusReason"]) == ("FAILED", "reported_failure")


def test_a_run_is_resumed_at_its_step(api: Api) -> None:
    asked = {"name": "resumed", "project": "p", "entity": None}
    assert operate(api, "RunResumeStatus", asked).json()["data"]["model"]["bucket"] is None
    run = begin(api, "resumed", config={"lr": 0.5})["bucket"]["id"]
    stream(api, "resumed", [{"_step": 7, "loss": 0.5}])
    bucket = operate(api, "RunResumeStatus", asked).json()["data"]["model"]["bucket"]
    assert (bucket["id"], bucket["historyLineCount"]) == (run, 8)
    assert json.loads(json.loads(bucket["historyTail"])[-1])["_step"] == 7
    assert json.loads(bucket["config"]) == {"lr": {"value": 0.5}}


def test_a_config_that_is_too_large_loses_its_largest_values_and_says_so(api: Api) -> None:
    config = {"lr": 0.1, "model": ["x" * 100] * 1000, "small": 1, "deep": nested(40)}
    run = begin(api, "large", config=config)["bucket"]["id"]
    found = run_of(api, run)
    assert found["effectiveHyperparams"] == {"lr": 0.1, "small": 1}
    assert set(found["labels"]["wandb.config_left_out"].split(", ")) == {"model", "deep"}


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def test_a_file_is_uploaded_where_the_client_is_told(api: Api) -> None:
    run = begin(api, "files")["bucket"]["id"]
    wanted = {"project": "p", "run": "files", "files": ["notes/a b.txt"], "entity": "llm-train"}
    told = operate(api, "CreateRunFiles", wanted).json()["data"]["createRunFiles"]
    (file,) = told["files"]
    assert api.send("PUT", file["uploadUrl"], content=b"hello").status_code == 200
    query = 'query($id: ID!) { run(id: $id) { artifacts(path: "wandb/notes") { path } } }'
    answer = api.post("/graphql", {"query": query, "variables": {"id": run}})
    assert answer["data"]["run"]["artifacts"] == [{"path": "wandb/notes/a b.txt"}]
    page = api.send("GET", "/wandb/llm-train/p/runs/files", follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (307, f"/runs/{run}")
    page = api.send("GET", "/wandb/llm-train/p", follow_redirects=False)
    assert page.headers["location"].startswith("/experiments/exp_")


@pytest.mark.parametrize("file", ["../../x", "a//b", "", "x\\y", "n" * 300, "\n"])
def test_no_file_leads_out_of_the_artifacts(api: Api, file: str) -> None:
    begin(api, "hostile")
    wanted = {"project": "p", "run": "hostile", "files": [file]}
    refused = operate(api, "CreateRunFiles", wanted).json()
    assert refused["errors"][0]["extensions"]["code"] == "invalid_input"
    url = httpx.URL("http://127.0.0.1:8000/").copy_with(
        raw_path=b"/wandb/files/e/p/hostile/" + file.replace("\n", "%0a").encode()
    )
    assert api.send("PUT", str(url), content=b"!").status_code in (400, 404, 405, 422)


@pytest.mark.parametrize(
    "lines",
    [["{"], ["[]"], ["1"], ["[" * 100_000], ['{"loss": 1}', "nonsense"]],
    ids=["broken", "list", "number", "deep", "second"],
)
def test_a_line_that_is_no_object_is_refused_and_changes_nothing(
    api: Api, lines: list[str]
) -> None:
    begin(api, "lines")
    before = api.digest()
    body = {"files": {"wandb-history.jsonl": {"offset": 0, "content": lines}}}
    answer = api.send("POST", "/wandb/files/llm-train/p/lines/file_stream", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input"), answer.text
    assert api.digest() == before


def test_odd_values_are_left_out_and_the_rest_arrives(api: Api) -> None:
    run = begin(api, "odd")["bucket"]["id"]
    stream(api, "odd", [
        {"_step": 1, "loss": 1.0, "": 1, "a\nb": 1, "k" * 201: 1, "big": 10**400, "null": None},
        {"_step": -5, "early": 1.0}, {"_step": 1e30, "late": 1.0}, {"_step": "x", "word": 1.0},
    ])  # fmt: skip
    latest = {each["key"]: each["step"] for each in run_of(api, run)["metrics"]}
    assert latest == {"loss": 1, "early": 0, "late": 0, "word": 0}


@pytest.mark.parametrize(
    ("operation", "variables"),
    [
        ("UpsertBucket", {"name": "a/b", "project": "p"}),
        ("UpsertBucket", {"name": "x" * 129, "project": "p"}),
        ("UpsertBucket", {"name": "a", "project": "\0"}),
        ("UpsertBucket", {"name": "a", "project": "p" * 201}),
        ("UpsertBucket", {"name": "a", "project": "p", "config": "{"}),
        ("UpsertBucket", {"name": "a", "project": "p", "config": "[1]"}),
        ("UpsertBucket", {"name": "a", "project": "p", "tags": ["x"] * 51}),
        ("CreateRunFiles", {"project": "p", "run": "there is none", "files": ["a"]}),
        ("CreateArtifact", {}),
        ("", {}),
    ],
)
def test_what_is_wrong_or_not_served_is_an_error_and_changes_nothing(
    api: Api, operation: str, variables: Any
) -> None:
    before = api.digest()
    answer = operate(api, operation, variables)
    assert answer.status_code == 200 and answer.json()["errors"][0]["message"], answer.text
    assert api.digest() == before


def test_what_is_no_request_of_this_protocol_is_refused(api: Api) -> None:
    text = api.send("POST", "/wandb/graphql", content=b"{}", headers={"Content-Type": "text/plain"})
    assert text.status_code == 415, "what a page elsewhere may send without asking"
    broken = api.send(
        "POST", "/wandb/graphql", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert broken.status_code == 400
    assert api.send("POST", "/wandb/sdk/otel/v1/metrics", content=b"x").status_code == 404
    large = {"files": {"wandb-history.jsonl": {"offset": 0, "content": ["x" * (17 << 20)]}}}
    answer = api.send("POST", "/wandb/files/e/p/n/file_stream", json=large)
    assert answer.status_code == 413


def test_more_than_the_usual_body_is_taken_at_once(api: Api) -> None:
    run = begin(api, "many")["bucket"]["id"]
    rows = [
        {"_step": step, **{f"{'m' * 60}{number}": step + 0.5 for number in range(10)}}
        for step in range(12_000)
    ]
    assert len(json.dumps(rows)) > api.settings.max_body_bytes
    stream(api, "many", rows)
    assert len(history(api, run, "m" * 60 + "3")) == 12_000


def test_a_token_is_needed_and_that_of_a_run_is_good_for_it_alone(closed: Api) -> None:
    owner = key(TOKEN)
    asked = {"name": "mine", "project": "p"}
    assert operate(closed, "UpsertBucket", asked).status_code == 401
    assert operate(closed, "Viewer", None).status_code == 401
    made = [
        operate(closed, "UpsertBucket", {"name": name, "project": "p"}, headers=owner).json()
        for name in ("mine", "other")
    ]
    mine, other = [each["data"]["upsertBucket"]["bucket"]["id"] for each in made]
    secret = closed.app.state.secret
    for wrong in ("x" * 45, f"{mine}-{run_token(secret, other)}", f"{mine}-rt_x", f"{mine}-"):
        assert operate(closed, "Viewer", None, headers=key(wrong)).status_code == 401
    own = key(f"{mine}-{run_token(secret, mine)}")
    # Whatever it names is its own.
    again = operate(closed, "UpsertBucket", {"name": "other", "project": "new"}, headers=own)
    assert again.json()["data"]["upsertBucket"]["bucket"]["id"] == mine
    stream(closed, "other", [{"_step": 3, "loss": 0.5}], headers=own)
    for run, step in ((mine, 3), (other, 0)):
        found = closed.send("GET", "/v1/runs", headers={"Authorization": f"Bearer {TOKEN}"}).json()
        assert {each["run_id"]: each["step"] for each in found["runs"]}[run] == step
    url = f"/wandb/files/llm-train/p/{other}/a.txt"
    assert closed.send("PUT", url, headers=own, content=b"x").status_code == 200
    assert not list((closed.settings.data_dir / "artifacts").rglob(f"{other}/**/a.txt"))
    assert closed.send("PUT", url, content=b"x").status_code == 401
    page = closed.send("GET", "/wandb/llm-train/p/runs/mine", follow_redirects=False)
    assert page.status_code == 401
