"""The account of work: what each attempt took of the machines, and what of it was kept.

    an attempt ends → `record` (in the transaction of its end) → `account` sums rows on request

For an attempt:

* used: from its start to its end, once for each GPU that the run asked for;
* wasted: what it did after its last good checkpoint, all of it if there is none; nothing if the
  run succeeded;
* waited: from the moment when the run could have started (its submission, or the end of the
  attempt before) to its start;
* saved: what the steps before its first one would have taken at its own pace, because it was
  resumed from a checkpoint instead of begun anew.

Times are differences of this service's clock. The attempt of a run that is under way is counted
when it ends.
"""

from enum import StrEnum
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Executable, String, and_, bindparam, func, or_, select
from sqlalchemy import cast as sql_cast

from app.db.sql import Statement, Tx, columns, load, query
from app.db.tables import AttemptUsage, Checkpoint, Deletion, Experiment, Project, Run
from app.domain.ids import seconds_between
from app.domain.lifecycle import CheckpointState, RunStatus
from app.domain.resources import Resources

MAX_GROUPS = 1_000

_usage = columns(AttemptUsage)
_checkpoint, _experiment, _deletion = columns(Checkpoint), columns(Experiment), columns(Deletion)
_run, _project = columns(Run), columns(Project)


@query(tuple[str | None])
def _last_end(*, run: str) -> Executable:
    return select(func.max(_usage.ended_at)).where(_usage.run_id == run)


@query(tuple[str | None])
def _last_saved(*, run: str, attempt: int) -> Executable:
    return select(func.max(_checkpoint.saved_at)).where(
        _checkpoint.run_id == run,
        _checkpoint.attempt == attempt,
        or_(
            _checkpoint.state == CheckpointState.READY.value,
            _checkpoint.state == CheckpointState.DELETED.value,
        ),
    )


class By(StrEnum):
    """The grouping of the account."""

    RUN = "run"
    EXPERIMENT = "experiment"
    PROJECT = "project"
    MONTH = "month"


class Account(NamedTuple):
    """The sums of one group, in seconds; `gpu_…` times the GPUs of each run."""

    group: str
    attempts: int
    used_seconds: float
    wasted_seconds: float
    waited_seconds: float
    saved_seconds: float
    gpu_used_seconds: float
    gpu_wasted_seconds: float
    gpu_waited_seconds: float
    gpu_saved_seconds: float
    name: str | None = None
    """Of the run, experiment or project: empty if it has none, None if it was deleted. None of a
    month."""

    @property
    def gpu_hours_used(self) -> float:
        """Return the GPU-hours of the time that was used."""
        return self.gpu_used_seconds / 3600

    @property
    def gpu_hours_wasted(self) -> float:
        """Return how many of these were wasted."""
        return self.gpu_wasted_seconds / 3600

    @property
    def gpu_hours_waited(self) -> float:
        """Return for how many GPU-hours runs waited: the time, once for each GPU."""
        return self.gpu_waited_seconds / 3600

    @property
    def gpu_hours_saved(self) -> float:
        """Return how many GPU-hours resuming saved."""
        return self.gpu_saved_seconds / 3600

    @property
    def goodput(self) -> float | None:
        """Return the share of the GPU time, or of the time without GPUs, that was not wasted."""
        used, wasted = self.gpu_used_seconds, self.gpu_wasted_seconds
        if not used:
            used, wasted = self.used_seconds, self.wasted_seconds
        return 1 - wasted / used if used else None


def record(tx: Tx, run: Run, outcome: RunStatus) -> None:
    """Record the attempt of a run that ends now. `run`: as it was under way."""
    began_at = run.claimed_at or run.launched_at or run.started_at
    if began_at is None:
        return  # its launch failed
    last = tx.first(_last_end, run=run.id)
    saved = tx.first(_last_saved, run=run.id, attempt=run.attempt)
    used = _count_seconds(began_at, tx.now)
    kept_until = (saved and saved[0]) or began_at
    wasted = (
        0.0 if outcome is RunStatus.SUCCEEDED else min(used, _count_seconds(kept_until, tx.now))
    )
    # Measured, else what is known of a run that ended before it could be.
    seconds, steps = run.pace_seconds, run.pace_steps
    if not steps:
        seconds, steps = used, max(0, run.step - run.start_step)
    gpus = run.gpus_held  # which its recipe may say
    if gpus is None:  # launched by an earlier version, or by somebody else
        gpus = Resources.from_dict(load(run.resources)).count_held(load(run.gpus))
    tx.insert(AttemptUsage(
        run_id=run.id, attempt=run.attempt, experiment_id=run.experiment_id,
        ended_at=tx.now, outcome=outcome.value, gpus=gpus,
        used_seconds=used, wasted_seconds=wasted,
        waited_seconds=_count_seconds((last and last[0]) or run.created_at, began_at),
        saved_seconds=run.start_step * seconds / steps if steps else 0.0,
    ))  # fmt: skip


def _count_seconds(earlier: str, later: str) -> float:
    """Return the seconds between two times; none where the clock was set back."""
    return max(0.0, seconds_between(earlier, later))


# That of what was deleted is in the record of that.
_PROJECT: Any = func.coalesce(_experiment.project_id, _deletion.project_id)


@cache
def _grouped(by: By, *, of_project: bool) -> Statement[tuple[Any, ...]]:
    group = _GROUPS[by]
    sums = [
        func.sum(_usage[name])
        for name in ("used_seconds", "wasted_seconds", "waited_seconds", "saved_seconds")
    ]
    weighted = [
        func.sum(_usage[name] * _usage.gpus)
        for name in ("used_seconds", "wasted_seconds", "waited_seconds", "saved_seconds")
    ]
    source: Any = AttemptUsage.__table__  # type: ignore[attr-defined]
    if of_project or by is By.PROJECT:
        whole = and_(_deletion.experiment_id == _usage.experiment_id, _deletion.run_id.is_(None))
        source = source.outerjoin(Experiment, _experiment.id == _usage.experiment_id)
        source = source.outerjoin(Deletion, whole)
    experiment = sql_cast(bindparam("experiment"), String)
    return _named(
        by,
        select(group.label("grouped"), func.count(), *sums, *weighted)
        .select_from(source)
        .where(
            *([bindparam("project") == _PROJECT] if of_project else ()),
            or_(experiment.is_(None), _usage.experiment_id == experiment),
            _usage.ended_at >= bindparam("since"),
            _usage.ended_at < bindparam("until"),
            group > bindparam("after"),
        )
        .group_by(group)
        .order_by(group)
        .limit(bindparam("most")),
    )


def _named(by: By, grouped: Any) -> Statement[tuple[Any, ...]]:
    """Return the statement of sums with the name of each group: one look-up a row of the page."""
    of = {By.RUN: _run, By.EXPERIMENT: _experiment, By.PROJECT: _project}.get(by)
    if of is None:
        return Statement(grouped)
    sums = grouped.subquery("sums")
    name = select(func.coalesce(of.name, "")).where(of.id == sums.c.grouped)
    return Statement(select(sums, name.scalar_subquery()).order_by(sums.c.grouped))


_GROUPS: dict[By, Any] = {
    By.RUN: _usage.run_id,
    By.EXPERIMENT: _usage.experiment_id,
    By.PROJECT: _PROJECT,
    By.MONTH: func.substr(_usage.ended_at, 1, 7),
}


class Period(NamedTuple):
    """Attempts that ended in a time, of one experiment or project, or of all."""

    since: str = ""
    until: str = "9"
    """Later than every time."""
    experiment_id: str | None = None
    project_id: str | None = None


def account(tx: Tx, by: By, period: Period, after: str, most: int) -> list[Account]:
    """Return the sums of groups, sorted by these, those after one of them."""
    of_project = period.project_id is not None
    project = {"project": period.project_id} if of_project else {}
    rows = tx.all(
        _grouped(by, of_project=of_project), since=period.since, until=period.until,
        experiment=period.experiment_id, after=after, most=most, **project,
    )  # fmt: skip
    return [Account(*row) for row in rows]
