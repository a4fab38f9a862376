"""Retries: if and when a failed attempt is followed by another one."""

from typing import NamedTuple

from app.domain.evidence import Outcome
from app.domain.lifecycle import Reason, RunStatus
from app.domain.recipes import Recipe, StallAction


class Retry(NamedTuple):
    """Another attempt, `pause` seconds after the last one; `detail` says so to people."""

    pause: float
    detail: str
    preemptions: int = 0
    """How often the run has been preempted by then."""


def find_retry(
    recipe: Recipe | None,
    outcome: Outcome,
    attempt: int,
    preemptions: int = 0,
    *,
    is_wanted: bool = False,
) -> Retry | None:
    """Return the retry that a recipe wants after this end of its attempt, or None.

    A recipe that is no longer configured (None) retries nothing. A preemption is nobody's
    failure: it counts for none of the recipe's attempts. `is_wanted`: it was ended in order to be
    tried again.
    """
    if recipe is None or outcome.status is not RunStatus.FAILED:
        return None
    number, was_preempted = attempt - preemptions, outcome.reason is Reason.PREEMPTED
    if number >= recipe.max_attempts and not was_preempted:
        return None
    stalled = outcome.reason is Reason.STALLED and recipe.on_stall is StallAction.RETRY
    wanted = stalled or (is_wanted and outcome.reason is Reason.UNHEALTHY)
    if not wanted and outcome.reason not in recipe.retry_on:
        return None
    pause = recipe.retry_seconds if was_preempted else recipe.pause_after(number)
    of = "was preempted" if was_preempted else f"of {recipe.max_attempts}"
    after = f" after a pause of {pause:g} seconds" if pause else ""
    detail = f"Attempt {number} {of}: {outcome.detail} Trying again{after}."
    return Retry(pause, detail, preemptions + was_preempted)
