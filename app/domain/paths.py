"""Logical checkpoint paths: `/ckpts/{experiment_id}/{run_id}/{name}`.

A client names a checkpoint by such a path and never a place on disk. Parsing accepts
exactly this shape: anything else (`..`, `%`, `\\`, NUL, another scheme) is refused.
"""

import re
from typing import NamedTuple

from app.domain.ids import is_id
from app.errors import BadCheckpointPath

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class CheckpointPath(NamedTuple):
    """The three parts of a logical checkpoint path."""

    experiment_id: str
    run_id: str
    name: str

    def __str__(self) -> str:
        return f"/ckpts/{self.experiment_id}/{self.run_id}/{self.name}"


def parse(text: str) -> CheckpointPath:
    """Return the parts of a logical path. Raises BadCheckpointPath."""
    parts = text.split("/")
    if (
        len(parts) == 5
        and parts[:2] == ["", "ckpts"]
        and is_id(parts[2], "exp")
        and is_id(parts[3], "run")
        and is_name(parts[4])
    ):
        return CheckpointPath(*parts[2:])
    raise BadCheckpointPath(
        "A checkpoint path has the form /ckpts/{experiment_id}/{run_id}/{name}; name: letters, "
        "digits, '.', '_' and '-', at most 128, not starting with '.'.",
        errors=[{"pointer": "/ckpt_path", "detail": "not a checkpoint path"}],
    )


def is_name(text: str) -> bool:
    """Return True if `text` may be the last segment of a checkpoint path."""
    return _NAME.fullmatch(text) is not None


def stop_name(attempt: int) -> str:
    """Return the name under which a trainer that is asked to stop saves its work."""
    return f"cancel-{attempt}"
