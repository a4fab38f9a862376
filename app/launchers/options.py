"""Options of a table `[launchers.NAME]`: their checks, each of which raises ValueError with one
sentence, and what the table `gpu_types` says of a GPU type."""

from collections.abc import Callable, Iterable, Mapping
from inspect import Parameter, signature
from typing import Any

_GIVEN = ("context", "name")
"""What every launcher gets beside its options."""


def check_names(make: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Check that a launcher's class, or a class of its options, can be made with these options."""
    known = {name: each for name, each in signature(make).parameters.items() if name not in _GIVEN}
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values()):
        return  # it checks them itself
    for name in options:
        if name not in known:
            raise ValueError(f"unknown option {name!r}; known are {', '.join(known) or 'none'}")
    for name, parameter in known.items():
        if parameter.default is Parameter.empty and name not in options:
            raise ValueError(f"the option {name!r} is required")


def check_type(name: str, value: Any, *kinds: type | None) -> None:
    """Check that an option is of one of these types; None stands for one that is left out."""
    allowed = tuple(type(None) if kind is None else kind for kind in kinds)
    if not isinstance(value, allowed) or isinstance(value, bool):
        expected = " or ".join("nothing" if kind is None else kind.__name__ for kind in kinds)
        raise ValueError(f"{name}: must be {expected}")


def check_number(name: str, value: Any, above: float) -> None:
    """Check that an option is a number above a limit."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > above:
        raise ValueError(f"{name}: must be a number above {above}")


def check_gpu_types(value: Any) -> None:
    """Check that an option maps strings to strings."""
    check_type("gpu_types", value, dict)
    if not all(isinstance(name, str) for name in value.values()):
        raise ValueError("gpu_types: must be a table of strings")


def find_engine_type(
    gpu_type: str | None, gpu_types: Mapping[str, str], offered: Iterable[str]
) -> str | None:
    """Return what an engine calls a GPU type; '' for any; None if it has no such type.

    Only names of the operator's table or of the engine itself are returned, whatever a client
    wrote, so that they may go into a command.

    Args:
        gpu_type: as a run asks for it, in any case.
        gpu_types: the operator's table, from types of runs to those of the engine.
        offered: the engine's types of GPUs.
    """
    if gpu_type is None:
        return ""
    requested = gpu_type.casefold()
    table = {name.casefold(): engine_type for name, engine_type in gpu_types.items()}
    if (engine_type := table.get(requested)) is not None:
        return engine_type
    return next((name for name in offered if name.casefold() == requested), None)
