"""Problems of a run that goes on: it is stalled, or the service fails to handle it.

Its `status_reason` says so while the problem lasts; then the previous sentence is restored.
"""

from app.domain.lifecycle import Reason
from app.errors import Busy, Unavailable
from app.launchers.base import LauncherError
from app.services import endings
from app.services.live_runs import LiveRun
from app.supervisor.start import describe_failure
from app.supervisor.state import SupervisorState


def get(state: SupervisorState, run: LiveRun) -> Reason | None:
    """Return what is on record as wrong with a run that goes on."""
    if run.termination_reason is None and run.status_reason in endings.NOTICES:
        return Reason(run.status_reason)
    return state.attempt(run).notice


async def record(
    state: SupervisorState, run: LiveRun, reason: Reason | None, detail: str = ""
) -> None:
    """Record what is wrong with a run that goes on, once; None: nothing is any more."""
    attempt, before = state.attempt(run), get(state, run)
    if before == reason:
        return
    if before is None:
        attempt.hidden_detail = run.status_detail
    shown = detail if reason else attempt.hidden_detail
    await state.db.write(endings.set_notice, run, reason, shown, before)
    attempt.notice = reason


async def record_error(state: SupervisorState, run: LiveRun, error: Exception) -> None:
    """Record that the service fails at a run; the database's own trouble is on no run."""
    if isinstance(error, Busy | Unavailable) and not isinstance(error, LauncherError):
        return
    if isinstance(error, OSError):
        detail = f"The files of this run cannot be used, which is tried again: {error.strerror}."
    else:
        detail = describe_failure(error)
    await record(state, run, Reason.SERVICE_ERROR, detail)
