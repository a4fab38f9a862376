"""Checks of the options of a table `[launchers.NAME]`. Each raises ValueError with one sentence."""

from typing import Any


def check_type(name: str, value: Any, *kinds: type | None) -> None:
    """Check that an option is of one of these types; None stands for one that is left out."""
    allowed = tuple(type(None) if kind is None else kind for kind in kinds)
    if not isinstance(value, allowed) or isinstance(value, bool):
        wanted = " or ".join("nothing" if kind is None else kind.__name__ for kind in kinds)
        raise ValueError(f"{name}: must be {wanted}")


def check_number(name: str, value: Any, above: float) -> None:
    """Check that an option is a number above a limit."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > above:
        raise ValueError(f"{name}: must be a number above {above}")


def check_gpu_types(value: Any) -> None:
    """Check that an option maps strings to strings."""
    check_type("gpu_types", value, dict)
    if not all(isinstance(name, str) for name in value.values()):
        raise ValueError("gpu_types: must be a table of strings")
