"""The order of the queue: runs of a higher priority start first, those of one by time."""

from enum import StrEnum


class Priority(StrEnum):
    """When a queued run is started: before or after others, never instead of one that runs."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"

    @property
    def rank(self) -> int:
        """Return the number that sorts the queue, the lowest first."""
        return _ORDER.index(self)

    @classmethod
    def of_rank(cls, rank: int) -> "Priority":
        """Return the priority that is stored as this number."""
        return _ORDER[rank]


_ORDER = list(Priority)
