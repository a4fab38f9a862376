"""A resumed schedule goes on from another learning rate; groups keep their ratios."""

from types import SimpleNamespace
from typing import Any

from llm_train.rates import rescale


def optimizer(*groups: dict[str, Any]) -> Any:
    return SimpleNamespace(param_groups=list(groups))


def test_every_copy_of_the_rate_is_scaled() -> None:
    inner = SimpleNamespace(base_lrs=[0.1, 0.01], _last_lr=[0.05, 0.005])
    scheduler = SimpleNamespace(base_lrs=[0.1, 0.01], _last_lr=[0.05, 0.005], _schedulers=[inner])
    groups = optimizer({"lr": 0.05, "initial_lr": 0.1}, {"lr": 0.005, "initial_lr": 0.01})
    rescale(groups, scheduler, 0.2)
    assert groups.param_groups == [
        {"lr": 0.1, "initial_lr": 0.2}, {"lr": 0.01, "initial_lr": 0.02},
    ]  # fmt: skip
    for schedule in (scheduler, inner):
        assert (schedule.base_lrs, schedule._last_lr) == ([0.2, 0.02], [0.1, 0.01])


def test_a_constant_rate_needs_no_schedule() -> None:
    groups = optimizer({"lr": 0.05})
    rescale(groups, None, 0.01)
    assert groups.param_groups == [{"lr": 0.01}]


def test_the_same_rate_and_an_unknown_one_change_nothing() -> None:
    for scheduler in (SimpleNamespace(base_lrs=[0.1]), SimpleNamespace(base_lrs=[0.0])):
        groups = optimizer({"lr": 0.03, "initial_lr": 0.1})
        rescale(groups, scheduler, 0.1)
        assert groups.param_groups == [{"lr": 0.03, "initial_lr": 0.1}]
    rescale(None, None, 0.1)
