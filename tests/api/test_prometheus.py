"""`/metrics` tells Prometheus what is true of the server and of the runs under way."""

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from app import supervisor
from app.supervisor.state import SupervisorState
from tests.api.conftest import Api, running, serving
from tests.api.problem import problem
from tests.support.server import wait_until


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Api]:
    with running(tmp_path) as api:
        yield api


def read(api: Api) -> dict[tuple[str, ...], float]:
    """Return every sample by its name and the values of its labels."""
    answer = api.send("GET", "/metrics")
    assert answer.headers["content-type"].startswith("text/plain"), answer.text
    return {  # labels in the order of their names
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_runs_are_counted_by_status_and_reason_while_they_live(api: Api) -> None:
    experiment = api.post("/v1/experiments", {"name": "a", "task_type": "t"})["experiment_id"]
    runs = [
        api.post(f"/v1/experiments/{experiment}/runs", {"model": "m"})["run_id"] for _ in range(3)
    ]
    assert read(api)["llm_train_runs", "waiting_for_trainer", "queued"] == 3
    api.post(f"/v1/experiments/{experiment}/runs/{runs[0]}/cancel", {})
    assert read(api)["llm_train_runs", "waiting_for_trainer", "queued"] == 2
    assert not any(name[0] == "llm_train_runs" and "cancelled" in name for name in read(api))


def test_requests_are_counted_by_operation_and_status_and_never_by_path(api: Api) -> None:
    count = "llm_train_http_request_seconds_count"
    for number in range(5):
        api.send("GET", f"/v1/experiments/exp_{number}/detail")
    api.post("/v1/experiments", {"name": "a", "task_type": "t"})
    api.send("GET", "/nothing")
    api.send("POST", "/v1/experiments", json={"name": ""})
    api.send("POST", "/graphql", json={"query": "{ __typename }"})
    found = read(api)
    assert found[count, "experiment_detail", "404"] == 5
    assert found[count, "create_experiment", "201"] == 1
    assert found[count, "create_experiment", "422"] == 1
    assert found[count, "none", "404"] == 1
    assert not any("exp_" in text or "nothing" in text for name in found for text in name)
    buckets = [
        value
        for (name, *labels), value in found.items()
        if name == f"{count[:-6]}_bucket" and labels[1:] == ["none", "404"]
    ]
    assert buckets == sorted(buckets) and buckets[-1] == 1
    assert 0 < found[f"{count[:-6]}_sum", "create_experiment", "201"] < 10


def test_runs_and_checkpoints_are_counted_by_what_has_become_of_them(api: Api) -> None:
    experiment = api.post("/v1/experiments", {"name": "a", "task_type": "t"})["experiment_id"]
    path = f"/v1/experiments/{experiment}"
    run = api.post(f"{path}/runs", {"model": "m"})["run_id"]
    mark = {"run_id": run, "ckpt_path": f"/ckpts/{experiment}/{run}/c", "tag_type": "candidate"}
    api.send("POST", f"{path}/checkpoints/mark", json=mark)
    api.post(f"{path}/runs/{run}/cancel", {})
    api.post(f"{path}/runs", {"model": "m"})
    found = read(api)
    assert found["llm_train_runs_all", "cancelled"] == found["llm_train_runs_all", "queued"] == 1
    assert found["llm_train_checkpoints", "declared"] == 1


def test_viewers_are_counted_while_they_look(api: Api) -> None:
    before = read(api)
    assert before["llm_train_websockets",] == 0
    protocol = Subprotocol("graphql-transport-ws")
    with (
        serving(api) as url,
        connect(f"ws{url.removeprefix('http')}/graphql", subprotocols=[protocol]) as socket,
    ):
        socket.send('{"type": "connection_init"}')
        socket.recv(timeout=60)
        query = "subscription { runsChanged { id } }"
        socket.send(json.dumps({"type": "subscribe", "id": "1", "payload": {"query": query}}))
        more = before["llm_train_subscribers",] + 1
        wait_until(lambda: read(api)["llm_train_subscribers",] >= more, "it is watched")
        assert read(api)["llm_train_websockets",] == 1
    wait_until(lambda: read(api)["llm_train_websockets",] == 0, "nobody looks any more")


def test_rounds_messages_and_writes_are_counted(api: Api) -> None:
    hook = api.post("/v1/webhooks", {"url": "http://127.0.0.1:9/"})["webhook_id"]
    api.send("POST", f"/v1/webhooks/{hook}/test")
    name = "llm_train_webhook_attempts_total", "failed"
    wait_until(lambda: read(api).get(name) == 1, "an attempt, to an address that is refused")
    first = read(api)
    assert first["llm_train_webhook_deliveries_pending",] == 1
    assert first["llm_train_database_writes_waiting",] >= 0
    ticks = first["llm_train_ticks_total",]
    wait_until(lambda: read(api)["llm_train_ticks_total",] > ticks, "it comes round")
    assert read(api)["llm_train_tick_seconds_total",] > 0


def test_transactions_are_a_histogram_of_how_long_they_took(api: Api) -> None:
    def counted(kind: str) -> dict[float, float]:
        found = read(api)
        assert found["llm_train_database_seconds_sum", kind] > 0
        buckets = {
            float(labels[1]): value
            for (name, *labels), value in found.items()
            if name == "llm_train_database_seconds_bucket" and labels[0] == kind
        }
        assert [*buckets.values()] == sorted(buckets.values()), "each has those before it"
        assert buckets[math.inf] == found["llm_train_database_seconds_count", kind]
        return buckets

    api.post("/v1/experiments", {"name": "a", "task_type": "t"})
    before = {kind: counted(kind)[math.inf] for kind in ("write", "scan")}
    for _ in range(3):
        experiment = api.post("/v1/experiments", {"name": "a", "task_type": "t"})
        api.send("GET", f"/v1/experiments/{experiment['experiment_id']}/detail")
    assert counted("write")[math.inf] >= before["write"] + 3
    assert counted("scan")[math.inf] > before["scan"], "each answer has one of its own"
    assert counted("read")[math.inf] >= 3


def test_a_step_that_fails_is_counted_by_its_name(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(state: SupervisorState) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(supervisor, "STEPS", (*supervisor.STEPS, broken))
    name = "llm_train_failed_steps_total", "broken"
    wait_until(lambda: read(api).get(name, 0) >= 1, "it failed")


def test_what_clients_name_makes_no_series(api: Api) -> None:
    def work(number: int) -> None:
        made = api.post("/v1/experiments", {"name": f"amber-{number}", "task_type": "t"})
        path = f"/v1/experiments/{made['experiment_id']}"
        api.post(f"{path}/runs", {"model": f"amber-{number}", "tags": [f"amber-{number}"]})
        api.send("GET", f"/amber-{number}")
        api.send("GET", f"{path}/detail?amber={number}")
        api.send(f"AMBER{number}", "/v1/runs")

    work(0)
    read(api)
    before = {name for name in read(api) if name[0].startswith("llm_train")}
    for number in range(1, 20):
        work(number)
    after = {name for name in read(api) if name[0].startswith("llm_train")}
    assert after == before
    assert not any("amber" in text.lower() for name in after for text in name)


def test_health_disk_and_the_process_are_told(api: Api) -> None:
    wait_until(lambda: read(api)["llm_train_leader",] == 1, "it leads")
    found = read(api)
    assert found["llm_train_ready",] == 1
    assert 0 <= found["llm_train_tick_age_seconds",] < 10
    assert found["llm_train_data_dir_free_bytes",] > 0
    assert found["process_resident_memory_bytes",] > 10**7
    assert found["process_start_time_seconds",] < time.time()


def test_a_token_is_needed_where_one_is_configured(tmp_path: Path) -> None:
    with running(tmp_path / "guarded", api_token="t" * 16) as api:
        problem(api.send("GET", "/metrics"), "unauthorized")
        answer = api.send("GET", "/metrics", headers={"Authorization": "Bearer " + "t" * 16})
        assert answer.status_code == 200
