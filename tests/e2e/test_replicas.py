"""Several servers on one PostgreSQL share the work, and the death of one costs nothing.

Planted once and seen red: a leader's lock that is not tied to its connection, trainers that know
the address of the server that launched them only, a listener that never hears NOTIFY.
"""

import json
import random
import sys
import time
from contextlib import ExitStack
from typing import Any

import psutil
import pytest
from websockets.sync.client import connect

from app.launchers.local.launcher import SILENT_SECONDS
from tests.support.clock import is_soon
from tests.support.database import postgresql_only
from tests.support.places import ELSEWHERE, move
from tests.support.replicas import leader, replica
from tests.support.server import wait_until
from tests.support.service import Service, home
from tests.support.writers import Writers

pytestmark = postgresql_only

TAKEN_OVER_SECONDS = 10.0
"""Generous, as the machine that tests is busy; it is printed."""


def losses(service: Service, run: str) -> dict[int, float]:
    """Return every point of a run's loss, by step; assert that none came twice."""
    found = service.losses(run)
    assert len(dict(found)) == len(found), "a point is there twice"
    return dict(found)


@pytest.mark.heavy
def test_killed_leaders_are_replaced_and_nothing_is_lost_or_launched_twice(
    tmp_path_factory: pytest.TempPathFactory, database_url: str
) -> None:
    steps, taken_over = 120, []
    with home(tmp_path_factory.mktemp("home")) as place, ExitStack() as servers:
        services = [servers.enter_context(replica(place, database_url)) for _ in range(2)]
        runs = [services[i % 2].submit("finishes", steps=steps, step_seconds=0.1) for i in range(3)]
        stopping = services[1].submit("obedient", steps=10**6, step_seconds=0.1)
        for run in [*runs, stopping]:
            services[0].stepping(run)
        writers = Writers([each.url for each in services], seed=random.randrange(10**6))
        with writers:
            for _ in range(2):
                writers.wait_for(10)
                first = leader(database_url)
                killed = next(each for each in services if each.pid == first)
                services.remove(killed)
                killed.kill()
                died = time.monotonic()
                wait_until(
                    lambda: leader(database_url) in [each.pid for each in services],
                    "another leads",
                    TAKEN_OVER_SECONDS,
                )
                taken_over.append(time.monotonic() - died)
                # Trainers of the dead one report to the new leader.
                services[0].stepping(stopping, services[0].status(stopping)["step"] + 5)
                services.append(servers.enter_context(replica(place, database_url)))
                writers.urls[:] = [each.url for each in services]
        cancelled = services[-1].cancel(stopping)
        assert services[0].ended(stopping)["status"] == "cancelled"
        saved = services[0].checkpoints(stopping)[cancelled["ckpt_path"].rpartition("/")[2]]
        assert saved["state"] == "ready"
        for run in runs:
            assert services[0].ended(run)["status"] == "succeeded"
            assert services[0].launches(run) == [1]
            assert losses(services[0], run) == {
                step: pytest.approx(0.99**step) for step in range(1, steps + 1)
            }
        assert services[0].launches(stopping) == [1]
        writers.audit(database_url)
        writers.replay()
    print(f"another led after {max(taken_over):.2f} s at most; {len(writers.done)} acknowledged")


def test_a_leader_in_another_place_takes_over_a_living_trainer_and_its_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, database_url: str
) -> None:
    """Control: a launcher that looks for the pid in its own place makes a second attempt."""
    command = (*ELSEWHERE, sys.executable, "-m", "app.main")
    with home(tmp_path_factory.mktemp("home")) as place:
        with replica(place, database_url) as first:
            run = first.submit("obedient", steps=10**6, step_seconds=0.05)
            first.stepping(run)
            first.kill()
        move(place.path / "data" / "runs" / run / "attempt-1" / "identity.json")
        with replica(place, database_url, command=command) as second:
            try:
                # For longer than one that is gone there stays unnoticed.
                long = int((SILENT_SECONDS + 2) / 0.05)
                second.stepping(run, second.status(run)["step"] + long)
                path = second.cancel(run, 202)["ckpt_path"]
                assert second.ended(run)["status"] == "cancelled"
                saved = second.checkpoints(run)[path.rpartition("/")[2]]
                assert saved["state"] == "ready" and saved["step"] > long
                assert second.launches(run) == [1]
            finally:  # `unshare` hears no SIGTERM
                for process in psutil.Process(second.pid).children():
                    process.terminate()


def test_a_change_on_one_server_reaches_who_watches_on_the_other(
    tmp_path_factory: pytest.TempPathFactory, database_url: str
) -> None:
    with (
        home(tmp_path_factory.mktemp("home")) as place,
        replica(place, database_url) as one,
        replica(place, database_url) as other,
        connect(
            other.url.replace("http", "ws") + "/graphql",
            subprotocols=["graphql-transport-ws"],  # type: ignore[list-item]
        ) as socket,
    ):
        query = (
            "subscription($id: ID!) { experimentEvents(experimentId: $id, afterSeq: 0) { seq } }"
        )
        payload = {"query": query, "variables": {"id": one.experiment}}
        socket.send(json.dumps({"type": "connection_init"}))
        socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": payload}))

        def event() -> Any:
            while True:
                message = json.loads(socket.recv(timeout=60))
                assert message["type"] in ("connection_ack", "next"), message
                if message["type"] == "next":
                    return message["payload"]["data"]["experimentEvents"]["seq"]

        assert event() == 1
        began = time.monotonic()
        for number in range(2, 12):
            one.submit(None)
            assert event() == number
        took = time.monotonic() - began
    assert is_soon(took, 5), "each waits for the next look instead of being told"
    print(f"10 changes seen on the other server within {took:.2f} s")
