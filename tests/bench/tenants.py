"""The row of authentication: the same work for a user with a role as for whoever needs no token.

A member of every project sees all there is; for a user outside of one, each query goes through a
view of what that user sees.
"""

import json
import secrets
from functools import partial
from typing import Any

from tests.bench.fixture import RUN, Workbench, call, port
from tests.bench.load import request, run_load
from tests.bench.report import Figure, Target, figure
from tests.bench.rows import CLIENTS, in_turns, list_path, p50, status_paths
from tests.support.server import Server

READ, LIST, SUBMIT = "read one run", "list 100 of 10 k runs", "submit runs"
TARGETS = {
    READ: ("/s", Target("at least", 0.95)),
    LIST: ("ms p50", Target("at most", 1.05)),
    SUBMIT: ("/s", Target("at least", 0.95)),
}


def a_member(server: Server) -> dict[str, str]:
    """The header of a new user who is a maintainer of every project there is."""
    name = f"bench-{secrets.token_hex(6)}"
    call(server, "POST", "/v1/users", {"name": name})
    for project in call(server, "GET", "/v1/projects")["projects"]:
        members = f"/v1/projects/{project['project_id']}/members"
        call(server, "POST", members, {"user": name, "role": "maintainer"})
    token = call(server, "POST", "/v1/tokens", {"user": name, "scope": "maintainer"})["token"]
    return {"Authorization": f"Bearer {token}"}


def authenticated(bench: Workbench) -> list[Figure]:
    """Reading, listing and submitting, with a token and without."""
    server, token = bench.ours, a_member(bench.ours)
    seconds, each = (1.0, 30) if bench.quick else (3.0, 150)
    runs = f"/v1/experiments/{bench.experiments['work']}/runs"

    def read(headers: Any) -> float:
        lanes = [[request("GET", path, **headers)] for path in status_paths(bench)]
        return run_load(port(server), lanes, seconds).expect(200).rate

    def listed(headers: Any) -> float:
        asked = [[request("GET", list_path(bench, "10k"), **headers)]]
        return p50(run_load(port(server), asked, seconds))

    def submit(headers: Any) -> float:
        body = json.dumps(RUN).encode()
        keys = (secrets.token_hex(12) for _ in range(each * CLIENTS))
        asked = [request("POST", runs, body, idempotency_key=key, **headers) for key in keys]
        lanes = [asked[first::CLIENTS] for first in range(CLIENTS)]
        return run_load(port(server), lanes).expect(201).rate

    def compare(work: str, who: str) -> Figure:
        measure = {READ: read, LIST: listed, SUBMIT: submit}[work]
        ours, bare = in_turns(bench.repetitions, partial(measure, token), partial(measure, {}))
        unit, target = TARGETS[work]
        return figure("users", f"{work} {who}", unit, ours, bare, target)

    figures = [compare(work, "as a user") for work in TARGETS]
    if not bench.quick:
        call(server, "POST", "/v1/projects", {"name": f"bench-{secrets.token_hex(6)}"})
        figures += [compare(work, "outside of one project") for work in (READ, LIST)]
    return figures
