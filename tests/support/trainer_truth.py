"""The truth table: each way to end, for each trainer that people use, gets its true outcome.

The tests of tests/trainers/test_truth.py, and of the clusters' (tests/clusters/test_…_trainers.py):
each module has a fixture `service`, whose trainers run where that module says.
"""

import math
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.memory_limit import limited_group, move
from tests.support.real_trainers import TRAINERS
from tests.support.server import alive, wait_until
from tests.support.service import Service

SECONDS = 300.0
SINGLE = ("hf", "hf-jit", "trl", "lightning", "loop")
RANKS = ("hf-ddp", "lightning-ddp", "loop-ddp", "fsdp-ddp")
MLFLOW = "mlflow"
"""Reports to MLflow alone: the service knows its metrics, and of its end what the agent saw."""
LONG: dict[str, Any] = {"max_steps": 100_000, "save_steps": 100_000, "learning_rate": 0.001}


def started(service: Service, trainer: str, **hyperparams: Any) -> str:
    """A run that has made a few steps."""
    if trainer.startswith(MLFLOW):
        hyperparams.setdefault("deed", "none")
    run = service.submit(trainer, **(LONG | hyperparams))
    service.stepping(run, 3, SECONDS)
    return run


def saved(service: Service, run: str) -> Any:
    """The newest ready checkpoint, which is at the run's own step."""
    status = service.status(run)
    name = status["ckpt_path"].rsplit("/", 1)[1]
    checkpoint = service.checkpoints(run)[name]
    assert checkpoint["state"] == "ready", checkpoint
    assert checkpoint["step"] == status["step"]
    return checkpoint


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_cancel_leaves_the_promised_checkpoint_of_the_step_it_stopped_at(
    service: Service, trainer: str
) -> None:
    run = started(service, trainer)
    promised = service.cancel(run, 202)["ckpt_path"]
    ended = service.ended(run, SECONDS)
    assert ended["status"] == "cancelled"
    assert saved(service, run)["ckpt_path"] == promised


@pytest.mark.parametrize(
    ("trainer", "number"),
    [(name, number) for number in (signal.SIGTERM, signal.SIGINT) for name in TRAINERS],
)
def test_a_stop_signal_from_outside_is_no_success_and_leaves_a_checkpoint(
    service: Service, trainer: str, number: signal.Signals
) -> None:
    run = started(service, trainer)
    service.trainer(run).send_signal(number)
    ended = service.ended(run, SECONDS)
    expected = "signal" if "ddp" in trainer else "unfinished"  # torchrun exits with code 1
    assert (ended["status"], ended["status_reason"]) == ("failed", expected), ended
    saved(service, run)


def test_a_preempted_trainer_that_saved_and_left_is_tried_again_from_there(
    service: Service,
) -> None:
    run = started(service, "hf-again")
    service.trainer(run).send_signal(signal.SIGTERM)
    wait_until(
        lambda: service.status(run)["attempt"] == 2, lambda: str(service.status(run)), SECONDS
    )
    (saved,) = service.checkpoints(run).values()
    assert saved["state"] == "ready"
    service.stepping(run, saved["step"] + 2, SECONDS)
    service.cancel(run, 202)
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["attempt"]) == ("cancelled", 2), ended
    log = (service.data_dir / "runs" / run / "train.log").read_text()
    place = log.rsplit("starts from", 1)[1].split()[0]
    assert Path(place).name in (saved["ckpt_path"].rsplit("/", 1)[1], "resume"), place


@pytest.mark.parametrize(
    ("trainer", "first"),
    [
        *((name, signal.SIGTERM) for name in (*TRAINERS, MLFLOW)),
        # Nothing of the trainer takes part: one alone, one with ranks, one without a Reporter.
        *((name, None) for name in ("loop", "loop-ddp", MLFLOW)),
    ],
)
def test_a_kill_is_told_as_that(
    service: Service, trainer: str, first: signal.Signals | None
) -> None:
    run = started(service, trainer)
    process = service.trainer(run)
    if first is not None:
        process.send_signal(first)
    with suppress(psutil.NoSuchProcess):  # a script of MLflow ends at once
        process.kill()
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["status_reason"]) == ("failed", "signal"), ended


@pytest.mark.parametrize("trainer", SINGLE)
def test_a_trainer_that_stands_still_is_missed_and_ended(service: Service, trainer: str) -> None:
    run = started(service, f"{trainer}-watched")
    service.trainer(run).send_signal(signal.SIGSTOP)
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["status_reason"]) == ("failed", "heartbeat_lost"), ended


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_script_of_mlflow_that_a_signal_ends_is_told_as_that(
    service: Service, number: signal.Signals
) -> None:
    run = started(service, MLFLOW)
    service.trainer(run).send_signal(number)
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["status_reason"]) == ("failed", "signal"), ended
    assert service.checkpoints(run) == {}


def test_a_cancelled_script_of_mlflow_says_what_it_had_not_saved(service: Service) -> None:
    run = started(service, MLFLOW)
    service.cancel(run, 202)
    assert service.ended(run, SECONDS)["status"] == "cancelled"
    checkpoint = service.checkpoints(run)["cancel-1"]
    assert checkpoint["state"] == "lost", "its metrics say that it had taken steps"


def test_a_script_of_mlflow_that_stands_still_stalls(service: Service) -> None:
    run = started(service, f"{MLFLOW}-watched")
    service.trainer(run).send_signal(signal.SIGSTOP)
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["status_reason"]) == ("failed", "stalled"), ended


@pytest.mark.parametrize("trainer", RANKS)
def test_one_rank_that_stands_still_stalls_the_run(service: Service, trainer: str) -> None:
    run = started(service, f"{trainer}-watched")
    rank(service, run, 1).send_signal(signal.SIGSTOP)
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["status_reason"]) == ("failed", "stalled"), ended


@pytest.mark.parametrize("trainer", RANKS)
def test_a_killed_rank_is_told_as_that(service: Service, trainer: str) -> None:
    run = started(service, trainer)
    rank(service, run, 1).kill()
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["status_reason"]) == ("failed", "signal"), ended


@pytest.mark.parametrize(
    "trainer", ["hf", "hf-jit", "trl-deeds", "lightning", "loop", *RANKS, "mlflow-proves"]
)
def test_exit_0_in_the_middle_is_no_success(service: Service, trainer: str) -> None:
    ended = service.ended(service.submit(trainer, **LONG, deed="exit"), SECONDS)
    assert ended["status"] == "failed"
    assert ended["status_reason"] in ("unfinished", "exit_code"), ended


@pytest.mark.parametrize("trainer", [*TRAINERS, MLFLOW])
def test_a_loss_that_is_nan_is_told_as_nan(service: Service, trainer: str) -> None:
    hyperparams = LONG | {"max_steps": 8, "save_steps": 4, "deed": "nan"}
    if trainer == "trl":  # an unmodified script, whose rate is far too high
        hyperparams["learning_rate"] = 1e25
    run = service.submit(trainer, **hyperparams)
    ended = service.ended(run, SECONDS)
    assert (ended["status"], ended["step"]) == ("succeeded", 8), ended
    losses = dict(service.losses(run))
    assert losses[1] is not None and math.isfinite(losses[1])
    assert losses[7] is None or math.isnan(losses[7])
    if trainer in ("hf", "hf-jit", "hf-ddp"):  # from step 5 on
        saved = service.checkpoints(run)
        health = [saved[f"step-00000{step}"]["healthy"] for step in (4, 8)]
        assert health == [True, False], "weights that are NaN are told, too"


@pytest.mark.parametrize(
    "trainer", ["hf", "hf-jit", "trl-deeds", "lightning", "loop", *RANKS, MLFLOW]
)
def test_a_process_that_the_kernel_kills_for_memory_is_out_of_memory(
    service: Service, trainer: str
) -> None:
    with limited_group(256 << 20) as group:
        if group is None:
            return  # without rights to make a control group nothing can be shown here
        run = service.submit(trainer, **LONG, deed="oom")
        run_dir = service.run_dir(run)
        wait_until((run_dir / "deed.pid").exists, "the trainer is at its deed", SECONDS)
        agent = service.agent(run)
        move(group, [agent.pid, *(child.pid for child in agent.children(recursive=True))])
        (run_dir / "go").touch()
        ended = service.ended(run, SECONDS)
        wait_until(lambda: not alive(agent.pid), "the agent is gone")
    assert (ended["status"], ended["status_reason"]) == ("failed", "out_of_memory"), ended


def rank(service: Service, run: str, number: int) -> psutil.Process:
    """The process of one rank below torchrun."""

    def find() -> psutil.Process | None:
        for process in service.trainer(run).children(recursive=True):
            with suppress(psutil.Error):  # one that has ended by now, such as git's
                if process.environ().get("RANK") == str(number):
                    return process
        return None

    found = wait_until(find, f"rank {number}")
    assert found is not None
    return found
