"""Nothing that `log` or `effective` is given ends a training: what is bad is dropped and named."""

import dataclasses
import enum
import json
import math
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llm_train import Reporter, logged, values

from app.domain.requests import MAX_OBJECT_BYTES, check_object
from tests.support.reports import ReportServer, attach
from tests.support.server import wait_until


class Tensor:
    """What PyTorch's tensors do here: they have an item if they have exactly one element."""

    def __init__(self, *elements: float) -> None:
        self._elements = elements

    def item(self) -> float:
        if len(self._elements) != 1:
            raise RuntimeError("a Tensor with 2 elements cannot be converted to Scalar")
        return self._elements[0]

    def __repr__(self) -> str:
        return f"tensor({list(self._elements)})"


class Broken:
    """Whatever a reporter does with it, it raises."""

    def __float__(self) -> float:
        raise ZeroDivisionError

    @property
    def item(self) -> Any:
        raise LookupError

    def __repr__(self) -> str:
        raise MemoryError


NOT_A_NUMBER = [
    *("x", "1.5", b"1", None, [1.5], {}, 1j, Tensor(0.0, 0.0), np.array([1.0, 2.0]), 10**400),
    *(np.array(["x"]), Broken(), object()),
]
BAD_KEYS: list[Any] = ["", "k" * 201, "a\nb", "a\0", "\ud800", 7, None]
BAD_STEPS: list[Any] = [-1, 1.5, math.nan, math.inf, "1", None, 2**63, Broken(), Tensor(1.0, 2.0)]


@pytest.mark.parametrize("value", NOT_A_NUMBER, ids=lambda value: type(value).__name__)
def test_a_metric_that_is_no_number_is_dropped_and_named_once_and_the_rest_arrives(
    server: ReportServer, capfd: pytest.CaptureFixture[str], value: Any
) -> None:
    with attach(server) as training:
        for step in (1, 2):
            training.log(step, {"loss": value, "val/loss": 0.5}, accuracy=0.25, total_steps=9)
    assert sorted(server.points()) == [
        *[("accuracy", 1, 0.25), ("accuracy", 2, 0.25), ("val/loss", 1, 0.5), ("val/loss", 2, 0.5)]
    ]
    assert any(body.get("total_steps") == 9 for body in server.taken.values())
    told = capfd.readouterr().err
    assert told.count("metric 'loss' is dropped: it must be one number, not ") == 1
    assert told.count("\n") == 1


@pytest.mark.parametrize("key", BAD_KEYS)
def test_a_key_that_can_name_no_metric_is_dropped_and_the_rest_arrives(
    server: ReportServer, capfd: pytest.CaptureFixture[str], key: Any
) -> None:
    with attach(server) as training:
        training.log(3, {key: 1.0, "检查/loss": 2.0})
    assert server.points() == [("检查/loss", 3, 2.0)]
    assert "a metric's name must be 1 to 200 printable characters" in capfd.readouterr().err


@pytest.mark.parametrize("step", BAD_STEPS, ids=lambda step: type(step).__name__)
def test_a_step_that_is_none_drops_its_points_and_not_the_training(
    server: ReportServer, capfd: pytest.CaptureFixture[str], step: Any
) -> None:
    with attach(server) as training:
        training.log(step, loss=1.0, total_steps=step)
        training.log(2, loss=2.0, total_steps=10)
    assert server.points() == [("loss", 2, 2.0)]
    told = capfd.readouterr().err
    assert "step must be a whole number from 0, not " in told
    assert ("total_steps must be a whole number" in told) == (step is not None)


@pytest.mark.parametrize(
    "step", [10, 10.0, np.float64(10), np.int32(10), np.array(10), Tensor(10.0), Fraction(10)]
)
def test_a_whole_number_is_a_step_whatever_holds_it(server: ReportServer, step: Any) -> None:
    with attach(server) as training:
        training.log(step, loss=1.0, total_steps=step)
    assert server.points() == [("loss", 10, 1.0)]
    assert any(body.get("total_steps") == 10 for body in server.taken.values())


def test_step_and_total_steps_may_be_names_of_metrics(server: ReportServer) -> None:
    with attach(server) as training:
        training.log(5, **{"step": 3.0})
        training.log(6, {"total_steps": 4.0, "metrics": 1.0})
    assert server.points() == [("step", 5, 3.0), ("total_steps", 6, 4.0), ("metrics", 6, 1.0)]


def test_trainers_that_give_total_steps_by_position_go_on_working(server: ReportServer) -> None:
    with attach(server) as training:
        training.log(5, 100, loss=1.0)  # type: ignore[arg-type]
    assert any(body.get("total_steps") == 100 for body in server.taken.values())


def test_of_more_metrics_than_a_run_may_have_the_known_ones_still_arrive(
    server: ReportServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logged, "MAX_KEYS", 3)
    with attach(server) as training:
        for step in range(5):
            training.log(step, {"loss": 1.0, "accuracy": 1.0, f"example-{step}": 1.0})
    assert [step for key, step, _ in server.points() if key == "loss"] == [0, 1, 2, 3, 4]
    assert {key for key, _, _ in server.points()} == {"loss", "accuracy", "example-0"}
    assert "'example-1' is dropped: a run has at most 3 metrics" in capfd.readouterr().err


def test_a_trainer_that_is_wrong_in_many_ways_is_told_of_so_many_and_no_more(
    server: ReportServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with attach(server) as training:
        for step in range(1000):
            training.log(step, {f"note-{step}": "text", "loss": 1.0})
    told = capfd.readouterr().err.splitlines()
    assert len(told) == logged.MAX_WARNINGS + 1
    assert "no more is said" in told[-1]
    assert len(server.points()) == 1000


@pytest.mark.parametrize(
    "bad",
    [
        lambda training: training.log(1, loss="x"),
        lambda training: training.log(-1, loss=1.0),
        lambda training: training.log(1, {"a\nb": 1.0}),
        lambda training: training.log(1, total_steps="many"),
        lambda training: training.effective(template="x" * 70_000),
    ],
)
def test_a_strict_reporter_raises_and_takes_nothing(server: ReportServer, bad: Any) -> None:
    with attach(server, strict=True) as training, pytest.raises(ValueError, match=r"must|larger"):
        bad(training)
    wait_until(lambda: server.taken, "the first report")
    assert all(body.keys() == {"attempt", "batch"} for body in server.taken.values())


# Hyperparameters.


class Optimizer(enum.Enum):
    ADAM = "adamw"
    LATER = object()


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Lora:
    rank: int = 8
    alpha: Any = dataclasses.field(default_factory=lambda: np.float32(1e-4))


class Dtype:
    def __str__(self) -> str:
        return "torch.bfloat16"


@pytest.mark.parametrize(
    ("value", "reported"),
    [
        (None, None),
        (True, True),
        (np.bool_(False), False),
        (np.float32(1e-4), 1e-4),
        (np.float64(0.1), 0.1),
        (np.int64(1), 1),
        (np.array(7), 7),
        (Tensor(0.5), 0.5),
        (2**80, str(2**80)),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (math.nan, "NaN"),
        (Dtype(), "torch.bfloat16"),
        (Path("x/y"), "x/y"),
        (Optimizer.ADAM, "adamw"),
        (Optimizer.LATER, "LATER"),
        (Level.HIGH, 3),
        ({"b", "a"}, ["a", "b"]),
        ((1, np.float32(0.5)), [1, 0.5]),
        (Lora(), {"rank": 8, "alpha": 1e-4}),
        ({1: {"deep": (None,)}}, {"1": {"deep": [None]}}),
        (json.dumps, "json.dumps"),
        (Lora, f"{__name__}.Lora"),
        ("a\0b\ud800", "a\ufffdb\ufffd"),
        (b"raw", "b'raw'"),
        (1j, "1j"),
    ],
)
def test_a_hyperparameter_is_reported_as_a_number_or_as_readable_text(
    server: ReportServer, value: Any, reported: Any
) -> None:
    with attach(server) as training:
        training.effective(seed=1, value=value)
    (told,) = (b["effective_hyperparams"] for b in server.taken.values() if len(b) > 2)
    assert told == {"seed": 1, "value": reported}
    assert check_object(told), "the service takes it"


def loops() -> Iterator[Any]:
    itself: list[Any] = []
    itself.append(itself)
    yield itself
    many: list[Any] = []
    many += [many] * 10
    yield many
    deep: Any = 1
    for _ in range(100):
        deep = {"a": deep}
    yield deep
    yield Broken()


@pytest.mark.parametrize("value", list(loops()), ids=lambda value: type(value).__name__)
def test_no_hyperparameter_is_too_strange(server: ReportServer, value: Any) -> None:
    with attach(server) as training:
        training.effective(lr=0.5, value=value)
    told: dict[str, Any] = {}
    for body in server.taken.values():
        told |= body.get("effective_hyperparams", {})
    assert told["lr"] == 0.5
    check_object(told)


def test_what_is_too_large_is_dropped_and_the_rest_arrives(
    server: ReportServer, capfd: pytest.CaptureFixture[str]
) -> None:
    with attach(server) as training:
        training.effective(lr=0.5, chat_template="x" * 70_000, seed=3)
        training.effective(chat_template="y" * 70_000)
    (told,) = (b["effective_hyperparams"] for b in server.taken.values() if len(b) > 2)
    assert told == {"lr": 0.5, "seed": 3}
    assert capfd.readouterr().err.count("hyperparameter 'chat_template' is dropped") == 1


def test_each_report_holds_what_is_new_so_that_no_value_spoils_later_ones(
    server: ReportServer,
) -> None:
    with attach(server) as training:
        training.effective(lr=0.5)
        training.effective({"lr": 0.25, "betas": [0.9, 0.95]})
        training._sender.deliver(5)  # type: ignore[union-attr]
        training.effective(seed=1)
    told = [b["effective_hyperparams"] for b in server.taken.values() if len(b) > 2]
    assert told == [{"lr": 0.25, "betas": [0.9, 0.95]}, {"seed": 1}]


def test_the_caps_of_trainer_and_service_are_the_same_to_the_byte() -> None:
    fits: dict[str, Any] = {"ids": list(range(10_000)), "note": 'é\n"\\', "rate": 1e-05}
    fits["rest"] = "x" * (MAX_OBJECT_BYTES - len('"rest":"",') - values.json_size(fits))
    assert values.json_size(fits) == MAX_OBJECT_BYTES == logged.MAX_EFFECTIVE_BYTES
    assert check_object(fits)
    with pytest.raises(ValueError, match="larger than 65536 bytes"):
        check_object({**fits, "rest": fits["rest"] + "x" * 9})


def test_a_list_of_small_numbers_is_as_large_as_it_is() -> None:
    """6,412 bytes of token ids were once refused as larger than 65,536."""
    assert check_object({"ids": [1] * 3200})


def test_without_a_service_bad_values_are_no_trouble_either() -> None:
    training = Reporter()
    training.log(-1, {"loss": "x"})
    training.effective(broken=Broken())
