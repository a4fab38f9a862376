"""Quotas of projects: what one may have at a time, and what its runs have of it."""

from dataclasses import dataclass, field
from typing import NamedTuple


class Quota(NamedTuple):
    """The limits of a project's use at any one time; None: no limit."""

    max_runs: int | None = None
    max_gpus: int | None = None
    max_bytes: int | None = None


@dataclass
class ProjectUse:
    """A project's current use of its quota."""

    quota: Quota = field(default_factory=Quota)
    runs: int = 0
    gpus: int = 0
    bytes: int = 0
    waits_for_gpus: bool = False
    """An older run of it waits for GPUs of the quota, which younger ones must not take."""

    def add(self, gpus: int) -> None:
        """Count one more run, which holds so many GPUs."""
        self.runs += 1
        self.gpus += gpus

    def find_excess(self, gpus: int) -> str | None:
        """Return why the quota has no room for one more run; None if it has."""
        runs, most, room = self.quota
        if runs is not None and self.runs >= runs:
            return f"Its project may have {runs} at a time."
        if room is not None and self.bytes >= room:
            return f"The checkpoints of its project fill its {room:,} bytes: delete some."
        if most is None or not gpus:
            return None
        if gpus > most:
            return f"Needs {gpus} GPUs; its project may hold {most} in all."
        if self.waits_for_gpus or self.gpus + gpus > most:
            self.waits_for_gpus = True
            return f"Other runs of its project hold or wait for its {most} GPUs."
        return None
