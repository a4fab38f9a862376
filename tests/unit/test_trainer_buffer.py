"""The step of a report: how far the training loop is, however its log calls are batched."""

import os
import subprocess
import sys
from typing import Any

import pytest
from llm_train.buffer import Buffer
from llm_train.values import InvalidValue, read_key
from pydantic import TypeAdapter, ValidationError

from app.domain.requests import MetricKey

LOGGED: dict[str, tuple[list[dict[str, Any]], int | None]] = {
    "a step back": ([{"step": 100}, {"step": 99}], 100),
    "another axis, beyond the total": (
        [{"step": 50, "total_steps": 1000}, {"step": 999_999}, {"step": 51}, {"step": 999_999}], 51,
    ),
    "another axis, before the total is known": (
        [{"step": 999_999}, {"step": 1, "total_steps": 1000}], 1,
    ),
    "a shorter stage": (
        [{"step": 400, "total_steps": 400}, {"step": 1, "total_steps": 300}], 1,
    ),
    "a total that is not known": ([{"step": 5, "total_steps": 0}], 5),
    "only another axis": ([{"step": 999_999, "total_steps": 1000}], None),
}  # fmt: skip


@pytest.mark.parametrize("name", [*LOGGED])
def test_a_report_tells_the_highest_step_of_the_training_loop(name: str) -> None:
    logged, step = LOGGED[name]
    buffer = Buffer()
    for progress in logged:
        buffer.add([], **progress)
    assert buffer.take().get("step") == step


def test_the_total_is_remembered_from_report_to_report() -> None:
    buffer = Buffer()
    buffer.add([], step=1, total_steps=10)
    buffer.take()
    buffer.add([], step=11)
    assert "step" not in buffer.take()
    buffer.add([], step=2)
    assert buffer.take() == {"step": 2}


@pytest.mark.parametrize(
    "key",
    ["loss", "val/loss", "损失", "a b", "a\nb", "a\tb", "a\0b", "\u3000", "\u200b", "", "a" * 200,
     "a" * 201, "\ud800"],
    ids=ascii,
)  # fmt: skip
def test_the_reporter_takes_exactly_the_names_that_the_service_takes(key: str) -> None:
    def taken(read: Any) -> bool:
        try:
            return bool(read(key))
        except (InvalidValue, ValidationError):
            return False

    assert taken(read_key) == taken(TypeAdapter(MetricKey).validate_python)


WARNS = """
import threading, time
from llm_train.buffer import warn

def warn_for_ever():
    while True:
        warn("y" * 1000)

threading.Thread(target=warn_for_ever, daemon=True).start()
time.sleep(0.3)
"""


def test_warnings_that_nobody_reads_keep_no_process_from_its_end() -> None:
    """A thread that waited in `sys.stderr` held the lock that Python takes at its end."""
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", WARNS]
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        try:
            assert process.wait(60) == 0
        finally:
            process.kill()
        assert process.stderr is not None
        lines = process.stderr.read().decode().splitlines()
    assert len(lines) > 10 and set(lines) == {"llm-train reporter: " + "y" * 1000}, "whole lines"
