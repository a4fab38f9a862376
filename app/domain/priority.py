"""The three priorities of runs. What they mean in the queue: `domain.queue`."""

from enum import StrEnum


class Priority(StrEnum):
    """The priority of a run in the queue. A higher one starts first, and may preempt lower ones."""

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
