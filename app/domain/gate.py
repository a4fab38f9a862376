"""The gate before a release: metrics within bounds, and files that were read again lately."""

import re
from collections.abc import Mapping
from operator import ge, gt, le, lt
from typing import NamedTuple

from app.domain.ids import seconds_between

_COMPARE = {"<=": le, ">=": ge, "<": lt, ">": gt}
_BOUND = re.compile(r"(?P<key>[^<>=]{1,200}?)\s*(?P<how><=|>=|<|>)\s*(?P<limit>[-+0-9.eE]+)")


class Bound(NamedTuple):
    """A metric and its bound, such as `val_loss<=2`."""

    key: str
    how: str
    limit: float

    @classmethod
    def parse(cls, text: str) -> "Bound":
        """Return the bound that a text is. Raises ValueError."""
        match = _BOUND.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r} is no bound like val_loss<=2.0")
        return cls(match["key"], match["how"], float(match["limit"]))

    def explain_unmet(self, metrics: Mapping[str, float]) -> str | None:
        """Return why the metrics of a checkpoint do not meet it, or None."""
        requirement = f"{self.key} {self.how} {self.limit:g}"
        value = metrics.get(self.key)
        if value is None:
            return f"{requirement}: the checkpoint has no {self.key}"
        return None if _COMPARE[self.how](value, self.limit) else f"{requirement}: it is {value:g}"


APPROVED = "approved"
"""The tag with which a maintainer approves a checkpoint, where a release needs that."""
RELEASE = "release"
"""The tag of a release. One that has a release tag is a release as well."""


class Gate(NamedTuple):
    """The conditions that a checkpoint must meet to become a release."""

    bounds: tuple[Bound, ...] = ()
    verified_hours: float | None = None
    # Somebody else, a maintainer, has marked it as `approved`.
    needs_approval: bool = False

    def join(self, other: "Gate") -> "Gate":
        """Return the gate that passes what both do."""
        hours = [
            number for number in (self.verified_hours, other.verified_hours) if number is not None
        ]
        return Gate(
            tuple(dict.fromkeys((*self.bounds, *other.bounds))), min(hours, default=None),
            self.needs_approval or other.needs_approval,
        )  # fmt: skip

    def list_unmet(
        self, metrics: Mapping[str, float], verified_at: str | None, now: str
    ) -> list[str]:
        """Return what is not met, a clause each; nothing: it may become a release."""
        reasons = [
            why for bound in self.bounds if (why := bound.explain_unmet(metrics)) is not None
        ]
        if self.verified_hours is not None:
            requirement = f"verified within {self.verified_hours:g} h"
            if verified_at is None:
                reasons.append(f"{requirement}: its files were never found to be whole")
            elif seconds_between(verified_at, now) > self.verified_hours * 3600:
                reasons.append(f"{requirement}: the last time was {verified_at}")
        return reasons


OPEN = Gate()
"""A gate that lets everything pass."""
