"""Retention of logs and points: days after a run's end its log goes, and its points are thinned
or go as well. The latest value of each metric stays.

list_due(tx, …)       runs whose log or points are past their time
expire(tx, …)         one transaction: the columns that record it, the event, the work to do
list_pending, finish  the supervisor's part: it does that work

A rule can be previewed before it is set: `app.services.expiry_preview`.

An `Expiration` is written in the transaction that decides, so that after a crash at any time either
nothing has happened, or the remaining work is found and done.

Kept at any age: a run with a released checkpoint, and one with the tag `keep`. The points of a run
stay (whole) as long as those of a run that was resumed from it, whose curves begin with them.
"""

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from sqlalchemy import Executable, and_, delete, exists, insert, or_, select, tuple_

from app.db.json_lists import one_of
from app.db.sql import Tx, columns, dump, query, select_all, statement
from app.db.tables import (
    Checkpoint,
    Experiment,
    Expiration,
    MetricSeries,
    Project,
    Run,
    RunTag,
)
from app.domain.failpoints import failpoint
from app.domain.gate import RELEASE
from app.domain.ids import timestamp_after
from app.services import events, runs

KEEP = "keep"
"""The tag of a run that retention leaves alone."""
DAY_SECONDS = 24 * 3600

_run, _experiment, _project = columns(Run), columns(Experiment), columns(Project)
_checkpoint, _tag, _series = columns(Checkpoint), columns(RunTag), columns(MetricSeries)
_expiration = columns(Expiration)
_child = columns(Run, "child")


class Part(StrEnum):
    """The data of a run that has expired."""

    LOG = "log"
    # All points but those that draw the same curve; and those as well.
    POINTS = "points"
    CURVES = "curves"


EVENTS = {
    Part.LOG: "run.log_removed",
    Part.POINTS: "run.points_thinned",
    Part.CURVES: "run.points_removed",
}


class Rule(NamedTuple):
    """Days after a run's end for which its log, all of its points and its curves are kept.

    None: for ever.
    """

    log: float | None
    points: float | None
    curves: float | None

    def or_else(self, default: "Rule") -> "Rule":
        """Return this rule, with the default's days where it has none."""
        days = zip(self, default, strict=True)
        return Rule(*(other if own is None else own for own, other in days))


KEEP_ALL = Rule(None, None, None)


class Rules(NamedTuple):
    """The rule of each project."""

    by_project: Mapping[str, Rule]

    def compute_cutoff(self, now: str, part: Part) -> str:
        """Return the time before which a run must have ended for any rule to concern it."""
        days = [
            days for rule in self.by_project.values() if (days := getattr(rule, part)) is not None
        ]
        return _compute_cutoff(now, min(days)) if days else ""

    def list_projects(self) -> list[str]:
        """Return the projects that do not keep all."""
        return [id for id, rule in self.by_project.items() if rule != KEEP_ALL]

    def list_due(self, now: str, run: "EndedRun") -> Iterator[Part]:
        """Yield what is past its time of a run."""
        rule = self.by_project.get(run.project_id)
        if rule is None:
            return  # a project that has been made since
        due = {
            part
            for part, days in zip(Part, rule, strict=True)
            if days is not None and run.finished_at < _compute_cutoff(now, days)
        }
        if Part.LOG in due and run.has_log:
            yield Part.LOG
        if Part.CURVES in due and run.has_curves:
            yield Part.CURVES
        elif Part.POINTS in due and run.has_points:
            yield Part.POINTS


def _compute_cutoff(now: str, days: float) -> str:
    return timestamp_after(now, -days * DAY_SECONDS)


class EndedRun(NamedTuple):
    """A run that has ended, and what of it could go."""

    id: str
    parent_run_id: str | None
    finished_at: str
    project_id: str
    has_log: bool
    has_points: bool
    has_curves: bool


class Position(NamedTuple):
    """The position in the scan of the runs, in the order of their ends."""

    finished_at: str = ""
    id: str = ""


@query(tuple[str, float | None, float | None, float | None])
def _rules() -> Executable:
    return select(
        _project.id, _project.logs_days, _project.points_days, _project.curves_days
    )  # fmt: skip


_released = exists().where(
    _checkpoint.run_id == _run.id,
    or_(_checkpoint.release_tag.is_not(None), _checkpoint.tag_type == RELEASE),
)
_kept = exists().where(_tag.run_id == _run.id, _tag.tag == KEEP)
_has_log = and_(_run.log_removed_at.is_(None), _run.recipe.is_not(None), _run.attempt > 0)
# The curves of a resumed run without points of its own are those of its parent.
_has_any = and_(
    _run.points_removed_at.is_(None),
    or_(exists().where(_series.run_id == _run.id), _run.parent_run_id.is_not(None)),
)


def _has_curves(*gone: Any) -> Any:
    """Return the condition that a run has points that may go; `gone`: a run would stay else."""
    stays = _child.points_removed_at.is_(None), *gone
    return and_(_has_any, ~exists().where(_child.parent_run_id == _run.id, *stays))


def _has_points(*gone: Any) -> Any:
    stays = _child.points_thinned_at.is_(None), _child.points_removed_at.is_(None), *gone
    of_child = exists().where(_child.parent_run_id == _run.id, *stays)
    return and_(_has_any, _run.points_thinned_at.is_(None), ~of_child)


def _ended(*where: Any, has_points: Any, has_curves: Any) -> Any:
    rows = select(
        _run.id, _run.parent_run_id, _run.finished_at, _experiment.project_id,
        _has_log.label("has_log"), has_points.label("has_points"), has_curves.label("has_curves"),
    )  # fmt: skip
    of_experiment = _experiment.id == _run.experiment_id
    return (
        rows.select_from(Run)
        .join(Experiment, of_experiment)
        .where(_run.finished_at.is_not(None), ~_released, ~_kept, *where)
    )


@query(EndedRun)
def _due(
    *, logs_before: str, points_before: str, curves_before: str, projects: str,
    at: str, id: str, most: int,
) -> Executable:  # fmt: skip
    has_points, has_curves = _has_points(), _has_curves()
    due: Executable = (
        _ended(
            one_of(_experiment.project_id, projects),
            tuple_(_run.finished_at, _run.id) > tuple_(at, id),
            or_(
                and_(_run.finished_at < logs_before, _has_log),
                and_(_run.finished_at < points_before, has_points),
                and_(_run.finished_at < curves_before, has_curves),
            ),
            has_points=has_points,
            has_curves=has_curves,
        )
        .order_by(_run.finished_at, _run.id)
        .limit(most)
    )
    return due


@query(EndedRun)
def _of_run(*, run: str, thinned: str, removed: str) -> Executable:
    found: Executable = _ended(
        _run.id == run,
        has_points=_has_points(~one_of(_child.id, thinned)),
        has_curves=_has_curves(~one_of(_child.id, removed)),
    )
    return found


@statement
def _insert(*, run_id: str, part: str) -> Executable:
    return insert(Expiration).values(run_id=run_id, part=part)


@query(Expiration)
def _pending(*, run: str, done: str, most: int) -> Executable:
    position = tuple_(_expiration.run_id, _expiration.part)
    following = select_all(Expiration).where(position > tuple_(run, done))
    return following.order_by(_expiration.run_id, _expiration.part).limit(most)


@statement
def _finish(*, run: str, done: str) -> Executable:
    return delete(Expiration).where(_expiration.run_id == run, _expiration.part == done)


def find_rules(tx: Tx, default: Rule) -> Rules:
    """Return the rule of each project: its own, or the service's where it has none."""
    own = ((project_id, Rule(*days)) for project_id, *days in tx.all(_rules))
    return Rules({project_id: rule.or_else(default) for project_id, rule in own})


def list_due(tx: Tx, rules: Rules, after: Position, most: int) -> list[EndedRun]:
    """Return the next runs of which something may be past its time, those that ended first."""
    log, points, curves = (rules.compute_cutoff(tx.now, part) for part in Part)
    if not log and not points and not curves:
        return []
    return tx.all(
        _due, logs_before=log, points_before=points, curves_before=curves,
        projects=dump(rules.list_projects()), at=after.finished_at, id=after.id, most=most,
    )  # fmt: skip


def find_ended(
    tx: Tx, run_id: str, thinned: Sequence[str] = (), removed: Sequence[str] = ()
) -> EndedRun | None:
    """Return what of a run could go; None if it has not ended, or is kept.

    Args:
        thinned: runs that were resumed from it whose points are taken to be thinned or gone.
        removed: those whose points are taken to be gone.
    """
    return tx.first(_of_run, run=run_id, thinned=dump(thinned), removed=dump(removed))


def expire(tx: Tx, run_id: str, rules: Rules) -> list[Part]:
    """Decide that what is past its time of a run goes, with an event each; return what that is."""
    run = runs.lock(tx, run_id)
    ended = find_ended(tx, run_id)
    parts = list(rules.list_due(tx.now, ended)) if ended is not None else []
    if not parts:
        return []
    for part in parts:
        run = _tell(tx, run, part)
        tx.send(_insert, run_id=run_id, part=part.value)
        days = getattr(rules.by_project[ended.project_id], part) if ended is not None else None
        events.append(tx, run.experiment_id, EVENTS[part], run_id=run_id, kept_days=days)
    failpoint("expire.decided")
    return parts


def _tell(tx: Tx, run: Run, part: Part) -> Run:
    match part:
        case Part.LOG:
            return runs.change(tx, run, log_removed_at=tx.now)
        case Part.POINTS:
            return runs.change(tx, run, points_thinned_at=tx.now)
        case Part.CURVES:
            return runs.change(tx, run, points_removed_at=tx.now)


def list_pending(tx: Tx, after: Expiration | None, most: int) -> list[Expiration]:
    """Return what was decided and is not yet done, those after one of them."""
    run, part = (after.run_id, after.part) if after is not None else ("", "")
    return tx.all(_pending, run=run, done=part, most=most)


def finish(tx: Tx, expiration: Expiration) -> None:
    """Record that it is done. May be repeated."""
    tx.run(_finish, run=expiration.run_id, done=expiration.part)
