"""Whether a failed attempt is followed by another one, and when."""

from typing import NamedTuple

from app.domain.evidence import Outcome
from app.domain.lifecycle import Reason, RunStatus
from app.domain.recipes import Recipe, StallAction


class Retry(NamedTuple):
    """Another attempt, `pause` seconds after the last one; `detail` says so to people."""

    pause: float
    detail: str


def find_retry(recipe: Recipe | None, outcome: Outcome, attempt: int) -> Retry | None:
    """Return the retry that a recipe wants after this end of its attempt, or None.

    A recipe that is no longer configured (None) retries nothing.
    """
    if recipe is None or outcome.status is not RunStatus.FAILED or attempt >= recipe.max_attempts:
        return None
    stalled = outcome.reason is Reason.STALLED and recipe.on_stall is StallAction.RETRY
    if not stalled and outcome.reason not in recipe.retry_on:
        return None
    pause = recipe.pause_after(attempt)
    after = f" after a pause of {pause:g} seconds" if pause else ""
    detail = f"Attempt {attempt} of {recipe.max_attempts}: {outcome.detail} Trying again{after}."
    return Retry(pause, detail)
