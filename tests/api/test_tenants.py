"""What belongs to one project is not there for another: every route, field and subscription.

An answer about what is foreign must be the answer about what has never been.
"""

import json
import re
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from graphql import (
    GraphQLArgument,
    GraphQLEnumType,
    GraphQLField,
    GraphQLInputObjectType,
    GraphQLObjectType,
    build_schema,
    get_named_type,
    is_leaf_type,
    is_list_type,
    is_non_null_type,
    is_required_argument,
)

from app.db import visibility
from app.domain.ids import new_id
from app.graphql.schema import sdl
from tests.api.conftest import Api, running
from tests.api.paths import IDS, PARAMETERS, PREFIXES
from tests.support.server import wait_until
from tests.support.tenants import API_TOKEN, Tenants, person, two_tenants

SCHEMA = build_schema(sdl())


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, module_database_url: str) -> Iterator[Api]:
    place = tmp_path_factory.mktemp("tenants")
    with running(place, database_url=module_database_url, api_token=API_TOKEN) as found:
        yield found


@pytest.fixture(scope="module")
def tenants(api: Api) -> Tenants:
    return two_tenants(api.send)


def leaks(tenants: Tenants, text: str) -> list[str]:
    """The texts of alice that an answer to bob holds."""
    return [secret for secret in tenants.secrets if secret in text]


def examples(api: Api) -> dict[tuple[str, str], Any]:
    """A good body of each operation, from the documentation."""
    document = api.app.openapi()
    found = {}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            name = schema.get("$ref", "").rpartition("/")[2]
            known = document["components"]["schemas"].get(name, {}).get("examples", [{}])
            found[method.upper(), path] = known[0] if content else None
    return found


def replaced(body: Any, ids: dict[str, str]) -> Any:
    """A body that is about these ids."""
    text = json.dumps(body)
    for name, prefix in PREFIXES.items():
        text = re.sub(rf"{prefix}_[0-9a-z]{{26}}", ids[name], text)
    return json.loads(text)


def settle(tenants: Tenants) -> None:
    """Wait until the service has done what it does by itself about what alice has made."""
    path = f"/v1/experiments/{tenants.made['experiment_id']}"

    def done() -> bool:
        run = tenants.alice.ok("GET", f"{path}/runs/{tenants.made['demo_id']}/status")
        check = f"{path}/verifications/{tenants.made['verification_id']}"
        return bool(run["status_reason"]) and bool(tenants.alice.ok("GET", check)["finished_at"])

    wait_until(done, "the waiting of the run, and the end of the verification")


def test_every_route_answers_a_foreigner_as_if_nothing_was_there(
    api: Api, tenants: Tenants
) -> None:
    own = PARAMETERS | {key: value for key, value in tenants.made.items() if key in PREFIXES}
    own["user_id"] = tenants.alice.user_id
    nothing = PARAMETERS | {name: new_id(prefix) for name, prefix in PREFIXES.items()}
    settle(tenants)
    before = tenants.alice.ok("GET", f"/v1/experiments/{own['experiment_id']}/detail")
    walked = 0
    for (method, path), body in examples(api).items():
        answers = []
        for ids in (own, nothing):
            answer = tenants.bob.send(
                method, path.format(**ids), json=None if body is None else replaced(body, ids)
            )
            assert answer.status_code < 500, (method, path, answer.text)
            text = answer.text
            for name, value in ids.items():
                if name in PREFIXES:
                    text = text.replace(value, name)
            answers.append((answer.status_code, text if "{" in path else ""))
            walked += 1
        assert not leaks(tenants, answers[0][1]), (method, path, answers[0][1])
        assert answers[0] == answers[1], (method, path)
        if "{" in path:
            assert answers[0][0] in (401, 403, 404, 422), (method, path, answers[0])
            assert (answers[0][0] != 403) or "not_permitted" in answers[0][1], (method, path)
    assert walked > 100
    after = tenants.alice.ok("GET", f"/v1/experiments/{own['experiment_id']}/detail")
    assert after == before


def test_lists_counts_and_searches_hold_nothing_foreign(api: Api, tenants: Tenants) -> None:
    experiment, run = tenants.made["experiment_id"], tenants.made["run_id"]
    nora = person(tenants.operator, "nora", "white")  # who has made nothing
    for path in (
        "/v1/experiments", "/v1/experiments?archived=any", "/v1/experiments?search=amber",
        "/v1/experiments?order=name", "/v1/runs", f"/v1/runs?experiment_id={experiment}",
        f"/v1/runs?ids={run}", f"/v1/runs?id_ends={run[-6:]}", "/v1/runs?search=amber",
        "/v1/runs?tags=amber-tag", "/v1/runs?order=metric&metric_key=amber-loss",
        "/v1/runs?order=-metric&metric_key=amber-loss", "/v1/runs?status=running&status=queued",
        "/v1/runs?metric=amber-loss&metric_min=0", "/v1/runs?owner=amber-owner", "/v1/webhooks",
        f"/v1/runs?root_run_id={run}", "/v1/runs?order=step&model=amber-model",
        "/v1/usage?by=run", "/v1/usage?by=experiment", "/v1/usage?by=project",
        "/v1/projects", "/v1/tokens", "/v1/me",
        "/v1/alert-rules", "/v1/alerts",
    ):  # fmt: skip
        found = nora.send("GET", path)
        assert found.status_code == 200, (path, found.text)
        assert not leaks(tenants, found.text), path
        rows = found.json()
        for name in ("experiments", "runs", "webhooks", "usage", "rules", "alerts"):
            assert not rows.get(name), path
    assert nora.ok("GET", "/v1/runs/counts") == {"counts": {}, "is_lower_bound": False}
    assert nora.ok("GET", "/v1/capacity")["queued"] == 0
    assert tenants.alice.ok("GET", "/v1/runs/counts")["counts"]
    compared = nora.send("GET", f"/v1/runs/compare?run_ids={run}")
    assert (compared.status_code, leaks(tenants, compared.text.replace(run, ""))) == (404, [])


def test_the_url_of_a_webhook_is_known_to_those_who_may_change_it(tenants: Tenants) -> None:
    """That of a chat is all that it takes to write there; other members see where it leads."""
    hook = tenants.made["webhook_id"]
    query = f'{{ webhook(id: "{hook}") {{ url }} webhooks {{ id url }} }}'
    walt = person(tenants.operator, "walt", "amber", "viewer")
    for who, url in (
        (tenants.alice, "https://amber.example.com/hook"), (walt, "https://amber.example.com/…"),
    ):  # fmt: skip
        assert who.ok("GET", f"/v1/webhooks/{hook}")["url"] == url
        listed = who.ok("GET", "/v1/webhooks")["webhooks"]
        assert [row["url"] for row in listed if row["webhook_id"] == hook] == [url]
        graph = who.ok("POST", "/graphql", {"query": query})["data"]
        assert graph["webhook"]["url"] == url
        assert [row["url"] for row in graph["webhooks"] if row["id"] == hook] == [url]


def test_wandbs_protocol_finds_nothing_foreign(tenants: Tenants) -> None:
    """The names of runs and projects of W&B are those of whoever has made them."""
    experiment, run = tenants.made["experiment_id"], tenants.made["run_id"]
    made = []
    for owner in (tenants.alice, tenants.bob):
        same = {"name": "same", "project": "shared-name", "entity": None, "config": "{}"}
        upsert = {"operationName": "UpsertBucket", "query": "…", "variables": same}
        answer = owner.ok("POST", "/wandb/graphql", upsert)["data"]["upsertBucket"]
        made.append(answer["bucket"]["id"])
    assert made[0] != made[1], "the same names in two projects are two runs"
    before = tenants.alice.ok("GET", f"/v1/experiments/{experiment}/detail")
    for name, nobody in ((run, IDS["run_id"]), ("amber-run", "nobody-run")):
        files = {"wandb-summary.json": {"offset": 0, "content": ['{"amber": 1}']}}
        asked: list[tuple[str, str, Any]] = [
            ("POST", f"/wandb/files/e/amber/{name}/file_stream", {"files": files}),
            ("PUT", f"/wandb/files/e/amber/{name}/a.txt", {}),
        ]
        for operation, key in (("RunResumeStatus", "name"), ("CreateRunFiles", "run")):
            variables = {key: name, "project": "amber", "entity": "e", "files": ["a.txt"]}
            body = {"operationName": operation, "query": "…", "variables": variables}
            asked.append(("POST", "/wandb/graphql", body))
        for method, path, content in asked:
            answer = tenants.bob.send(method, path, json=content)
            assert answer.status_code < 500, (path, answer.text)
            # Of a name that nobody has the answer is the same.
            none = json.loads(json.dumps(content).replace(name, nobody))
            other = tenants.bob.send(method, path.replace(name, nobody), json=none)
            text = answer.text.replace(name, nobody)
            assert (answer.status_code, text) == (other.status_code, other.text), path
            unsaid = re.sub("""(['"])amber\\1""", "", answer.text.replace(name, ""))  # as he said
            assert not leaks(tenants, unsaid), (path, answer.text)
    assert tenants.alice.ok("GET", f"/v1/experiments/{experiment}/detail") == before


def test_a_list_may_be_of_one_project(tenants: Tenants) -> None:
    admin, amber, blue = tenants.operator, tenants.alice.project_id, tenants.bob.project_id
    for path, name in (("/v1/experiments", "experiments"), ("/v1/runs", "runs")):
        found = admin.ok("GET", f"{path}?project_id={amber}")[name]
        assert tenants.made["experiment_id"] in {each["experiment_id"] for each in found}
        others = admin.ok("GET", f"{path}?project_id={blue}")[name]
        assert tenants.made["experiment_id"] not in {each["experiment_id"] for each in others}
    counts = admin.ok("GET", f"/v1/runs/counts?project_id={amber}")["counts"]
    assert sum(counts.values()) == len(admin.ok("GET", f"/v1/runs?project_id={amber}")["runs"])


def scalar(name: str, kind: Any, tenants: Tenants) -> Any:
    """A value for an argument: one of alice's where its name says which."""
    if is_non_null_type(kind):
        return scalar(name, kind.of_type, tenants)
    if is_list_type(kind):
        return [scalar(name.removesuffix("s"), kind.of_type, tenants)]
    if isinstance(kind, GraphQLInputObjectType):
        return {
            key: scalar(key, each.type, tenants)
            for key, each in kind.fields.items()
            if is_non_null_type(each.type) or key in ("experimentId", "runId", "ckptPath")
        }
    if isinstance(kind, GraphQLEnumType):
        return next(iter(kind.values))
    snake = re.sub("([A-Z])", r"_\1", name).lower()
    made = tenants.made | {"id": tenants.made["run_id"], "user_id": tenants.alice.user_id}
    if snake in made:
        return made[snake]
    return {"Int": 5, "Long": 0, "Float": 1.0, "Boolean": False, "JSON": {}}.get(
        kind.name, "amber" if kind.name == "String" else tenants.made["run_id"]
    )


def selection(kind: Any, depth: int) -> str:
    """Every field of a type that needs no argument, to a depth."""
    named = get_named_type(kind)
    if is_leaf_type(named):
        return ""
    if not isinstance(named, GraphQLObjectType):
        return "{ __typename id }"
    parts = ["__typename"]
    for name, each in named.fields.items():
        if name == "query" or any(map(is_required_argument, each.args.values())):
            continue
        if is_leaf_type(get_named_type(each.type)):
            parts.append(name)
        elif depth > 0:
            parts.append(f"{name} {selection(each.type, depth - 1)}")
    return "{ " + " ".join(parts) + " }"


def document(kind: str, name: str, each: GraphQLField, depth: int = 2) -> str:
    known = {key: argument for key, argument in each.args.items() if is_required_argument(argument)}
    given = [f"${key}: {argument.type}" for key, argument in known.items()]
    passed = [f"{key}: ${key}" for key in known]
    head = f"({', '.join(given)})" if given else ""
    call = f"({', '.join(passed)})" if passed else ""
    return f"{kind} {head} {{ {name}{call} {selection(each.type, depth)} }}"


def arguments(each: GraphQLField, tenants: Tenants) -> Iterator[dict[str, Any]]:
    """Values for a field's arguments, one set for each kind of id."""
    args: dict[str, GraphQLArgument] = each.args
    base = {
        key: scalar(key, argument.type, tenants)
        for key, argument in args.items()
        if is_required_argument(argument)
    }
    if "id" in base:
        ids = [value for name, value in tenants.made.items() if name.endswith("_id")]
        for id in [*ids, f"{tenants.made['experiment_id']}:1"]:
            yield base | {"id": id}
    else:
        yield base


def ask(tenants: Tenants, query: str, variables: dict[str, Any], **headers: str) -> Any:
    body = {"query": query, "variables": variables}
    return tenants.bob.send("POST", "/graphql", json=body, headers=headers)


def test_every_field_of_the_schema_answers_a_foreigner_as_if_nothing_was_there(
    tenants: Tenants,
) -> None:
    query = SCHEMA.query_type
    assert query is not None
    asked = 0
    for name, each in query.fields.items():
        for variables in arguments(each, tenants):
            answer = ask(tenants, document("query", name, each), variables)
            assert answer.status_code == 200, (name, answer.text)
            assert "VALIDATION" not in answer.text and "TOO_COMPLEX" not in answer.text, answer.text
            text = answer.text
            for value in variables.values():
                for asked_for in value if isinstance(value, list) else [value]:
                    text = text.replace(str(asked_for), "")
            assert not leaks(tenants, text), (name, text)
            data = (answer.json().get("data") or {}).get(name)
            if name in ("node", "experiment", "run", "checkpoint"):
                assert "errors" not in answer.json(), answer.text
                assert data is None, (name, variables)
            asked += 1
    assert asked >= 30
    ids = [value for key, value in tenants.made.items() if key.endswith("_id")]
    nodes = ask(tenants, "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }", {"ids": ids})
    assert nodes.json()["data"] == {"nodes": [None] * len(ids)}


def test_every_mutation_leaves_what_is_foreign_alone(tenants: Tenants) -> None:
    mutations = SCHEMA.mutation_type
    assert mutations is not None
    path = f"/v1/experiments/{tenants.made['experiment_id']}/detail"
    before = tenants.alice.ok("GET", path)
    for name, each in mutations.fields.items():
        payload = get_named_type(each.type)
        assert isinstance(payload, GraphQLObjectType)
        kind = each.args["input"].type
        query = (
            f"mutation ($input: {kind}) {{ {name}(input: $input) "
            "{ userErrors { code message } } }"
        )
        answer = ask(tenants, query, {"input": scalar("input", kind, tenants)})
        errors = answer.json()["data"][name]["userErrors"]
        codes = {error["code"] for error in errors}
        if name not in ("createExperiment", "createToken", "createAlertRule"):
            assert codes & {"not_found", "not_permitted", "invalid_input"}, (name, answer.text)
        asked = json.dumps(scalar("input", kind, tenants))
        text = json.dumps(errors)
        assert not [leak for leak in leaks(tenants, text) if leak not in asked], (name, text)
    assert tenants.alice.ok("GET", path) == before


def test_every_subscription_of_a_foreigner_ends_as_if_nothing_was_there(tenants: Tenants) -> None:
    subscriptions = SCHEMA.subscription_type
    assert subscriptions is not None
    for name, each in subscriptions.fields.items():
        if name in ("runsChanged", "experimentsChanged"):
            continue
        variables = next(arguments(each, tenants)) | (
            {"id": tenants.made["run_id"]} if "id" in each.args else {}
        )
        answer = ask(
            tenants, document("subscription", name, each, 0), variables, Accept="text/event-stream"
        )
        assert '"code":"NOT_FOUND"' in answer.text.replace(" ", ""), (name, answer.text)


def test_a_viewer_reads_and_may_not_write_and_a_member_may_not_release(tenants: Tenants) -> None:
    viewer = person(tenants.operator, "vera", "amber", "viewer")
    member = person(tenants.operator, "mel", "amber", "member")
    path = f"/v1/experiments/{tenants.made['experiment_id']}"
    run = f"{path}/runs/{tenants.made['run_id']}"
    mark = {"run_id": tenants.made["run_id"], "ckpt_path": tenants.made["ckpt_path"]}
    assert viewer.ok("GET", f"{run}/status")["run_id"] == tenants.made["run_id"]
    for method, where, body in (
        ("POST", f"{path}/runs", {"model": "m"}),
        ("POST", f"{run}/cancel", {}),
        ("POST", f"{run}/resume", {}),
        ("POST", f"{run}/rerun", {}),
        ("PATCH", run, {"notes": "n"}),
        ("PATCH", path, {"notes": "n"}),
        ("POST", f"{path}/checkpoints/mark", mark | {"tag_type": "candidate"}),
        ("POST", f"{path}/checkpoints/verify", {}),
        ("POST", "/v1/experiments", {"name": "e", "task_type": "t"}),
        ("POST", f"/v1/runs/{tenants.made['run_id']}/reports", {"step": 4}),
        ("POST", "/v1/users", {"name": "zoe"}),
        ("POST", "/v1/projects", {"name": "zoe"}),
        ("POST", "/mlflow/api/2.0/mlflow/runs/set-tag",
         {"run_id": tenants.made["run_id"], "key": "k", "value": "v"}),
        ("PUT", "/mlflow/api/2.0/mlflow-artifacts/artifacts/"
         f"{tenants.made['experiment_id']}/{tenants.made['run_id']}/artifacts/a.txt", {}),
        ("PUT", f"/wandb/files/e/p/{tenants.made['run_id']}/a.txt", {}),
        ("POST", f"/wandb/files/e/p/{tenants.made['run_id']}/file_stream", {}),
    ):  # fmt: skip
        answer = viewer.send(method, where, json=body)
        assert answer.status_code == 403, (method, where, answer.text)
        assert "mlflow" in where or answer.json()["code"] == "not_permitted"
    own = mark | {"ckpt_path": mark["ckpt_path"] + "-of-mel", "tag_type": "candidate"}
    says = "This needs the role 'maintainer'; with this token yours is 'member'."
    for refused in (
        own | {"tag_type": "release", "release_tag": "v2"},
        own | {"tag_type": "release"},
        mark | {"tag_type": "candidate"},  # which is released
        mark | {"tag_type": "release", "metrics": {"loss": 0}},
    ):
        answer = member.send("POST", f"{path}/checkpoints/mark", json=refused)
        assert (answer.status_code, answer.json()["code"]) == (403, "not_permitted"), refused
        assert answer.json()["detail"] == says
    member.ok("POST", f"{path}/checkpoints/mark", own)
    assert member.send("POST", "/v1/webhooks", json={"url": "https://x.org"}).status_code == 403


def test_maintainers_manage_the_members_of_their_own_project_alone(tenants: Tenants) -> None:
    alice, bob = tenants.alice, tenants.bob
    nick = person(tenants.operator, "nick", "white")
    member = person(tenants.operator, "mia", "amber", "member")
    path = f"/v1/projects/{alice.project_id}/members"
    given = alice.ok("POST", path, {"user": "nick", "role": "member"})
    assert given["role"] == "member"
    assert {"nick", "mia"} <= {each["user"] for each in alice.ok("GET", path)["members"]}
    nick.ok("GET", f"/v1/experiments/{tenants.made['experiment_id']}/detail")
    body = {"user": "mia", "role": "maintainer"}
    assert member.send("POST", path, json=body).status_code == 403
    assert member.send("DELETE", f"{path}/{nick.user_id}").status_code == 403
    assert bob.send("POST", path, json={"user": "bob", "role": "viewer"}).status_code == 404
    assert bob.send("DELETE", f"{path}/{nick.user_id}").status_code == 404
    admin = alice.send("POST", path, json={"user": "nick", "role": "admin"})
    assert admin.status_code == 422
    of_alice = f"/v1/projects/{alice.project_id}"
    assert alice.send("PATCH", of_alice, json={}).status_code == 403
    query = "query ($id: ID!) { removable(projectId: $id, curvesDays: 30) { part days runs } }"
    ask = {"query": query, "variables": {"id": alice.project_id}}
    removed = alice.ok("GET", f"{of_alice}/retention?curves_days=30&logs_days=none")["removed"]
    assert [(row["part"], row["days"]) for row in removed] == [
        ("log", None), ("points", None), ("curves", 30.0),
    ]  # fmt: skip
    shown = alice.ok("POST", "/graphql", ask)["data"]["removable"]
    assert shown[2] == {"part": "CURVES", "days": 30.0, "runs": removed[2]["runs"]}
    for who, status, code in ((member, 403, "NOT_PERMITTED"), (bob, 404, "NOT_FOUND")):
        assert who.send("GET", f"{of_alice}/retention").status_code == status
        (error,) = who.ok("POST", "/graphql", ask)["errors"]
        assert error["extensions"]["code"] == code
    alice.ok("DELETE", f"{path}/{nick.user_id}")
    assert nick.send("GET", f"/v1/experiments/{tenants.made['experiment_id']}/detail"
                     ).status_code == 404  # fmt: skip


def test_the_scope_of_a_token_caps_its_users_role(tenants: Tenants) -> None:
    token = tenants.alice.ok("POST", "/v1/tokens", {"scope": "viewer"})["token"]
    headers = {"Authorization": f"Bearer {token}"}
    body = {"name": "e", "task_type": "t"}
    refused = tenants.alice.service("POST", "/v1/experiments", json=body, headers=headers)
    assert (refused.status_code, refused.json()["code"]) == (403, "not_permitted")
    raised = tenants.alice.service(
        "POST", "/v1/tokens", json={"scope": "maintainer"}, headers=headers
    )
    assert raised.status_code == 403


def test_what_was_revoked_disabled_or_taken_away_ends_at_once(tenants: Tenants) -> None:
    admin = tenants.operator
    path = f"/v1/experiments/{tenants.made['experiment_id']}/detail"
    eve = person(admin, "eve", "amber")
    eve.ok("GET", path)
    admin.ok("DELETE", f"/v1/projects/{eve.project_id}/members/{eve.user_id}")
    assert eve.send("GET", path).status_code == 404
    assert eve.ok("GET", "/v1/me")["projects"] == []
    admin.ok("POST", f"/v1/projects/{eve.project_id}/members", {"user": "eve", "role": "viewer"})
    eve.ok("GET", path)
    admin.ok("PATCH", f"/v1/users/{eve.user_id}", {"disabled": True})
    assert eve.send("GET", path).status_code == 401
    admin.ok("PATCH", f"/v1/users/{eve.user_id}", {"disabled": False})
    eve.ok("GET", path)
    (token,) = eve.ok("GET", "/v1/tokens")["tokens"]
    assert token["last_used_at"] is not None
    eve.ok("DELETE", f"/v1/tokens/{token['token_id']}")
    for route in (path, "/v1/recipes", "/v1/me", "/"):
        assert eve.send("GET", route).status_code == 401


def test_a_token_is_shown_once_and_stored_nowhere(api: Api, tenants: Tenants) -> None:
    key = {"Idempotency-Key": "one"}
    first = tenants.alice.ok("POST", "/v1/tokens", {"name": "n"}, headers=key)
    again = tenants.alice.ok("POST", "/v1/tokens", {"name": "n"}, headers=key)
    assert first["token"].startswith("llmt_") and again == first | {"token": None}
    files = Path(api.settings.database_url.removeprefix("sqlite:///")).parent.glob("*")
    stored = b"".join(file.read_bytes() for file in files if file.is_file())
    assert first["token"].encode() not in stored


def test_the_same_idempotency_key_of_another_user_is_another_key(tenants: Tenants) -> None:
    key, body = {"Idempotency-Key": "shared"}, {"name": "amber-keyed", "task_type": "t"}
    mine = tenants.alice.ok("POST", "/v1/experiments", body, headers=key)
    answer = tenants.bob.send("POST", "/v1/experiments", json=body, headers=key)
    assert "Idempotent-Replayed" not in answer.headers
    assert answer.json()["experiment_id"] != mine["experiment_id"]


def test_mlflow_finds_and_names_within_ones_own_project(tenants: Tenants) -> None:
    api = "/mlflow/api/2.0/mlflow"
    made = tenants.alice.ok("POST", f"{api}/experiments/create", {"name": "amber-same"})
    found = tenants.bob.send("GET", f"{api}/experiments/get-by-name?experiment_name=amber-same")
    assert found.status_code == 404
    other = tenants.bob.ok("POST", f"{api}/experiments/create", {"name": "amber-same"})
    assert other["experiment_id"] != made["experiment_id"]
    run, models = tenants.made["run_id"], f"{api}/logged-models"
    experiment = tenants.made["experiment_id"]
    new = {"experiment_id": experiment, "source_run_id": run, "name": "amber"}
    model = tenants.alice.ok("POST", models, new)["model"]["info"]["model_id"]
    for method, path, body in (
        ("GET", f"{models}/{model}", None),
        ("PATCH", f"{models}/{model}", {"status": "LOGGED_MODEL_READY"}),
        ("PATCH", f"{models}/{model}/tags", {"tags": [{"key": "k", "value": "v"}]}),
        ("POST", f"{models}/{model}/params", {"params": [{"key": "k", "value": "v"}]}),
        ("DELETE", f"{models}/{model}/tags/k", None),
        ("POST", models, new),
        ("POST", f"{models}/search", {"experiment_ids": [experiment]}),
        ("GET", f"{api}/runs/get?run_id={run}", None),
        ("GET", f"{api}/metrics/get-history?run_id={run}&metric_key=amber-loss", None),
        ("GET", f"{api}/experiments/get?experiment_id={tenants.made['experiment_id']}", None),
        ("POST", f"{api}/runs/log-metric", {"run_id": run, "key": "a", "value": 1.0}),
        ("POST", f"{api}/runs/set-tag", {"run_id": run, "key": "k", "value": "v"}),
        ("POST", f"{api}/runs/update", {"run_id": run, "status": "FINISHED"}),
        ("POST", f"{api}/runs/create", {"experiment_id": tenants.made["experiment_id"]}),
    ):  # fmt: skip
        answer = tenants.bob.send(method, path, json=body)
        assert answer.status_code == 404, (path, answer.text)
    search = {"experiment_ids": [tenants.made["experiment_id"]], "max_results": 10}
    assert tenants.bob.ok("POST", f"{api}/runs/search", search) == {"runs": []}
    text = json.dumps(tenants.bob.ok("POST", f"{api}/experiments/search", {"max_results": 10}))
    assert made["experiment_id"] not in text and tenants.made["experiment_id"] not in text


def test_every_table_is_one_that_users_see_in_part_or_one_of_the_service() -> None:
    from sqlmodel import SQLModel

    known = {*visibility.CONDITIONS, *visibility.WITHIN, *visibility.OWN}
    assert known == {table.name for table in SQLModel.metadata.sorted_tables}


def test_each_event_and_write_names_who_did_it_and_administrators_list_them(
    tenants: Tenants,
) -> None:
    admin, alice = tenants.operator, tenants.alice
    events = alice.ok("GET", f"/v1/experiments/{tenants.made['experiment_id']}/events?limit=100")
    actors: dict[str, Any] = {}
    for event in events["events"]:
        actors.setdefault(event["type"], event["actor"])
    assert actors["experiment.created"] == {"kind": "user", "name": "alice-amber"}
    assert actors["checkpoint.marked"] == {"kind": "user", "name": "alice-amber"}
    body = {"name": "audited", "task_type": "t"}
    made = alice.ok("POST", "/v1/experiments", body)["experiment_id"]
    run = alice.ok("POST", f"/v1/experiments/{made}/runs", {"model": "m"})
    trainer = {"Authorization": f"Bearer {run['run_token']}"}
    told = alice.service(
        "POST", f"/v1/runs/{run['run_id']}/reports", json={"step": 1}, headers=trainer
    )
    assert told.status_code == 200
    events = alice.ok("GET", f"/v1/experiments/{made}/events")["events"]
    assert {"kind": "run", "name": run["run_id"]} in [event["actor"] for event in events]

    for target, action in ((made, "create_experiment"), (run["run_id"], "create_run")):
        (entry,) = admin.ok("GET", f"/v1/audit?actor=alice-amber&target_id={target}")["entries"]
        assert (entry["action"], entry["outcome"]) == (action, "done")
    mine = admin.ok("GET", "/v1/audit?action=create_user")["entries"]
    assert mine and {entry["actor"]["kind"] for entry in mine} == {"api_token"}
    first = admin.ok("GET", "/v1/audit?limit=1")
    second = admin.ok("GET", f"/v1/audit?limit=1&after={first['next']}")
    assert first["entries"] != second["entries"]
    every = admin.ok("GET", "/v1/audit?limit=1000")["entries"]
    middle = every[len(every) // 2]["at"]
    here = datetime.fromisoformat(middle).astimezone(timezone(timedelta(hours=8))).isoformat()
    for at in (middle, here):
        parts = [
            admin.ok("GET", "/v1/audit", params={"limit": "1000", name: at})["entries"]
            for name in ("until", "since")
        ]
        assert parts[1] + parts[0] == every and parts[0] and parts[1]
        query = (
            f'{{ after: audit(first: 1000, since: "{at}") {{ id }} '
            f'before: audit(first: 1000, until: "{at}") {{ id }} }}'
        )
        data = admin.ok("POST", "/graphql", {"query": query})["data"]
        assert [each["id"] for each in data["after"] + data["before"]] == [
            entry["entry_id"] for entry in every
        ]
    refused = alice.send("GET", "/v1/audit")
    assert (refused.status_code, refused.json()["code"]) == (403, "not_permitted")


def test_wrong_tokens_are_recorded_and_an_address_may_send_few_of_them(tenants: Tenants) -> None:
    service, headers = tenants.alice.service, {"Authorization": "Bearer llmt_" + "x" * 43}
    codes = [service("GET", "/v1/me", headers=headers).status_code for _ in range(30)]
    assert codes[0] == 401 and codes[-1] == 429
    tenants.alice.ok("GET", "/v1/me")  # the right one passes all the same

    def recorded() -> list[Any]:
        found: list[Any] = tenants.operator.ok("GET", "/v1/audit?action=sign_in")["entries"]
        return found

    wait_until(lambda: bool(recorded()), "the entry of a wrong token")
    assert {(entry["outcome"], entry["actor"]["kind"]) for entry in recorded()} == {
        ("refused", "anonymous")
    }
    assert len(recorded()) <= 10
