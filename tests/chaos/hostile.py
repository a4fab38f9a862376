"""Hostile callers: each kind of attempt, counted, at every route of a real server with two tenants.

An attempt escapes if it is answered as if it was allowed, with anything of alice's, or with an
error of the server's own; a kind of attempts, if alice's data are not afterwards what they were.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from app.domain.ids import new_id
from tests.api.paths import PARAMETERS, PREFIXES
from tests.support.server import running_server
from tests.support.tenants import API_TOKEN, Person, person, two_tenants

OPEN = {"/", "/healthz", "/readyz", "/docs", "/openapi.json"}
"""Routes that need no token."""
WRONG_A_MINUTE = 20
"""So many wrong tokens of an address are looked at; more are answered 429."""
LISTS = ["/v1/webhooks", "/v1/alert-rules", "/v1/projects/{project_id}/members"]
BY_ITSELF = {
    "status", "status_reason", "status_detail", "heartbeat_at",  # of a run
    "paused_at", "paused_reason", "failing_since",  # of a webhook: its deliveries fail here
}  # fmt: skip
"""What the service itself changes of alice's at any time."""
PLANTED = "coral-4711-outside-of-the-data"
"""Stands in a file beside the data directory, which nobody may read through the service."""
VALUES: list[bytes] = [
    b"", b"{", b"[]", b"null", b'"text"', b"NaN", b'{"name": NaN}', b'{"a": 1e999}', b"\xff\xfe",
    b'{"name": "\\u0000"}', b'{"\\ud800": 1}', b"[" * 5_000, b'{"a":' * 5_000, b"9" * 5_000,
    b'{"name": {"$ne": null}}', b'{"__proto__": {"is_admin": true}}',
    b'{"run_id": "run_\' OR 1=1 --"}', b'{"unknown": 1}', b'{"role": "admin"}',
]  # fmt: skip
IDS = [
    "..", "%2e%2e", "..%2f..%2fsecret.txt", "%00", "' OR '1'='1", "run_" + "0" * 5_000, "*", "-1",
    "%252e%252e%252f", "${jndi:ldap://127.0.0.1}", "{{7*7}}", "exp_\u0130", "\u202e",
]  # fmt: skip
PATHS = [
    "../" * 8 + "secret.txt", "/etc/passwd", "..\\..\\secret.txt", "a/../../../secret.txt",
    "file:///etc/passwd", "%2e%2e/%2e%2e/secret.txt", "a\0b", "~root/.ssh/id_rsa", ".",
]  # fmt: skip


class Operation(NamedTuple):
    """One operation of the API, with a good body."""

    method: str
    path: str
    body: Any

    def at(self, ids: dict[str, str]) -> str:
        return self.path.format_map(PARAMETERS | ids)


@dataclass
class Row:
    """A kind of attempts."""

    name: str
    attempts: int = 0
    escapes: list[str] = field(default_factory=list)


class Siege:
    """A server, its tenants, and who tries to get at what is alice's."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.addresses = (f"127.0.1.{number}" for number in range(1, 255))
        self.client = self.another()
        self.tenants = two_tenants(self.send)
        admin = self.tenants.operator
        self.viewer = person(admin, "vera", "amber", "viewer")
        self.former = [person(admin, name, "amber", "maintainer") for name in ("rene", "dora")]
        self.ids = {key: id for key, id in self.tenants.made.items() if key in PREFIXES}
        self.ids["user_id"] = self.tenants.alice.user_id
        document = self.tenants.operator.ok("GET", "/openapi.json")
        self.operations = list(_operations(document))

    def another(self) -> httpx.Client:
        """Return a client at an address of its own, of which no wrong token is known."""
        transport = httpx.HTTPTransport(local_address=next(self.addresses))
        return httpx.Client(base_url=self.url, timeout=60, transport=transport)

    def send(self, method: str, path: str, **more: Any) -> httpx.Response:
        return self.client.request(method, path, **more)

    def belongings(self) -> list[Any]:
        """Return what is alice's, as the operator sees it."""
        path = f"/v1/experiments/{self.ids['experiment_id']}/detail"
        answer = self.tenants.operator.send("GET", path)
        if answer.status_code != 200:
            return [answer.text, [], *map(self._listed, LISTS)]
        found = answer.json()
        events = [event for event in found["events"] if event["actor"]["kind"] != "supervisor"]
        return [_kept(found["runs"]), events, *map(self._listed, LISTS)]

    def _listed(self, path: str) -> list[Any]:
        answer = self.tenants.operator.ok("GET", path.format_map(self.ids))
        rows = next(iter(answer.values()))
        return _kept([row for row in rows if "amber" in json.dumps(row)])

    def leaks(self, text: str, sent: str = "") -> bool:
        """Return True if an answer holds anything of alice's that was not in the request."""
        secrets = [*self.tenants.secrets, PLANTED, "root:x:0"]
        return any(secret in text and secret not in sent for secret in secrets)


def _kept(rows: list[dict[str, Any]]) -> list[Any]:
    return [{key: row[key] for key in row.keys() - BY_ITSELF} for row in rows]


def _operations(document: Any) -> Iterator[Operation]:
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {})
            schema = content.get("application/json", {}).get("schema", {})
            name = schema.get("$ref", "").rpartition("/")[2]
            known = document["components"]["schemas"].get(name, {}).get("examples", [{}])
            yield Operation(method.upper(), path, known[0] if content else None)


Attempt = tuple[str, httpx.Response, str]
"""What it was, its answer, and what was sent."""
Kind = Callable[[Siege], Iterator[tuple[Attempt, bool]]]
"""Yields each attempt, and whether any answer but a refusal is an escape."""


def _walk(
    siege: Siege, headers: list[tuple[str, str]], *, refused: bool
) -> Iterator[tuple[Attempt, bool]]:
    for value in headers:
        for number, operation in enumerate(siege.operations):
            if number % WRONG_A_MINUTE == 0:
                siege.client.close()
                siege.client = siege.another()
            path = operation.at(siege.ids)
            sent = json.dumps(operation.body) + path
            answer = siege.send(operation.method, path, json=operation.body, headers=dict([value]))
            what = f"{operation.method} {operation.path} with {value[1][:30]}"
            yield (what, answer, sent), refused and operation.path not in OPEN


def _bearer(token: str) -> tuple[str, str]:
    return ("Authorization", f"Bearer {token}")


def nobody(siege: Siege) -> Iterator[tuple[Attempt, bool]]:
    """Without a token, and with what is none."""
    token = siege.tenants.alice.token
    wrong = ["null", token[:-1], token.upper(), token + "0", API_TOKEN[:-1], "llmt_"]
    headers = [("X-Nothing", "1"), ("Authorization", f"Basic {token}"), *map(_bearer, wrong)]
    yield from _walk(siege, headers, refused=True)


def former(siege: Siege) -> Iterator[tuple[Attempt, bool]]:
    """With a token that was revoked, and one of a user who is disabled."""
    admin, (revoked, disabled) = siege.tenants.operator, siege.former
    (token,) = revoked.ok("GET", "/v1/tokens")["tokens"]
    admin.ok("DELETE", f"/v1/tokens/{token['token_id']}")
    admin.ok("PATCH", f"/v1/users/{disabled.user_id}", {"disabled": True})
    yield from _walk(siege, [_bearer(user.token) for user in siege.former], refused=True)


def foreigner(siege: Siege) -> Iterator[tuple[Attempt, bool]]:
    """A maintainer of another project, at everything that is alice's."""
    yield from _about_alice(siege, siege.tenants.bob)


def _about_alice(siege: Siege, who: Person) -> Iterator[tuple[Attempt, bool]]:
    for operation in siege.operations:
        if not any("{" + name + "}" in operation.path for name in siege.ids):
            continue
        path = operation.at(siege.ids)
        answer = who.send(operation.method, path, json=operation.body)
        sent = json.dumps(operation.body) + path
        yield (f"{who.name}: {operation.method} {operation.path}", answer, sent), True


def other_run(siege: Siege) -> Iterator[tuple[Attempt, bool]]:
    """The trainer of another run, with the token of that."""
    bob = siege.tenants.bob
    body = {"name": "b", "task_type": "t", "project": "blue"}
    experiment = bob.ok("POST", "/v1/experiments", body)["experiment_id"]
    run = bob.ok("POST", f"/v1/experiments/{experiment}/runs", {"model": "m"})
    yield from _about_alice(
        siege, Person("run", "", run["run_token"], bob.project_id, siege.tenants.bob.service)
    )


def viewer(siege: Siege) -> Iterator[tuple[Attempt, bool]]:
    """A viewer of alice's project, who changes everything in it."""
    for operation in siege.operations:
        about = any("{" + key + "}" in operation.path for key in siege.ids)
        if operation.method == "GET" or not about:
            continue
        path = operation.at(siege.ids)
        answer = siege.viewer.send(operation.method, path, json=operation.body)
        # Its own project's words are no secret to a viewer.
        yield (f"{operation.method} {operation.path}", answer, answer.text), True


def identifiers(siege: Siege) -> Iterator[tuple[Attempt, bool]]:
    """Return what is no id, where one belongs."""
    for operation in siege.operations:
        names = [name for name in PREFIXES if "{" + name + "}" in operation.path]
        for name in names:
            for value in IDS:
                ids = {key: new_id(prefix) for key, prefix in PREFIXES.items()} | {name: value}
                answer = siege.tenants.bob.send(
                    operation.method, operation.at(ids), json=operation.body
                )
                what = f"{operation.method} {operation.path}, {name} {value[:20]!r}"
                yield (what, answer, json.dumps(operation.body)), False


def bodies(siege: Siege) -> Iterator[tuple[Attempt, bool]]:
    """Return what is no body, from somebody who may do nothing with a good one either."""
    for operation in siege.operations:
        if operation.body is None:
            continue
        for value in VALUES:
            path = operation.at(siege.ids)
            headers = {"Content-Type": "application/json"}
            answer = siege.tenants.bob.send(operation.method, path, content=value, headers=headers)
            what = f"{operation.method} {operation.path}, {value[:20]!r}"
            yield (what, answer, value.decode(errors="replace") + path), "{" in operation.path


def outside(siege: Siege) -> Iterator[tuple[Attempt, bool]]:
    """Paths out of the data directory, from alice herself."""
    alice, experiment = siege.tenants.alice, siege.ids["experiment_id"]
    run, base = siege.ids["run_id"], f"/v1/experiments/{siege.ids['experiment_id']}"
    for path in PATHS:
        for prefix in ("", f"/ckpts/{experiment}/{run}/"):
            body = {"run_id": run, "ckpt_path": prefix + path, "tag_type": "t"}
            for operation, sent in (
                (f"{base}/checkpoints/mark", body),
                (f"{base}/runs/{run}/resume", {"ckpt_path": prefix + path}),
            ):
                answer = alice.send("POST", operation, json=sent)
                # What is her own is no secret to alice; the file beside the data is.
                shown = "" if PLANTED in answer.text else answer.text
                yield (f"{operation} {prefix + path!r}", answer, shown), True
        for name in ("logs", "artifacts"):
            answer = alice.send("GET", f"{base}/runs/{run}/{name}", params={"path": path})
            shown = "" if PLANTED in answer.text else answer.text
            yield (f"{name} {path!r}", answer, shown), False


KINDS: dict[str, Kind] = {
    "nobody, and what is no token": nobody,
    "former users and tokens": former,
    "a maintainer of another project": foreigner,
    "the trainer of another run": other_run,
    "a viewer who writes": viewer,
    "what is no id": identifiers,
    "what is no body": bodies,
    "paths out of the data": outside,
}


def _try(siege: Siege, name: str, kind: Kind) -> Row:
    row, before = Row(name), siege.belongings()
    for (what, answer, sent), must_be_refused in kind(siege):
        row.attempts += 1
        allowed = must_be_refused and answer.status_code < 400
        if allowed or answer.status_code >= 500 or siege.leaks(answer.text, sent):
            row.escapes.append(f"{what}: {answer.status_code} {answer.text[:200]}")
    for was, now in zip(before, siege.belongings(), strict=True):
        if was != now:
            row.escapes.append(f"alice's data were {was} and are {now}")
    return row


def hostile(directory: Path, url: str, kinds: dict[str, Kind] = KINDS) -> list[Row]:
    """Try all kinds against one server; return what came of each."""
    (directory / "secret.txt").write_text(PLANTED)
    with running_server(
        directory, DATABASE_URL=url, API_TOKEN=API_TOKEN,
        EXTERNAL_HEARTBEAT_SECONDS="3600",  # else it ends alice's silent run by itself
    ) as server:  # fmt: skip
        siege = Siege(server.url)
        rows = [_try(siege, name, kind) for name, kind in kinds.items()]
        siege.client.close()
    return rows


def table(rows: list[Row]) -> str:
    """Return the table of attempts and escapes."""
    lines = [f"{'':34}{'attempts':>9}{'escapes':>9}"]
    lines += [f"{row.name:34}{row.attempts:>9,}{len(row.escapes):>9}" for row in rows]
    total, escaped = sum(row.attempts for row in rows), sum(len(row.escapes) for row in rows)
    return "\n".join([*lines, f"{'together':34}{total:>9,}{escaped:>9}"])
