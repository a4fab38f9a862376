"""Metrics of the machine: true, cheap, at the current step, and never in the way of a report."""

import ctypes
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any

import pytest
from llm_train import system
from llm_train.system import Sampler, find_root, list_tree

from tests.support.reports import ReportServer, attach
from tests.support.server import wait_until

BUSY = "import os; block = bytearray(os.urandom(1)) * (200 << 20); print(flush=True)\nwhile 1: pass"


@contextmanager
def child(script: str, **env: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that has printed a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env={**os.environ, **env}
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        with process.stdout:
            yield process
    finally:
        process.kill()
        process.wait()


def test_the_whole_tree_counts() -> None:
    with child(BUSY) as busy:
        sampler = Sampler(os.getpid(), gpus=[])
        assert busy.pid in list_tree(os.getpid())
        first = sampler.read()
        assert not any("percent" in key and "memory" not in key for key in first), "rates need two"
        time.sleep(0.5)
        values = sampler.read()
        alone = Sampler(busy.pid, gpus=[]).read()
    assert values["system/cpu_percent"] > 5, values  # of a machine that others use, too
    assert values["system/memory_mb"] > alone["system/memory_mb"] > 200
    assert 0 < values["system/host_memory_percent"] < 100
    assert 0 < values["system/host_cpu_percent"] <= 100
    assert values["system/network_sent_mb_s"] >= 0 and values["system/disk_write_mb_s"] >= 0


def test_a_sample_is_cheap() -> None:
    sampler = Sampler(os.getpid(), gpus=[])
    sampler.read()
    costs = []
    for _ in range(10):
        began = time.thread_time()
        sampler.read()
        costs.append(time.thread_time() - began)
    assert median(costs) < system.SECONDS * system.MOST_OF_A_CORE / 20, costs  # 2.5 ms


def test_they_take_half_a_percent_of_a_core_however_often_they_are_asked_for() -> None:
    """Of all the process takes, from a sample to a later one: the median of five such windows."""
    script = """
import time
from statistics import median
from llm_train.system import MOST_OF_A_CORE, SystemMetrics
at = []
metrics = SystemMetrics(lambda values: at.append((time.process_time(), time.monotonic())), 0.001)
metrics.start()
while len(at) < 32:
    time.sleep(0.5)
windows = [(at[n], at[n + 6]) for n in range(1, 31, 6) if n + 6 < len(at)]
print(median((c - a) / (d - b) for (a, b), (c, d) in windows) / MOST_OF_A_CORE)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=120
    )
    assert 0 < float(done.stdout) < 1.15, "the limit, and a margin for noise"


def test_where_a_sample_is_dear_there_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    def spend(self: Sampler) -> dict[str, float]:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return {}

    monkeypatch.setattr(Sampler, "read", spend)
    taken: list[float] = []
    metrics = system.SystemMetrics(lambda values: taken.append(time.monotonic()), 0.01)
    metrics.start()
    wait_until(lambda: taken, "the first sample")
    time.sleep(0.5)  # 20 ms are 0.5 % of four seconds
    metrics.close()
    assert len(taken) == 1


def test_the_tree_begins_at_the_command_and_not_at_its_agent() -> None:
    """torchrun (here: a shell's place) → a rank; above them an agent with the same nonce."""
    rank = "from llm_train.system import find_root; print(find_root())"
    launcher = (
        "import os, subprocess, sys; print(os.getpid(), flush=True); "
        f"subprocess.run([sys.executable, '-c', {rank!r}])"
    )
    started = f"subprocess.run([sys.executable, '-c', {launcher!r}])"
    agent = f"import subprocess, sys  # agent.main\n{started}"
    env = {**os.environ, "LLM_TRAIN_NONCE": "of-this-run"}
    done = subprocess.run(
        [sys.executable, "-c", agent], env=env, capture_output=True, text=True, check=True
    )
    command, root = done.stdout.split()
    assert command == root
    assert find_root() == os.getpid(), "without a run it is this process"


def test_values_are_at_the_current_step_and_move_no_progress(server: ReportServer) -> None:
    def points() -> list[tuple[int, int | None]]:
        return [
            (at, body.get("step"))
            for body in list(server.taken.values())
            for key, column in body.get("metrics", {}).items()
            if key == "system/memory_mb"
            for at in column["steps"]
        ]

    def is_measured(step: int) -> bool:
        return step in [at for at, _ in points()]

    with attach(server, system_seconds=0.02) as training:
        time.sleep(0.1)
        assert not any("metrics" in body for body in server.taken.values()), "no step yet"
        for step in (3, 4):
            training.log(step, {"loss": 1.0}, total_steps=10)
            wait_until(partial(is_measured, step), f"step {step} is measured")
    assert [at for at, _ in points()] == [3, 4], "one for each step"
    assert all(step in (None, 3, 4) for _, step in points())


@pytest.mark.parametrize(
    ("rank", "local", "reports"), [("8", "0", True), ("9", "1", False), ("x", "0", False)]
)
def test_the_first_process_of_another_machine_reports_that_one(
    server: ReportServer, monkeypatch: pytest.MonkeyPatch, rank: str, local: str, reports: bool
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", local)
    monkeypatch.setattr(socket, "gethostname", lambda: "node/b")
    server.judge = lambda body: (200, {})  # such a report has no batch
    with attach(server, system_seconds=0.02) as training:
        training.log(1, {"loss": 1.0})
        if reports:
            wait_until(lambda: len(server.requests) > 2, "it reports")
        else:
            time.sleep(0.2)
    wait_until(lambda: not sampling(), "its thread and its connection are gone")
    bodies = [body for _, _, body in server.requests]
    assert bool(bodies) is reports
    for body in bodies:
        assert body.keys() == {"rank", "attempt", "metrics"} and body["rank"] == 8
        column = body["metrics"]["system/rank8@node_b/memory_mb"]
        assert column["steps"] == [0] and column["values"][0] > 1
        assert all(key.startswith("system/rank8@node_b/") for key in body["metrics"])


def test_a_machine_that_the_service_refuses_reports_no_more(
    server: ReportServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "8")
    monkeypatch.setenv("LOCAL_RANK", "0")
    server.judge = lambda body: (409, {"code": "run_finished", "detail": "It is over."})
    with attach(server, system_seconds=0.01):
        wait_until(lambda: server.requests, "it reports")
        wait_until(lambda: not sampling(), "it gives up")
    assert len(server.requests) == 1


def sampling() -> bool:
    return any(thread.name == "reporter-system" for thread in threading.enumerate())


def test_zero_seconds_are_no_metrics(server: ReportServer) -> None:
    with attach(server, system_seconds=0) as training:
        training.log(1, {"loss": 1.0})
        time.sleep(0.1)
    keys = {key for body in server.taken.values() for key in body.get("metrics", {})}
    assert keys == {"loss"}


@pytest.mark.parametrize("trouble", ["hangs", "raises"])
def test_a_driver_in_trouble_stops_no_report(
    server: ReportServer, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    def read(self: Sampler) -> dict[str, float]:
        if trouble == "raises":
            raise RuntimeError("the driver is gone")
        time.sleep(3)
        return {}

    monkeypatch.setattr(Sampler, "read", read)
    with attach(server, system_seconds=0.01) as training:
        training.log(1, {"loss": 1.0})
        training.log(2, {"loss": 0.5})
        wait_until(
            lambda: any(body.get("step") == 2 for body in server.taken.values()), "step 2 arrives"
        )


class Nvml:
    """NVML with two GPUs, of which the second cannot tell its power."""

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:
        count._obj.value = 2
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, number: ctypes.c_uint, handle: Any) -> int:
        handle._obj.value = 100 + number.value
        return 0 if number.value < 2 else 6

    def nvmlDeviceGetHandleByUUID(self, name: bytes, handle: Any) -> int:
        handle._obj.value = 101
        return 0 if name == b"GPU-b" else 6

    def nvmlDeviceGetUtilizationRates(self, handle: Any, use: Any) -> int:
        use._obj.gpu = handle.value
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        memory._obj.used, memory._obj.total = 20_000_000_000, 80_000_000_000
        return 0

    def nvmlDeviceGetPowerUsage(self, handle: Any, number: Any) -> int:
        number._obj.value = 350_500
        return 0 if handle.value == 100 else 3

    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int, number: Any) -> int:
        number._obj.value = 61
        return 0


@pytest.mark.parametrize(
    ("visible", "handles"),
    [(None, [100, 101]), ("1", [101]), ("GPU-b,0,9,GPU-x", [101, 100]), ("", [])],
)
def test_the_visible_gpus_are_read(visible: str | None, handles: list[int]) -> None:
    gpus = list(system._open_gpus(Nvml(), visible))
    values = Sampler(os.getpid(), gpus=gpus).read()
    for number, handle in enumerate(handles):
        assert values[f"system/gpu{number}/utilization_percent"] == handle
        assert values[f"system/gpu{number}/memory_mb"] == 20_000
        assert values[f"system/gpu{number}/memory_percent"] == 25
        assert values[f"system/gpu{number}/temperature_c"] == 61
        assert values.get(f"system/gpu{number}/power_w") == (350.5 if handle == 100 else None)
    assert sum("utilization" in key for key in values) == len(handles)
