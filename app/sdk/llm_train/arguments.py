"""Hyperparameters as command-line arguments: one value stays one argument, and never an option.

Clients choose the values. Strings are few and plain characters, so that no shell, argument parser
or configuration language behind the command takes one for anything but a value.
"""

import math
import re
from typing import Any

MAX_LENGTH = 256
_PLAIN = re.compile(r"[A-Za-z0-9_./][A-Za-z0-9_.,:+/=-]*")


class BadArgument(ValueError):
    """A hyperparameter that cannot be an argument; the message names it and says why."""


def to_argument(name: str, value: Any) -> str:
    """Return a hyperparameter as the text of one argument.

    Numbers are written as JSON does, booleans as `true` and `false`. Strings have at most 256 of
    `A-Z a-z 0-9 _ . , : + / = -`, and begin with none of `- + , : =`.

    Raises:
        BadArgument: any other value.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value):
        return repr(float(value))
    if isinstance(value, str) and len(value) <= MAX_LENGTH and _PLAIN.fullmatch(value):
        return value
    if isinstance(value, str):
        raise BadArgument(
            f"hyperparameter {name!r:.80}: a string for a command has 1 to {MAX_LENGTH} of A-Z a-z "
            "0-9 _ . , : + / = - and begins with a letter, digit, _, . or /"
        )
    raise BadArgument(
        f"hyperparameter {name!r:.80}: only a number, a boolean or a string can be an argument"
    )
