"""Learning rates of a resumed training: the schedule goes on, from another rate."""

from typing import Any


def rescale(optimizer: Any, scheduler: Any, rate: float) -> None:
    """Let a PyTorch schedule that was loaded from a checkpoint go on from another learning rate.

    A checkpoint holds the rates that it was saved with, and they silently win. Every rate is
    multiplied by `rate` through the first group's base rate, so groups keep their ratios. Does
    nothing where that rate is not known or is `rate` already.

    Args:
        optimizer: a torch optimizer, or None.
        scheduler: its schedule, or None for a constant rate.
        rate: the new base learning rate of the first parameter group.

    Example:
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        rescale(optimizer, scheduler, hyperparams["learning_rate"])
    """
    groups = getattr(optimizer, "param_groups", None) or []
    bases = getattr(scheduler, "base_lrs", None)
    if bases is None:
        bases = [group.get("initial_lr", group["lr"]) for group in groups]
    if not bases or not bases[0] or bases[0] == rate:
        return
    factor = rate / bases[0]
    for group in groups:
        for name in ("lr", "initial_lr"):
            if name in group:
                group[name] = group[name] * factor
    _rescale_schedule(scheduler, factor)


def _rescale_schedule(scheduler: Any, factor: float) -> None:
    """Scale a schedule's own copies of the rates, and those of the schedules that it is made of."""
    for name in ("base_lrs", "_last_lr"):
        if values := getattr(scheduler, name, None):
            setattr(scheduler, name, [value * factor for value in values])
    for inner in getattr(scheduler, "_schedulers", ()):
        _rescale_schedule(inner, factor)
