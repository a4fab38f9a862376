"""Every POST route × every kind of bad input: a problem that points, and nothing changed.

What is refused before a database is asked is tested on one of them.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fastapi import FastAPI

from app.rest.parameters import bodies
from tests.api.conftest import Api, running
from tests.api.paths import PARAMETERS, PREFIXES
from tests.api.problem import problem
from tests.support.database import postgresql_heavy, sqlite_only


class Route(NamedTuple):
    """A route: its path, a body that it takes, and where that body takes free JSON."""

    path: str
    good: dict[str, Any]
    model: str
    free: str | None
    changes: bool = True
    method: str = "POST"


CKPT = "/ckpts/{experiment}/{run}/step-1"
ROUTES = {
    "create_experiment": Route(
        "/v1/experiments",
        {"name": "a", "task_type": "sft", "param_config": {"x": [1, {"y": 2.5}]}, "tags": ["t"]},
        "ExperimentRequest",
        "param_config",
    ),
    "submit_run": Route(
        "/v1/experiments/{experiment}/runs",
        {"model": "m", "dataset": {"name": "d"}, "hyperparams": {"lr": 0.1}, "resources": {}},
        "RunRequest",
        "hyperparams",
    ),
    "cancel_run": Route(
        "/v1/experiments/{experiment}/runs/{run}/cancel", {}, "CancelRequest", None
    ),
    "resume_run": Route(
        "/v1/experiments/{experiment}/runs/{run}/resume",
        {"ckpt_path": CKPT, "override_hyperparams": {"lr": 0.2}, "notes": "n"},
        "ResumeRequest",
        "override_hyperparams",
    ),
    "mark_checkpoint": Route(
        "/v1/experiments/{experiment}/checkpoints/mark",
        {"run_id": "{run}", "ckpt_path": CKPT, "tag_type": "candidate", "metrics": {"loss": 1.5}},
        "MarkRequest",
        "metrics",
    ),
    "verify_checkpoints": Route(
        "/v1/experiments/{experiment}/checkpoints/verify",
        {"run_id": "{run}"},
        "VerifyRequest",
        None,
        changes=False,  # there is none yet
    ),
    "start_verification": Route(
        "/v1/experiments/{experiment}/verifications", {"run_id": "{run}"}, "VerifyRequest", None
    ),
    "redact_run": Route(
        "/v1/experiments/{experiment}/runs/{run}/redact",
        {"notes": True},
        "RedactRequest",
        None,
    ),
    "rerun_run": Route("/v1/experiments/{experiment}/runs/{run}/rerun", {}, "RerunRequest", None),
    "update_run": Route(
        "/v1/experiments/{experiment}/runs/{run}",
        {"name": "a", "tags": ["t"]},
        "UpdateRunRequest",
        None,
        method="PATCH",
    ),
    "update_experiment": Route(
        "/v1/experiments/{experiment}",
        {"notes": "n"},
        "UpdateExperimentRequest",
        None,
        method="PATCH",
    ),
    "create_webhook": Route(
        "/v1/webhooks",
        {"url": "https://hooks.example.com/x", "types": ["run.failed"], "format": "slack"},
        "WebhookRequest",
        None,
    ),
    "update_webhook": Route(
        "/v1/webhooks/{webhook}", {"name": "a"}, "WebhookUpdate", None, method="PATCH"
    ),
    "test_webhook": Route("/v1/webhooks/{webhook}/test", {}, "EmptyRequest", None),
    "redeliver": Route(
        "/v1/webhooks/{webhook}/deliveries/{delivery}/redeliver", {}, "EmptyRequest", None
    ),
    "create_alert_rule": Route(
        "/v1/alert-rules",
        {"kind": "metric_threshold", "metric": "loss", "direction": "above", "value": 3.0},
        "AlertRuleRequest",
        None,
    ),
    "update_alert_rule": Route(
        "/v1/alert-rules/{rule}",
        {"name": "a", "points": 2},
        "AlertRuleUpdate",
        None,
        method="PATCH",
    ),
    "create_project": Route("/v1/projects", {"name": "p"}, "ProjectRequest", None),
    "update_project": Route(
        "/v1/projects/prj_00000000000000000000000000",
        {"description": "d", "max_runs": 8},
        "ProjectUpdate",
        None,
        method="PATCH",
    ),
    "set_member": Route(
        "/v1/projects/prj_00000000000000000000000000/members",
        {"user": "{person}", "role": "member"},
        "MemberRequest",
        None,
    ),
    "create_user": Route("/v1/users", {"name": "u", "email": "u@x.org"}, "UserRequest", None),
    "update_user": Route(
        "/v1/users/{user}", {"disabled": True}, "UserUpdate", None, method="PATCH"
    ),
    "create_token": Route(
        "/v1/tokens",
        {"user": "{person}", "scope": "viewer", "expires_at": "2999-01-01T00:00:00Z"},
        "TokenRequest",
        None,
    ),
    "report": Route(
        "/v1/runs/{run}/reports",
        {"session": "s", "batch": 1, "step": 1, "effective_hyperparams": {"lr": 0.1}},
        "ReportRequest",
        "effective_hyperparams",
    ),
}


class Story(NamedTuple):
    """An experiment with a run that a trainer may attach to, and another experiment's run."""

    api: Api
    experiment: str
    run: str
    token: str
    other_experiment: str
    other_run: str
    webhook: str
    delivery: str
    person: str
    user: str
    rule: str

    def fill(self, text: str) -> str:
        for name in ("experiment", "run", "webhook", "delivery", "person", "user", "rule"):
            text = text.replace(f"{{{name}}}", getattr(self, name))
        return text

    def good(self, route: Route) -> dict[str, Any]:
        filled: dict[str, Any] = json.loads(self.fill(json.dumps(route.good)))
        return filled

    def send(self, route: Route, content: bytes, headers: Any = ()) -> Any:
        told = dict(headers)
        told.setdefault("content-type", "application/json")
        told.setdefault("authorization", f"Bearer {self.token}")
        path, headers = self.fill(route.path), list(told.items())
        return self.api.send(route.method, path, content=content, headers=headers)


def tell(api: Api) -> Story:
    experiment, other = (
        api.post("/v1/experiments", {"name": name, "task_type": "sft"})["experiment_id"]
        for name in ("one", "other")
    )
    run = api.post(f"/v1/experiments/{experiment}/runs", {"model": "m"})
    foreign = api.post(f"/v1/experiments/{other}/runs", {"model": "m"})
    webhook = api.post("/v1/webhooks", {"url": "https://hooks.example.com"})["webhook_id"]
    api.send("PATCH", f"/v1/webhooks/{webhook}", json={"paused": True})
    delivery = api.post(f"/v1/webhooks/{webhook}/test", {})["delivery_id"]
    person = f"of-{run['run_id']}"
    return Story(
        api,
        experiment,
        run["run_id"],
        run["run_token"],
        other,
        foreign["run_id"],
        webhook,
        delivery,
        person,
        api.post("/v1/users", {"name": person})["user_id"],
        api.post(
            "/v1/alert-rules",
            {"kind": "metric_spike", "metric": "loss", "value": 8},
        )["rule_id"],
    )


@pytest.fixture(scope="module")
def story(api: Api) -> Story:
    return tell(api)


@pytest.fixture
def unchanged(story: Story) -> Iterator[None]:
    before = story.api.digest()
    yield
    assert story.api.digest() == before


each_route = pytest.mark.parametrize("route", ROUTES.values(), ids=ROUTES)
changes_nothing = pytest.mark.usefixtures("unchanged")


def is_refused(test: Callable[..., None]) -> Callable[..., None]:
    """Mark what is refused before a database is asked, and changes nothing."""
    refused: Callable[..., None] = sqlite_only(changes_nothing(test))
    return refused


def on_two_routes(name: str, values: Iterable[Any], ids: Iterable[str]) -> pytest.MarkDecorator:
    """Each value on two routes, so that each route meets values of all kinds: one reader reads
    the bodies of all routes, and `test_every_route_has_the_one_reader` sees to that."""
    routes = list(ROUTES.items())
    cases = []
    for number, (value, label) in enumerate(zip(values, ids, strict=True)):
        for operation, route in (routes[number % len(routes)], routes[(number + 3) % len(routes)]):
            cases.append(pytest.param(route, value, id=f"{operation}-{label}"))
    return pytest.mark.parametrize(("route", name), cases)


@sqlite_only
def test_the_table_holds_every_route_with_a_body(api: Api) -> None:
    app: FastAPI = api.app
    with_body = [
        operation
        for operations in app.openapi()["paths"].values()
        for method, operation in operations.items()
        if method in ("post", "patch")
    ]
    # An agent's own routes: tests/api/test_attempts.py.
    people = {each["operationId"] for each in with_body if each["tags"] != ["agents"]}
    assert people == set(ROUTES), f"add {people - set(ROUTES)} to ROUTES"


@pytest.fixture(scope="module")
def taking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The app of those that change its database."""
    with running(tmp_path_factory.mktemp("taking")) as api:
        yield api


@each_route
def test_the_good_body_is_taken_and_does_change_the_database(
    route: Route, taking: Api, tmp_path: Path
) -> None:
    # Else all below could pass because of something other than what they are about.
    with nullcontext(taking) if route.changes else running(tmp_path) as api:
        story = tell(api)
        before = api.digest()
        answer = story.send(route, json.dumps(story.good(route)).encode())
        assert answer.status_code in (200, 201, 202), answer.text
        assert (api.digest() != before) == route.changes


DEEP = 100_000
VALUES: dict[str, tuple[bytes, str]] = {
    "NaN": (b"NaN", "invalid_input"),
    "Infinity": (b"Infinity", "invalid_input"),
    "minus Infinity": (b"-Infinity", "invalid_input"),
    "1e999": (b"1e999", "invalid_input"),
    "beyond int64": (b"9223372036854775808", "invalid_input"),
    "below int64": (b"-9223372036854775809", "invalid_input"),
    "beyond uint64": (b"18446744073709551616", "invalid_input"),
    "4,300 digits": (b"1" * 4300, "invalid_input"),
    "5,000 digits": (b"1" * 5000, "malformed_body"),
    "lone surrogate, escaped": (rb'"\ud800"', "malformed_body"),
    "lone surrogate, in bytes": (b'"\xed\xa0\x80"', "malformed_body"),
    "lone surrogate as a key": (rb'{"\udfff": 1}', "malformed_body"),
    "invalid UTF-8": (b'"\xff"', "malformed_body"),
    "overlong UTF-8": (b'"\xc0\xaf"', "malformed_body"),
    "NUL, escaped": (rb'"\u0000"', "invalid_input"),
    "NUL, in bytes": (b'"\x00"', "malformed_body"),
    "deep arrays": (b"[" * DEEP + b"]" * DEEP, "malformed_body"),
    "deep objects": (b'{"a":' * DEEP + b"1" + b"}" * DEEP, "malformed_body"),
    "a little too deep": (b"[" * 17 + b"]" * 17, "invalid_input"),
    "too much text": (b'"' + b"x" * 70_000 + b'"', "invalid_input"),
    "too many keys": (
        json.dumps(dict.fromkeys(map(str, range(9000)), 0)).encode(),
        "invalid_input",
    ),
    "a comment": (b"1 /* one */", "malformed_body"),
    "a trailing comma": (b"[1,]", "malformed_body"),
    "single quotes": (b"'1'", "malformed_body"),
}


@on_two_routes("value", VALUES.values(), VALUES)
@is_refused
def test_a_value_that_is_not_taken(story: Story, route: Route, value: tuple[bytes, str]) -> None:
    raw, code = value
    good = story.good(route)
    field = route.free or "anything"
    if route.free == "metrics" and raw.lstrip(b"-").isdigit() and len(raw) < 4300:
        field = "step"  # a metric is a number of any size; it has no such field
    good[field] = {"key": "VALUE"}
    body = json.dumps(good).encode().replace(b'"VALUE"', raw)
    told = problem(story.send(route, body), code)
    if code == "invalid_input":
        assert [each["pointer"].split("/")[1] for each in told["errors"]] == [field]


WRONG: list[Any] = [{"a": {}}, [[]], "", 1.5, True, "1"]


@each_route
@is_refused
def test_every_route_has_the_one_reader(story: Story, route: Route) -> None:
    """One refusal of each step that a body goes through: its type, its size, JSON, its fields."""
    for content, headers, code in [
        (b"{}", {"content-type": "text/plain"}, "unsupported_media_type"),
        (b"{}", {"idempotency-key": "x" * 256}, "invalid_input"),
        (b"x" * 10_000_000, {}, "body_too_large"),
        (rb'"\ud800"', {}, "malformed_body"),
        (b"[" * DEEP, {}, "malformed_body"),
        (b'{"surprise": NaN}', {}, "invalid_input"),
    ]:
        problem(story.send(route, content, headers), code)


@each_route
@is_refused
def test_a_field_of_the_wrong_type(story: Story, route: Route) -> None:
    for name in bodies[route.model].model_fields:
        refused = 0
        for wrong in WRONG:
            try:
                field_adapter(route.model, name, wrong)
            except ValueError:
                refused += 1
                good = {**story.good(route), name: wrong}
                told = problem(story.send(route, json.dumps(good).encode()))
                assert told["code"] in ("invalid_input", "bad_checkpoint_path", "unknown_recipe")
                assert all(each["pointer"].split("/")[1] == name for each in told["errors"])
        assert refused, f"{name} takes everything"


def field_adapter(model: str, name: str, value: Any) -> Any:
    """Return what one field makes of a value. Raises ValidationError, which is a ValueError."""
    return bodies[model].__pydantic_validator__.validate_assignment(
        bodies[model].model_construct(), name, value
    )


BODIES: dict[str, tuple[bytes, str]] = {
    "cut short": (b'{"name": "a"', "malformed_body"),
    "two documents": (b"{}{}", "malformed_body"),
    "a byte order mark": (b"\xef\xbb\xbf{}", "malformed_body"),
    "UTF-16": ("{}".encode("utf-16"), "malformed_body"),
    "only spaces": (b"  \n ", "malformed_body"),
    "an array": (b"[]", "invalid_input"),
    "a string": (b'"{}"', "invalid_input"),
    "a number": (b"1", "invalid_input"),
    "null": (b"null", "invalid_input"),
    "an unknown field": (b'{"surprise": 1}', "invalid_input"),
    "a field of a prototype": (b'{"__proto__": {}, "constructor": {}}', "invalid_input"),
    "an endless field name": (b'{"' + b"x" * 1_000_000 + b'": 1}', "invalid_input"),
    "ten thousand fields": (
        json.dumps(dict.fromkeys(map(str, range(10_000)))).encode(), "invalid_input",
    ),
    "10 MB": (b'{"name": "' + b"x" * 10_000_000 + b'"}', "body_too_large"),
}  # fmt: skip


@on_two_routes("body", BODIES.values(), BODIES)
@is_refused
def test_a_body_that_is_not_taken(story: Story, route: Route, body: tuple[bytes, str]) -> None:
    content, code = body
    answer = story.send(route, content)
    problem(answer, code)
    assert len(answer.content) < 10_000  # a refusal is never as long as what it refuses


@pytest.mark.parametrize("operation", ["create_experiment", "submit_run", "mark_checkpoint"])
@is_refused
def test_no_body_is_an_empty_object_and_names_what_is_required(
    story: Story, operation: str
) -> None:
    told = problem(story.send(ROUTES[operation], b""), "invalid_input")
    assert {"detail": "required", "pointer": "/" + next(iter(ROUTES[operation].good))} in told[
        "errors"
    ]


@sqlite_only
def test_of_a_repeated_key_the_last_counts_as_everywhere(story: Story) -> None:
    body = b'{"name": "first", "task_type": "a", "name": "last"}'
    assert story.send(ROUTES["create_experiment"], body).json()["name"] == "last"


TYPES = [
    [],
    ["text/plain"],
    ["application/x-www-form-urlencoded"],
    ["multipart/form-data; boundary=x"],
    ["application/jsonx"],
    ["application/json, text/plain"],
    ["text/plain", "application/json"],
    ["application/json", "application/json"],
    [""],
]


@on_two_routes("types", TYPES, map(", ".join, TYPES))
@is_refused
def test_a_body_of_another_type(story: Story, route: Route, types: list[str]) -> None:
    answer = story.api.send(
        route.method,
        story.fill(route.path),
        content=json.dumps(story.good(route)).encode(),
        headers=[("authorization", f"Bearer {story.token}"), *(("content-type", t) for t in types)],
    )
    assert "Content-Type: application/json" in problem(answer, "unsupported_media_type")["detail"]


@sqlite_only
@pytest.mark.parametrize(
    "type", ["application/json; charset=utf-8", "Application/JSON", "application/vnd.x+json"]
)
def test_a_body_of_json_by_another_name(story: Story, type: str) -> None:
    body = b'{"name": "a", "task_type": "b"}'
    assert story.send(ROUTES["create_experiment"], body, {"content-type": type}).status_code == 201


KEYS = [
    [b""],
    [b'""'],
    [b"x" * 256],
    [b'"' + b"x" * 256 + b'"'],
    [b"a\tb"],
    [b"a\x00b"],
    [b"a\r\nSet-Cookie: b"],
    [b"caf\xc3\xa9"],
    [b"a", b"a"],
    [b"a", b"b"],
]


@on_two_routes("keys", KEYS, map(repr, KEYS))
@is_refused
def test_a_bad_idempotency_key(story: Story, route: Route, keys: list[bytes]) -> None:
    answer = story.api.send(
        route.method,
        story.fill(route.path),
        content=json.dumps(story.good(route)).encode(),
        headers=[
            (b"authorization", f"Bearer {story.token}".encode()),
            (b"content-type", b"application/json"),
            *((b"idempotency-key", key) for key in keys),
        ],
    )
    assert problem(answer, "invalid_input")["errors"][0]["header"] == "Idempotency-Key"


IDS = {
    "no id": "x",
    "another prefix": "ckpt_0cc4q1wv6a2gkx8m3r5t7z9bdf",
    "unknown": "{prefix}_0cc4q1wv6a2gkx8m3r5t7z9bdf",
    "upper case": "{prefix}_0CC4Q1WV6A2GKX8M3R5T7Z9BDF",
    "a letter that ids lack": "{prefix}_0cc4q1wv6a2gkx8m3r5t7z9bdl",
    "one too long": "{prefix}_0cc4q1wv6a2gkx8m3r5t7z9bdff",
    "a line end": "{prefix}_0cc4q1wv6a2gkx8m3r5t7z9bdf%0A",
    "NUL": "%00",
    "bad UTF-8": "%ff%fe",
    "a surrogate": "%ed%a0%80",
    "a slash": "..%2f..%2fetc%2fpasswd",
    "dots": "%2e%2e",
    "very long": "x" * 5000,
    "SQL": "'%20OR%201=1%20--",
    "full width digits": "{prefix}_%EF%BC%90cc4q1wv6a2gkx8m3r5t7z9bdf",
}


@postgresql_heavy  # no database is asked
@pytest.mark.parametrize("id", IDS.values(), ids=IDS)
@changes_nothing
def test_an_id_that_is_none_is_not_found_on_any_route(story: Story, id: str) -> None:
    tried = 0
    for path, operations in story.api.app.openapi()["paths"].items():
        for name, prefix in PREFIXES.items():
            if f"{{{name}}}" not in path:
                continue
            wrong = id.format(prefix=prefix)
            url = path.replace(f"{{{name}}}", wrong)
            existing = {"experiment_id": story.experiment, "run_id": story.run}
            url = url.format(**PARAMETERS | existing)
            for method, operation in operations.items():
                route = ROUTES.get(operation["operationId"])
                body = {} if route is None else story.good(route)
                if path.endswith("/claim"):
                    body = {"agent": "an-agent-of-its-own-0123456789"}
                headers = {"authorization": f"Bearer {story.token}"}
                more = {"json": body} if method in ("post", "patch") else {}
                needed = {
                    "compare_metrics": {"run_ids": story.run}, "append_log": {"offset": 0},
                    "export_release": {"release_tag": "v1"},
                }  # fmt: skip
                params = needed.get(operation["operationId"], {})
                answer = story.api.send(method.upper(), url, headers=headers, params=params, **more)
                # Their tokens are one run's, or one attempt's: of no other is anything told.
                own_token = path.startswith("/v1/runs/{run_id}/")
                code = "unauthorized" if own_token and answer.status_code == 401 else "not_found"
                problem(answer, code)
                tried += 1
    assert tried > 10


@changes_nothing
def test_a_run_of_another_experiment_is_not_found(story: Story) -> None:
    for path, operations in story.api.app.openapi()["paths"].items():
        if "{run_id}" in path and "{experiment_id}" in path:
            url = path.format(experiment_id=story.experiment, run_id=story.other_run)
            for method, operation in operations.items():
                route = ROUTES.get(operation["operationId"])
                more = {} if route is None else {"json": story.good(route)}
                problem(story.api.send(method.upper(), url, **more), "not_found")
    body = {"run_id": story.other_run, "ckpt_path": "x", "tag_type": "candidate"}
    url = f"/v1/experiments/{story.experiment}/checkpoints/mark"
    problem(story.api.send("POST", url, json=body), "not_found")


PATHS = [
    "", "/", "x", "step-1", "/ckpts", "/ckpts/", "/ckpts/{e}/{r}", "/ckpts/{e}/{r}/",
    "/ckpts/{e}/{r}/a/", "/ckpts/{e}/{r}//a", "//ckpts/{e}/{r}/a", "ckpts/{e}/{r}/a",
    "/ckpts/{e}/{r}/..", "/ckpts/{e}/{r}/.", "/ckpts/{e}/{r}/.hidden", "/ckpts/{e}/{r}/../{r}/a",
    "/ckpts/{e}/{r}/a/../b", "/ckpts/{e}/../{e}/{r}/a", "/ckpts/{e}/{r}/a/b",
    "/ckpts/{e}/{r}/%2e%2e", "/ckpts/{e}/{r}/a%2fb", "/ckpts/{e}/{r}/a%00", "/ckpts/{e}/{r}/%",
    "/ckpts/{e}/{r}/a\\..\\b", "\\ckpts\\{e}\\{r}\\a", "/ckpts/{e}/{r}/a\n", "/ckpts/{e}/{r}/a b",
    "/ckpts/{e}/{r}/a?x=1", "/ckpts/{e}/{r}/a#x", "/ckpts/{e}/{r}/a:b", "/ckpts/{e}/{r}/~root",
    "/ckpts/{e}/{r}/․․", "/ckpts/{e}/{r}/ａ", "/ckpts/{e}/{r}/a\u202eb", "/ckpts／{e}／{r}／a",
    "/ckpts/{e}/{r}/" + "a" * 129, "/CKPTS/{e}/{r}/a", "file:///ckpts/{e}/{r}/a", "s3://b/{e}/{r}/a",
    "http://127.0.0.1/ckpts/{e}/{r}/a", "/etc/passwd", "C:\\ckpts\\a",
    "/ckpts/{e}/{other_r}/a", "/ckpts/{other_e}/{r}/a", "/ckpts/{other_e}/{other_r}/a",
    "/ckpts/{e}/run_0cc4q1wv6a2gkx8m3r5t7z9bdf/a",
]  # fmt: skip


@pytest.mark.parametrize("path", PATHS, ids=repr)
@is_refused
def test_a_checkpoint_path_outside_of_the_run(story: Story, path: str) -> None:
    path = path.format(
        e=story.experiment, r=story.run, other_e=story.other_experiment, other_r=story.other_run
    )
    for route in (ROUTES["resume_run"], ROUTES["mark_checkpoint"]):
        answer = story.send(route, json.dumps({**story.good(route), "ckpt_path": path}).encode())
        refusal = problem(answer, "bad_checkpoint_path")
        assert [error["pointer"] for error in refusal["errors"]] == ["/ckpt_path"], route


@pytest.mark.parametrize(
    "query",
    ["offset=x", "offset=1.5", "offset=", "offset=99999999999999999999", "offset=NaN", "limit=0",
     "limit=-1", "limit=99999999999", "follow=perhaps", "unknown=1", "offset=%00", "offset=%ff"],
)  # fmt: skip
@is_refused
def test_a_bad_parameter_of_the_log_is_named(story: Story, query: str) -> None:
    path = f"/v1/experiments/{story.experiment}/runs/{story.run}/logs?{query}"
    told = problem(story.api.send("GET", path), "invalid_input")
    assert told["errors"][0]["parameter"] == query.partition("=")[0]


@pytest.mark.parametrize(
    ("report", "pointer"),
    [
        ('{"metrics": {"l": {"steps": [1, 2], "values": [1, X]}}}', "/metrics/l/values/1"),
        ('{"metrics": {"a/b~c": {"steps": [1], "values": [X]}}}', "/metrics/a~1b~0c/values/0"),
        (
            '{"metrics": {"l": {"steps": [1], "values": [1], "wall_times": [X]}}}',
            "/metrics/l/wall_times/0",
        ),
        ('{"points": [{"key": "l", "step": 1, "value": X}]}', "/points/0/value"),
        (
            '{"points": [{"key": "l", "step": 1, "value": 1, "wall_time": X}]}',
            "/points/0/wall_time",
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", '"nan"', "{}", "true"])
@is_refused
def test_a_number_of_a_report_that_is_none(
    story: Story, report: str, pointer: str, value: str
) -> None:
    answer = story.send(ROUTES["report"], report.replace("X", value).encode())
    told = problem(answer, "invalid_input")
    assert [each["pointer"] for each in told["errors"]] == [pointer]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"metrics": {"": {"steps": [1], "values": [1]}}}, ["/metrics/"]),
        ({"metrics": {"l": {"values": [1]}}}, ["/metrics/l/steps"]),
        ({"checkpoints": [{"name": ".x", "step": 1}]}, ["/checkpoints/0/name"]),
        ({"checkpoints": [7]}, ["/checkpoints/0"]),
        ({"steps": 1, "batch": 0}, ["/batch", "/steps"]),
    ],
)
@is_refused
def test_a_pointer_leads_to_the_very_place(
    story: Story, body: dict[str, Any], pointers: list[str]
) -> None:
    told = problem(story.send(ROUTES["report"], json.dumps(body).encode()), "invalid_input")
    assert [each["pointer"] for each in told["errors"]] == pointers


@sqlite_only
def test_only_reports_may_be_larger_than_a_megabyte(story: Story) -> None:
    for operation, route in ROUTES.items():
        padded = json.dumps(story.good(route)).encode() + b" " * 1_100_000
        answer = story.send(route, padded)
        if operation == "report":
            assert answer.status_code == 200, answer.text
        else:
            problem(answer, "body_too_large")
