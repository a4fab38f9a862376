"""What runs may get: what each launcher has in all, and how many runs are with it or wait."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

from app.db.database import Database
from app.db.sql import Tx
from app.domain import resources
from app.domain.priority import Priority
from app.domain.recipes import LOCAL
from app.launchers.base import Launcher, Unreachable
from app.services import live_runs
from app.services.live_runs import QueueCursor


class LauncherCapacity(NamedTuple):
    """One launcher; None where its engine alone knows, or could not be asked."""

    name: str
    cpus: float | None
    memory_gb: float | None
    gpus: Mapping[str, int] | None
    max_runs: int | None
    active: int


class Capacity(NamedTuple):
    """All launchers, and the number of runs that wait."""

    launchers: list[LauncherCapacity]
    queued: int


async def read_capacity(db: Database, launchers: Mapping[str, Launcher]) -> Capacity:
    """Return what these launchers have; each is asked in a thread of its own."""
    active, queued = await db.scan(_under_way)
    offers = await asyncio.gather(*(asyncio.to_thread(_offer, each) for each in launchers.values()))
    found = [
        _capacity(name, offer, active[name]) for name, offer in zip(launchers, offers, strict=True)
    ]
    return Capacity(found, queued)


def _under_way(tx: Tx) -> tuple[Counter[str], int]:
    given = [*live_runs.list_launched(tx), *live_runs.list_submitted(tx)]
    waiting = live_runs.count_waiting(tx, QueueCursor(priority=len(Priority)))
    return Counter(run.launcher or LOCAL for run in given), waiting


def _offer(launcher: Launcher) -> resources.Capacity | None:
    try:
        return launcher.offer()
    except Unreachable:
        return None


def _capacity(name: str, offer: resources.Capacity | None, active: int) -> LauncherCapacity:
    if offer is None:
        return LauncherCapacity(name, None, None, None, None, active)
    gpus = Counter(gpu.type for gpu in offer.gpus)
    return LauncherCapacity(name, offer.cpus, offer.memory_gb, gpus, offer.places, active)
