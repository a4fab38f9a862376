"""The rows of authentication: the same work for a user with a role as for whoever needs no token.

A member of every project sees all there is; for a user outside of one, each query goes through a
condition on what that user sees. Compared is the CPU time of the service (and of PostgreSQL) for an
answer, in many short turns: a busy machine changes a rate by half, and this by a few hundredths.
"""

import json
import secrets
from typing import Any

from tests.bench.databases import serving
from tests.bench.fixture import RUN, Workbench, call, port
from tests.bench.load import request, run_load, run_turns
from tests.bench.report import Figure, Target, figure
from tests.bench.rows import CLIENTS, list_path, status_paths
from tests.support.server import Server

NO_MORE = Target("at most", 1.05)
TURN_SECONDS = 0.05
SUBMITS = 8
"""So many each client has for a turn; the server answers fewer."""


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
    token = a_member(bench.ours)
    figures = compare(bench, "as a user", token)
    call(bench.ours, "POST", "/v1/projects", {"name": f"bench-{secrets.token_hex(6)}"})
    return figures + compare(bench, "outside of one project", token)


def compare(bench: Workbench, who: str, token: dict[str, str]) -> list[Figure]:
    """What each work costs with a token, and without."""
    server, turns = bench.ours, 15 if bench.quick else 120
    run_load(port(server), reads(bench, token, turns), TURN_SECONDS)  # all connections are open
    watched, figures = serving(server), []
    for work, lanes in {"read one run": reads, "list 100": lists, "submit": submits}.items():
        cells = [lanes(bench, token, turns), lanes(bench, {}, turns)]
        played = run_turns(port(server), cells, TURN_SECONDS, turns + 1, watched)[1:]
        ours, bare = (
            [load.expect(200, 201).cost * 1_000 for load in cell]
            for cell in zip(*played, strict=True)
        )
        figures.append(figure("users", f"{work} {who}", "ms CPU", ours, bare, NO_MORE))
    return figures


def reads(bench: Workbench, headers: Any, turns: int) -> list[list[bytes]]:
    return [[request("GET", path, **headers)] for path in status_paths(bench)]


def lists(bench: Workbench, headers: Any, turns: int) -> list[list[bytes]]:
    return [[request("GET", list_path(bench, "10k"), **headers)]]


def submits(bench: Workbench, headers: Any, turns: int) -> list[list[bytes]]:
    path = f"/v1/experiments/{bench.experiments['work']}/runs"
    body = json.dumps(RUN).encode()
    return [
        [
            request("POST", path, body, idempotency_key=secrets.token_hex(12), **headers)
            for _ in range(SUBMITS * (turns + 1))
        ]
        for _ in range(CLIENTS)
    ]
