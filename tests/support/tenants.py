"""A service with two tenants: alice works in the project `amber`, bob in `blue`."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

API_TOKEN = "the-token-of-the-operator"


@dataclass
class Person:
    """A user with a token; `send` makes a request with it."""

    name: str
    user_id: str
    token: str
    project_id: str
    service: Callable[..., httpx.Response]

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token}", **more.pop("headers", {})}
        return self.service(method, path, headers=headers, **more)

    def ok(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        answer = self.send(method, path, json=body, **more)
        assert answer.status_code < 300, (path, answer.status_code, answer.text)
        return answer.json() if answer.content else None


@dataclass
class Tenants:
    """The operator, alice and bob, and what alice has made."""

    operator: Person
    alice: Person
    bob: Person
    made: dict[str, str] = field(default_factory=dict)

    @property
    def secrets(self) -> list[str]:
        """Every text that no answer to bob may hold."""
        return ["amber", self.alice.user_id, *self.made.values()]


def operator(send: Callable[..., httpx.Response]) -> Person:
    return Person("operator", "", API_TOKEN, "", send)


def person(admin: Person, name: str, project: str, role: str = "member") -> Person:
    """A new user with a role in a project, which is made if there is none."""
    known = admin.ok("GET", "/v1/projects")["projects"]
    found = [each["project_id"] for each in known if each["name"] == project]
    project_id = found[0] if found else admin.ok("POST", "/v1/projects", {"name": project})[
        "project_id"
    ]  # fmt: skip
    user_id = admin.ok("POST", "/v1/users", {"name": name})["user_id"]
    admin.ok("POST", f"/v1/projects/{project_id}/members", {"user": name, "role": role})
    body = {"user": name, "scope": "maintainer"}
    token = admin.ok("POST", "/v1/tokens", body)["token"]
    return Person(name, user_id, token, project_id, admin.service)


def two_tenants(send: Callable[..., httpx.Response]) -> Tenants:
    """Two tenants; alice has one of everything, and each text of hers says `amber`."""
    admin = operator(send)
    alice = person(admin, "alice-amber", "amber", "maintainer")
    bob = person(admin, "bob", "blue", "maintainer")
    made: dict[str, str] = {}
    body = {
        "name": "amber", "task_type": "amber-task", "owner": "amber-owner",
        "base_model": "amber-base", "tags": ["amber-tag"], "notes": "amber",
    }  # fmt: skip
    made["experiment_id"] = experiment = alice.ok("POST", "/v1/experiments", body)["experiment_id"]
    path = f"/v1/experiments/{experiment}"
    run = alice.ok("POST", f"{path}/runs", {"model": "amber-model", "name": "amber-run"})
    made["run_id"], made["run_token"] = run["run_id"], run["run_token"]
    report = {"step": 3, "metrics": {"amber-loss": {"steps": [1, 2, 3], "values": [3, 2, 1]}}}
    alice.ok("POST", f"/v1/runs/{run['run_id']}/reports", report)
    demo = {
        "model": "amber-model",
        "recipe": "demo",
        "resources": {"gpu_type": "AMBER", "count": 1},
    }
    made["demo_id"] = alice.ok("POST", f"{path}/runs", demo)["run_id"]
    made["ckpt_path"] = f"/ckpts/{experiment}/{run['run_id']}/amber-1"
    mark = {
        "run_id": run["run_id"], "ckpt_path": made["ckpt_path"], "tag_type": "release",
        "release_tag": "amber-v1", "metrics": {"amber-score": 1.5},
    }  # fmt: skip
    made["checkpoint_id"] = alice.ok("POST", f"{path}/checkpoints/mark", mark)["checkpoint_id"]
    verify = alice.ok("POST", f"{path}/verifications", {})
    made["verification_id"] = verify["verification_id"]
    hook = {"url": "https://amber.example.com/hook", "experiment_id": experiment}
    made["webhook_id"] = alice.ok("POST", "/v1/webhooks", hook)["webhook_id"]
    made["delivery_id"] = alice.ok("POST", f"/v1/webhooks/{made['webhook_id']}/test", {})[
        "delivery_id"
    ]  # fmt: skip
    rule = {"kind": "checkpoint_released", "name": "amber"}
    made["rule_id"] = alice.ok("POST", "/v1/alert-rules", rule)["rule_id"]
    alice.ok(
        "POST",
        f"{path}/checkpoints/mark",
        mark | {"ckpt_path": made["ckpt_path"] + "-b", "release_tag": "amber-v0"},
    )
    made["token_id"] = alice.ok("GET", "/v1/tokens")["tokens"][0]["token_id"]
    made["project_id"] = alice.project_id
    return Tenants(admin, alice, bob, made)
