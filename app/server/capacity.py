"""Capacity for runs: the total of each launcher, and how many runs are with it or wait."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from app.db.database import Database
from app.db.sql import Tx
from app.domain.priority import Priority
from app.domain.recipes import LOCAL
from app.domain.resources import Capacity
from app.launchers.base import Launcher, ShowsCapacity, Unreachable
from app.services import live_runs
from app.services.live_runs import QueueCursor


class LauncherCapacity(NamedTuple):
    """One launcher; None where its engine alone knows, or could not be asked: see `trouble`."""

    name: str
    cpus: float | None
    memory_gb: float | None
    gpus: Mapping[str, int] | None
    max_runs: int | None
    active: int
    queued: int
    """The number of these that wait in the engine's own queue."""
    trouble: str | None


class ServiceCapacity(NamedTuple):
    """All launchers, and the number of runs that wait."""

    launchers: list[LauncherCapacity]
    queued: int


async def read_capacity(db: Database, launchers: Mapping[str, Launcher]) -> ServiceCapacity:
    """Return what these launchers have; each is asked in a thread of its own."""
    under_way = await db.scan(_under_way)
    offers = await asyncio.gather(
        *(asyncio.to_thread(_offer, launcher) for launcher in launchers.values())
    )
    engines = [
        _capacity(name, offer, under_way) for name, offer in zip(launchers, offers, strict=True)
    ]
    return ServiceCapacity(engines, under_way.waiting)


class _UnderWay(NamedTuple):
    """Numbers of runs: `active` at each launcher, `queued` by its engine, waiting for one."""

    active: Counter[str]
    queued: Counter[str]
    waiting: int


def _under_way(tx: Tx) -> _UnderWay:
    queued = Counter(run.launcher or LOCAL for run in live_runs.list_submitted(tx))
    launched = Counter(run.launcher or LOCAL for run in live_runs.list_launched(tx))
    waiting = live_runs.count_waiting(tx, QueueCursor(priority=len(Priority)))
    return _UnderWay(launched + queued, queued, waiting)


class _Offer(NamedTuple):
    """A launcher's total resources (None where only its engine knows), or why it is unreachable."""

    capacity: Capacity | None
    trouble: str | None


def _offer(launcher: Launcher) -> _Offer:
    try:
        if isinstance(launcher, ShowsCapacity):
            return _Offer(launcher.total(), None)
        return _Offer(launcher.offer(), None)
    except Unreachable as error:
        return _Offer(None, str(error) or "It cannot be reached.")


def _capacity(name: str, offer: _Offer, under_way: _UnderWay) -> LauncherCapacity:
    counts = under_way.active[name], under_way.queued[name]
    if (known := offer.capacity) is None:
        return LauncherCapacity(name, None, None, None, None, *counts, offer.trouble)
    gpus = Counter(gpu.type for gpu in known.gpus)
    return LauncherCapacity(name, known.cpus, known.memory_gb, gpus, known.slots, *counts, None)
