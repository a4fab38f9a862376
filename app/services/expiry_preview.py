"""A preview of a retention rule: the logs and points of a project that it would remove.

preview(db, …)   runs, bytes and the oldest of each part

The runs are found by the statements by which the supervisor decides (`app.services.expiry`), in one
snapshot. Its decisions follow one another: the points of a run stay while those of a run that was
resumed from it do, so runs that one decision sets free are read again until there are no more.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import Executable, func, select

from app.db import thinning
from app.db.database import Database
from app.db.json_lists import one_of
from app.db.objects import replace
from app.db.sql import Tx, columns, dump, query
from app.db.tables import MetricChunk, MetricSeries
from app.domain.permissions import Permission
from app.domain.team import RetentionChange
from app.services import expiry, projects, train_log
from app.services.expiry import EndedRun, Part, Position, Rule, Rules
from app.storage.readers import Readers

MOST = 10_000
"""The most runs that a preview reads."""
_PAGE = 500

_series, _chunk = columns(MetricSeries), columns(MetricChunk)


class Removable(NamedTuple):
    """The logs, points or curves of a project that a rule would remove now."""

    part: Part
    days: float | None
    runs: int
    size_bytes: int
    oldest_end: str | None
    """The earliest end of these runs."""
    more: bool
    """There are more runs than were read."""


@query(tuple[int | None])
def _size(*, runs: str, least: int) -> Executable:
    return (
        select(func.sum(func.length(_chunk.data)))
        .join_from(MetricSeries.__table__, MetricChunk.__table__, _chunk.series_id == _series.id)  # type: ignore[attr-defined]
        .where(one_of(_series.run_id, runs), _chunk.count > least)
    )


class Found(NamedTuple):
    """The runs of which something would go, by part: when each has ended, by its id."""

    ends: dict[Part, dict[str, str]]
    more: bool


async def preview(
    db: Database,
    readers: Readers,
    data_dir: Path,
    project_id: str,
    change: RetentionChange,
    default: Rule,
) -> list[Removable]:
    """Return what a change of a project's rule would remove now. Changes nothing.

    A log's bytes are those of `train.log` on the disk, a curve's those of its packed points.

    Args:
        default: the service's own rule, for what the project has no days of.

    Raises:
        NotPermitted: it is for the project's maintainers.
        NotFound: there is no such project.
    """
    rule, found, sizes = await db.scan(_find_sizes, project_id, change, default)
    logs = [data_dir / "runs" / run_id for run_id in found.ends[Part.LOG]]
    sizes[Part.LOG] = await readers.run(lambda: sum(map(train_log.measure, logs)))
    return [
        Removable(
            part, days, len(ends), sizes[part], min(ends.values(), default=None), found.more
        )
        for part, days in zip(Part, rule, strict=True)
        for ends in (found.ends[part],)
    ]  # fmt: skip


def _find_sizes(
    tx: Tx, project_id: str, change: RetentionChange, default: Rule
) -> tuple[Rule, Found, dict[Part, int]]:
    project = projects.get(tx, project_id)
    tx.require_project(Permission.MAINTAIN, project_id)
    changes = {name: getattr(change, name) for name in change.model_fields_set}
    changed = replace(project, **changes)
    own = Rule(changed.logs_days, changed.points_days, changed.curves_days)
    rule = own.or_else(default)
    found = find(tx, Rules({project_id: rule}))
    least = {Part.POINTS: thinning.KEPT, Part.CURVES: 0}
    sizes = {part: _measure(tx, list(found.ends[part]), most) for part, most in least.items()}
    return rule, found, sizes


def _measure(tx: Tx, run_ids: Sequence[str], least: int) -> int:
    """Return the bytes of the chunks of runs that have more than so many points."""
    pages = (run_ids[start : start + _PAGE] for start in range(0, len(run_ids), _PAGE))
    rows = (tx.first(_size, runs=dump(page), least=least) for page in pages)
    return sum(int((row and row[0]) or 0) for row in rows)


def find(tx: Tx, rules: Rules) -> Found:
    """Return the runs of which the rules would remove something, in however many passes."""
    ends: dict[Part, dict[str, str]] = {part: {} for part in Part}
    gone: dict[str, dict[str, Part]] = {}  # what goes of a run's children, by the run's id

    def take(run: EndedRun, part: Part) -> bool:
        """Take part of a run for gone; return True if that may set its parent's points free."""
        if part is Part.CURVES:
            ends[Part.POINTS].pop(run.id, None)
        ends[part][run.id] = run.finished_at
        if part is Part.LOG or run.parent_run_id is None:
            return False
        siblings = gone.setdefault(run.parent_run_id, {})
        is_news, siblings[run.id] = siblings.get(run.id) != part, part
        return is_news

    more = False
    for number, run in enumerate(_list_due(tx, rules)):
        more = number == MOST
        if more:
            break
        for part in rules.list_due(tx.now, run):
            take(run, part)
    freed = list(gone)
    while freed:
        children = gone[freed[-1]]
        removed = [id for id, part in children.items() if part is Part.CURVES]
        parent = expiry.find_ended(tx, freed.pop(), list(children), removed)
        if parent is None:
            continue  # it is kept
        for part in rules.list_due(tx.now, parent):
            if part is not Part.LOG and take(parent, part) and parent.parent_run_id is not None:
                freed.append(parent.parent_run_id)
    return Found(ends, more)


def _list_due(tx: Tx, rules: Rules) -> Iterator[EndedRun]:
    position = Position()
    while page := expiry.list_due(tx, rules, position, _PAGE):
        yield from page
        position = Position(page[-1].finished_at, page[-1].id)
