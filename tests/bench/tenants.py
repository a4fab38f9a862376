"""The row of authentication: the same work for a user with a role as for whoever needs no token."""

import json
import secrets
from functools import partial
from typing import Any

from tests.bench.fixture import RUN, Workbench, call, port
from tests.bench.load import request, run_load
from tests.bench.report import Figure, Target, figure
from tests.bench.rows import CLIENTS, in_turns, list_path, p50, status_paths
from tests.support.server import Server

DEFAULT_PROJECT = "prj_" + "0" * 26


def a_member(server: Server) -> dict[str, str]:
    """The header of a new user who is a maintainer of the default project."""
    name = f"bench-{secrets.token_hex(6)}"
    call(server, "POST", "/v1/users", {"name": name})
    members = f"/v1/projects/{DEFAULT_PROJECT}/members"
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
        lanes = [
            [
                request("POST", runs, body, idempotency_key=secrets.token_hex(12), **headers)
                for _ in range(each)
            ]
            for _ in range(CLIENTS)
        ]
        return run_load(port(server), lanes).expect(201).rate

    found = []
    for work, measure, unit, target in (
        ("read one run as a user", read, "/s", Target("at least", 0.95)),
        ("list 100 of 10 k runs as a user", listed, "ms p50", Target("at most", 1.05)),
        ("submit runs as a user", submit, "/s", Target("at least", 0.95)),
    ):
        ours, bare = in_turns(bench.repetitions, partial(measure, token), partial(measure, {}))
        found.append(figure("users", work, unit, ours, bare, target))
    return found
