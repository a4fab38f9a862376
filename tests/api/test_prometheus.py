"""`/metrics` tells Prometheus what is true of the server and of the runs under way."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.api.conftest import Api, running
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
