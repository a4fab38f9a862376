"""Timing of retries of a failed run.

`run.next_attempt_at` is shown to people and survives a restart. The pause itself is measured on
the monotonic clock from when this supervisor first saw it: setting the clock moves no attempt.
"""

from app.db.tables import Run
from app.domain.ids import seconds_between, timestamp
from app.domain.recipes import Recipe
from app.services.live_runs import QueuedRun
from app.supervisor.state import SupervisorState


def seconds_left(state: SupervisorState, run: Run | QueuedRun, recipe: Recipe) -> float:
    """Return the seconds until a queued run may start; 0 or less where it may now."""
    if run.next_attempt_at is None:
        return 0.0
    attempt = state.attempt(run)
    if attempt.retry_at is None:
        left = seconds_between(timestamp(), run.next_attempt_at)
        attempt.retry_at = state.clock() + min(max(left, 0.0), recipe.pause_after(run.attempt))
    return attempt.retry_at - state.clock()
