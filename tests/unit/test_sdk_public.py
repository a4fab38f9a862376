"""The SDK's public API: what a trainer may import, and what its docstrings owe the reader."""

import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import llm_train
import pytest
from llm_train import CheckpointError, Reporter, Saving, StopRequest, is_rank_0

CALLABLES = {
    "Reporter": Reporter.__init__,
    **{
        f"Reporter.{name}": member
        for name, member in vars(Reporter).items()
        if not name.startswith("_")
    },
    "Saving.commit": Saving.commit,
    "Saving.abandon": Saving.abandon,
    "StopRequest": StopRequest.__init__,
    "StopRequest.listen": StopRequest.listen,
    "is_rank_0": is_rank_0,
}
WITH_EXAMPLE = [
    "Reporter", "Reporter.from_env", "Reporter.log", "Reporter.effective", "Reporter.checkpoint",
    "Reporter.begin_checkpoint", "Reporter.listen", "Reporter.should_stop", "is_rank_0",
]  # fmt: skip


def test_the_package_exports_what_its_docstring_lists() -> None:
    assert llm_train.__doc__
    listed = {
        line.split()[0]
        for line in llm_train.__doc__.splitlines()
        if line.startswith("    ") and ".py: " in line
    }
    assert listed == set(llm_train.__all__)


@pytest.mark.parametrize("name", CALLABLES)
def test_every_public_call_says_what_it_takes(name: str) -> None:
    call: Any = CALLABLES[name]
    function = getattr(call, "__func__", getattr(call, "fget", call))
    text = inspect.getdoc(function) or ""
    assert text
    parameters = [
        key for key in inspect.signature(function).parameters if key not in ("self", "cls")
    ]
    if parameters:
        described = text.partition("Args:")[2]
        assert [key for key in parameters if key not in described] == []
    assert ("Example" in text) or name not in WITH_EXAMPLE


def test_a_checkpoint_in_two_steps_is_committed_or_abandoned(tmp_path: Path) -> None:
    training = Reporter(checkpoint_dir=tmp_path)
    kept, dropped = training.begin_checkpoint(1), training.begin_checkpoint(2)
    for saving in (kept, dropped):
        assert isinstance(saving, Saving)
        (saving.path / "weights").write_bytes(b"w")
    dropped.abandon()
    assert kept.commit() == tmp_path / "step-000001"
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    with pytest.raises(CheckpointError, match="nothing was written"):
        training.begin_checkpoint(3).commit()


def test_the_stop_request_can_be_read_and_made_by_a_framework(tmp_path: Path) -> None:
    training = Reporter(checkpoint_dir=tmp_path)
    assert not training.should_stop
    training.stop_request.requested = True
    assert training.should_stop
    with training.checkpoint(5) as directory:
        (directory / "weights").write_bytes(b"w")
    assert (tmp_path / training.stop_request.checkpoint).is_dir()


def test_listen_works_without_a_service() -> None:
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    training = Reporter()
    try:
        training.listen()
        assert not training.should_stop
        os.kill(os.getpid(), signal.SIGTERM)
        assert training.should_stop
    finally:
        training.close()
    assert {n: signal.getsignal(n) for n in handlers} == handlers


def test_one_rank_reports_and_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert not is_rank_0()
    training = Reporter()
    assert not training.is_rank_0
    with pytest.raises(RuntimeError, match="rank 0 only"):
        training.begin_checkpoint(1)


def test_a_trainer_does_not_pay_for_the_client() -> None:
    code = "import llm_train, sys; print('llm_train.client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = llm_train.no_such_name
