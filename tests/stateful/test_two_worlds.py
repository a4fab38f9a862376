"""Two tenants in one service see what each would see in a service of its own.

Hypothesis interleaves what they do; each answer, and all that each sees at the end, is compared
with that of a service where the other has never been. Ids and times are normalised.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.api.conftest import Api, running
from tests.support.server import wait_until
from tests.support.tenants import API_TOKEN, Person, operator, person

_ID = re.compile(r"(exp|run|ckpt|vfy|whk|dlv|prj|usr|tok|alr)_[0-9a-z]{26}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT[0-9:.]+(\+00:00|Z)")
_LONG = re.compile(r'("(?:\w+_seconds|gpu_hours_\w+|goodput)":)[^,}]*')
"""How long something took, in an account."""
_FAILING = re.compile(r'("failing_since":)[^,}]*')
"""When a delivery failed first, which each service finds out when it does."""
_CURSOR = re.compile(r'("next":)"[^"]*"')
_numbers = count()

OPERATIONS = (
    "create", "submit", "report", "mark", "rename", "cancel", "archive", "list", "runs", "count",
    "search", "detail", "usage", "metric", "mlflow", "graph", "webhook", "key",
    "rule", "pause", "rules", "alerts", "told", "hook", "member", "leave", "members", "account",
    "approve", "releases", "export", "gate", "hooks", "peek", "delete",
    "deletions", "fail",
)  # fmt: skip


@dataclass
class World:
    """One tenant in one service: what it has made there, and the names of its ids."""

    user: Person
    experiments: list[str] = field(default_factory=list)
    runs: list[tuple[str, str]] = field(default_factory=list)
    names: dict[str, str] = field(default_factory=dict)
    rules: list[str] = field(default_factory=list)
    hooks: list[str] = field(default_factory=list)
    checkpoints: list[str] = field(default_factory=list)
    other: "World | None" = None
    """The other tenant in the service that both share, whose ids this one tries."""

    def normal(self, text: str) -> str:
        text = _FAILING.sub(r"\1null", _CURSOR.sub(r"\1null", text))
        text = _TIME.sub("TIME", _LONG.sub(r"\1LONG", text))
        return _ID.sub(lambda id: self.names.setdefault(id[0], f"{id[1]}{len(self.names)}"), text)

    def do(self, operation: str, nth: int, value: int) -> str:
        """Do something; return what was answered."""
        body: dict[str, Any]
        experiment = self.experiments[nth % len(self.experiments)] if self.experiments else None
        path = f"/v1/experiments/{experiment}"
        owner, run = self.runs[nth % len(self.runs)] if self.runs else (None, None)
        of_run = f"/v1/experiments/{owner}/runs/{run}"
        match operation:
            case "create":
                body = {"name": f"name-{value}", "task_type": "t", "tags": [f"tag-{value}"]}
                return self._made(*self._ask("POST", "/v1/experiments", body))
            case "key":
                body = {"name": f"keyed-{value}", "task_type": "t"}
                key = {"Idempotency-Key": f"key-{value}"}
                return self._ask("POST", "/v1/experiments", body, **key)[0]
            case "submit" if experiment:
                body = {"model": f"model-{value}", "name": f"run-{value}"}
                text, made = self._ask("POST", f"{path}/runs", body)
                self.runs.append((experiment, made["run_id"]))
                return re.sub(r'"run_token":"[^"]*"', "", text)
            case "report" if run:
                points = {"steps": [value], "values": [value / 2]}
                body = {"step": value, "metrics": {"loss": points}}
                return self._ask("POST", f"/v1/runs/{run}/reports", body)[0]
            case "fail" if run:
                return self._fail(value)
            case "mark" if run:
                body = {
                    "run_id": run, "ckpt_path": f"/ckpts/{owner}/{run}/c", "tag_type": "release",
                    "release_tag": f"v{value}", "metrics": {},
                }  # fmt: skip
                text, made = self._ask("POST", f"/v1/experiments/{owner}/checkpoints/mark", body)
                self.checkpoints += [made["checkpoint_id"]] if "checkpoint_id" in made else []
                return text
            case "delete":
                body = {"name": f"gone-{value}", "task_type": "t"}
                gone = self.user.ok("POST", "/v1/experiments", body)["experiment_id"]
                return str(self.user.send("DELETE", f"/v1/experiments/{gone}").status_code)
            case "deletions":
                deleted = self.user.ok("GET", "/v1/deletions")["deletions"]
                return str([row["name"] for row in deleted])
            case "peek" if self.other:
                query = "query ($ids: [ID!]!) { nodes(ids: $ids) { id } }"
                body = {"query": query, "variables": {"ids": self.other.ids()}}
                return self._ask("POST", "/graphql", body)[0]
            case "rename" if run:
                return self._ask("PATCH", of_run, {"name": f"run-{value}"})[0]
            case "cancel" if run:
                return self._ends(of_run, self._ask("POST", f"{of_run}/cancel", {})[0])
            case "archive" if experiment:
                return self._ask("PATCH", path, {"archived": bool(value % 2)})[0]
            case "webhook" if experiment:
                body = {"url": "https://hooks.example.com", "experiment_id": experiment}
                text, _ = self._ask("POST", "/v1/webhooks", body)
                return re.sub(r'"signing_secret":"[^"]*"', "", text)
            case "graph":
                query = """{ runs(first: 20) { totalCount nodes { id model experiment { id } } }
                    experiments { totalCount nodes { id runCounts { status count } } }
                    facets(field: MODEL) { value count } metricKeys { value count } }"""
                return self._ask("POST", "/graphql", {"query": query})[0]
            case "mlflow":
                api = "/mlflow/api/2.0/mlflow/experiments/create"
                return self._ask("POST", api, {"name": f"mlflow-{value}"})[0]
            case "approve" if run:
                body = {
                    "run_id": run, "ckpt_path": f"/ckpts/{owner}/{run}/c", "tag_type": "approved",
                }  # fmt: skip
                return self._ask("POST", f"/v1/experiments/{owner}/checkpoints/mark", body)[0]
            case "rule" | "pause" | "rules" | "alerts" | "told" | "hook":
                return self._alert(operation, nth, value)
            case "member" | "leave" | "members" | "gate":
                return self._people(operation, value)
            case _:
                where = {
                    "list": "/v1/experiments?archived=any", "runs": "/v1/runs?archived=any",
                    "count": "/v1/runs/counts", "search": f"/v1/runs?search=run-{value}",
                    "usage": "/v1/usage?by=run", "account": "/v1/usage?by=project",
                    "releases": f"{path}/releases",
                    "export": f"{path}/releases/archive?release_tag=v{value}",
                    "detail": f"{path}/detail",
                    "metric": "/v1/runs?order=-metric&metric_key=loss",
                }  # fmt: skip
                return self._ask("GET", where.get(operation, "/v1/webhooks"))[0]

    def _fail(self, value: int) -> str:
        """Let the trainer of the newest run give up, which the supervisor records as its end."""
        owner, run = self.runs[-1]
        body = {"step": value, "failed": f"why-{value}"}
        text, _ = self._ask("POST", f"/v1/runs/{run}/reports", body)
        return self._ends(f"/v1/experiments/{owner}/runs/{run}", text)

    def _ends(self, of_run: str, text: str) -> str:
        """Wait for the end of a run that the service has agreed to, which is the supervisor's."""

        def is_over() -> bool:
            return self.user.ok("GET", f"{of_run}/status")["status"] in ("failed", "cancelled")

        if text.startswith("20"):
            wait_until(is_over, "the run is over")
        return text

    def ids(self) -> list[str]:
        """All that it has made, by ids that the API takes."""
        events = [f"{experiment}:1" for experiment in self.experiments]
        runs = [run for _, run in self.runs]
        made = [*self.experiments, *events, *runs, *self.checkpoints, *self.rules, *self.hooks]
        return made[:100]

    def _alert(self, operation: str, nth: int, value: int) -> str:
        """Do something about the alerts of the own project, or look at them."""
        match operation:
            case "rule":
                kinds = ("run_finished", "checkpoint_released", "run_failed", "metric_nan")
                body = {"kind": kinds[value - 1], "name": f"rule-{value}"}
                text, made = self._ask("POST", "/v1/alert-rules", body)
                self.rules.append(made["rule_id"])
                return text
            case "pause" if self.rules:
                path = f"/v1/alert-rules/{self.rules[nth % len(self.rules)]}"
                return self._ask("PATCH", path, {"paused": bool(value % 2)})[0]
            case "hook":
                body = {"url": "https://hooks.example.com", "project_id": self.user.project_id}
                text, made = self._ask("POST", "/v1/webhooks", body)
                self.hooks.append(made["webhook_id"])
                return re.sub(r'"signing_secret":"[^"]*"', "", text)
            case "told" if self.hooks:
                path = f"/v1/webhooks/{self.hooks[nth % len(self.hooks)]}/deliveries?limit=1000"
                sent = self.user.ok("GET", path)["deliveries"]
                return str(sorted(each["type"] for each in sent))
            case "alerts":
                found = self.user.ok("GET", "/v1/alerts?limit=1000")["alerts"]
                return str(sorted(self._short(each, "rule_id", "run_id") for each in found))
        found = self.user.ok("GET", "/v1/alert-rules")["rules"]
        return str(sorted(self._short(each, "rule_id", "project_id") for each in found))

    def _short(self, row: dict[str, Any], *names: str) -> list[str]:
        return [self.normal(str(row[name])) for name in names]

    def _people(self, operation: str, value: int) -> str:
        """Do something about who is in the own project. Users are those of the whole service."""
        path = f"/v1/projects/{self.user.project_id}"
        mate = f"mate-of-{self.user.name}"
        match operation:
            case "member":
                role = ("viewer", "member", "maintainer", "viewer")[value - 1]
                return self._ask("POST", f"{path}/members", {"user": mate, "role": role})[0]
            case "leave":
                members = self.user.ok("GET", f"{path}/members")["members"]
                gone = [each["user_id"] for each in members if each["user"] == mate]
                statuses = [
                    self.user.send("DELETE", f"{path}/members/{id}").status_code for id in gone
                ]
                return str(statuses)
            case "gate":  # which an administrator sets
                return self._ask("PATCH", path, {"release_metrics": ["loss<=2"]})[0]
        return self._ask("GET", f"{path}/members")[0] + self._ask("GET", f"{path}/use")[0]

    def _ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[str, Any]:
        answer = self.user.send(method, path, json=body, headers=headers)
        return f"{answer.status_code} {self.normal(answer.text)}", answer.json()

    def _made(self, text: str, made: Any) -> str:
        self.experiments.append(made["experiment_id"])
        return text


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Api, Api, Api]]:
    place = tmp_path_factory.mktemp("worlds")
    # No run ends because a world was slow: a cancelled one ends at once, a silent one never.
    timeless = {"external_grace_seconds": 0, "external_heartbeat_seconds": 1e6}
    with (
        running(place / "shared", api_token=API_TOKEN, **timeless) as shared,
        running(place / "one", api_token=API_TOKEN, **timeless) as one,
        running(place / "two", api_token=API_TOKEN, **timeless) as two,
    ):
        yield shared, one, two


LIVED = (
    "rule", "hook", "approve", "mark", "member", "report", "webhook", "cancel", "pause", "submit",
    "fail", "delete", "key",
)  # fmt: skip
"""What each example of a draw may lack: every kind of thing that a tenant can have, at once."""
STEPS = st.lists(
    st.tuples(
        st.sampled_from((0, 1)), st.sampled_from(OPERATIONS), st.integers(0, 5), st.integers(1, 4)
    ),
    min_size=5,
    max_size=30,
)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@example(
    steps=[(tenant, each, 0, value) for value in (1, 2) for each in LIVED for tenant in (0, 1)]
)
@given(steps=STEPS)
def test_each_tenant_sees_what_it_would_see_alone(
    services: tuple[Api, Api, Api], steps: list[tuple[int, str, int, int]]
) -> None:
    shared, *own = services
    number = next(_numbers)
    worlds = []
    for tenant, alone in enumerate(own):
        name = f"tenant-{tenant}-{number}"
        for api in (shared, alone):
            operator(api.send).ok("POST", "/v1/users", {"name": f"mate-of-{name}"})
        pair = tuple(
            World(person(operator(api.send), name, name, "maintainer")) for api in (shared, alone)
        )
        worlds.append(pair)
    for pair, other in zip(worlds, reversed(worlds), strict=True):
        for world in pair:
            world.other = other[0]
    begin = [(tenant, "create", 0, 1) for tenant in (0, 1)]
    begin += [(tenant, "submit", 0, 1) for tenant in (0, 1)]
    look = [(t, each, 0, 1) for t in (0, 1) for each in OPERATIONS if each not in _WRITES]
    for tenant, operation, nth, value in [*begin, *steps, *look]:
        together, alone_ = (world.do(operation, nth, value) for world in worlds[tenant])
        assert together == alone_, (tenant, operation, steps)


_WRITES = {
    "create", "submit", "report", "mark", "rename", "cancel", "archive", "mlflow", "webhook", "key",
    "rule", "pause", "hook", "member", "leave", "approve", "gate", "delete", "fail",
}  # fmt: skip
