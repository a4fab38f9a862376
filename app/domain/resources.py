"""What a run needs, what a machine has, and who gets which GPU.

* `Resources`: the request, as documented for the field `resources`.
* `Capacity`: one machine, its GPUs by id and type.
* `allocate`: the GPUs for a request, or one sentence that says what is lacking.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(frozen=True)
class Resources:
    """What a run asks for. None: it does not say, and is not counted."""

    gpu_type: str | None = None
    count: int = 0
    cpus: float | None = None
    memory_gb: float | None = None
    nodes: int = 1
    time_limit_minutes: float | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Resources":
        """Read a request's or a recipe's `resources`; a value of None counts as absent.

        A `gpu_type` without a `count` asks for one GPU. Raises ValueError, led by the key.
        """
        given = {key: value for key, value in data.items() if value is not None}
        for key, value in given.items():
            if key not in _RULES:
                raise ValueError(f"{key}: unknown; known are {', '.join(_RULES)}")
            kinds, least, what = _RULES[key]
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(f"{key}: must be {what}")
            if not (value.strip() if isinstance(value, str) else least(value)):
                raise ValueError(f"{key}: must be {what}")
        if "gpu_type" in given:
            given.setdefault("count", 1)
        return cls(**given)


_POSITIVE = (int, float), lambda value: 0 < value < float("inf"), "a positive number"
_RULES: dict[str, tuple[Any, Any, str]] = {
    "gpu_type": (str, bool, "a non-empty string"),
    "count": (int, lambda value: value >= 0, "a whole number, 0 or more"),
    "cpus": _POSITIVE,
    "memory_gb": _POSITIVE,
    "nodes": (int, lambda value: value >= 1, "a whole number, 1 or more"),
    "time_limit_minutes": _POSITIVE,
}


class Gpu(NamedTuple):
    """One GPU: the id that CUDA_VISIBLE_DEVICES takes, and the name its driver reports."""

    id: str
    type: str


@dataclass(frozen=True)
class Capacity:
    """What one machine has; `memory_gb` in units of 10^9 bytes."""

    cpus: float
    memory_gb: float
    gpus: tuple[Gpu, ...] = ()


@dataclass(frozen=True)
class Allocation:
    """What one run holds while it is launched."""

    gpus: tuple[str, ...] = ()
    cpus: float = 0
    memory_gb: float = 0

    def environment(self) -> dict[str, str]:
        """The variables that show a trainer exactly its own GPUs, numbered as the driver does."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


@dataclass(frozen=True)
class Shortage:
    """Why a request must wait. `impossible`: it exceeds even the idle machine."""

    detail: str
    impossible: bool


def allocate(
    request: Resources, capacity: Capacity, in_use: Iterable[Allocation]
) -> Allocation | Shortage:
    """Give `request` its share of what `in_use` leaves of `capacity`, or say what is lacking.

    GPUs are given lowest first. A shortage that no waiting can cure is named before others.
    """
    held = list(in_use)
    taken = {gpu for allocation in held for gpu in allocation.gpus}
    fitting = [gpu for gpu in capacity.gpus if _is_type(gpu, request.gpu_type)]
    free = [gpu.id for gpu in fitting if gpu.id not in taken]
    cpus = request.cpus or 0
    memory = request.memory_gb or 0
    held_cpus = math.fsum(allocation.cpus for allocation in held)
    held_memory = math.fsum(allocation.memory_gb for allocation in held)

    need = _gpu_need(request)
    if request.nodes > 1:
        return Shortage(f"Needs {request.nodes} nodes; this is one machine.", True)
    if request.count > len(fitting):
        return Shortage(f"Needs {need}; this machine has {_inventory(capacity.gpus)}.", True)
    divisible = (
        (cpus, held_cpus, capacity.cpus, _plural(cpus, "CPU")),
        (memory, held_memory, capacity.memory_gb, f"{memory:.5g} GB of memory"),
    )
    for amount, _, total, what in divisible:
        if amount > total:
            return Shortage(f"Needs {what}; this machine has {total:.5g}.", True)
    if request.count > len(free):
        return Shortage(f"Needs {need}; {_free(len(free), len(fitting))}.", False)
    for amount, used, total, what in divisible:
        if amount and used + amount > total:
            return Shortage(f"Needs {what}; {_free(max(total - used, 0), total)}.", False)
    return Allocation(tuple(free[: request.count]), cpus, memory)


def _is_type(gpu: Gpu, wanted: str | None) -> bool:
    """Whether the wanted words stand in the GPU's name, in any case.

    Whole words only: who asks for an A10, L4 or H200 must not get an A100, L40 or GH200.
    """
    if wanted is None:
        return True
    words = rf"(?<![a-z0-9]){re.escape(wanted.strip().lower())}(?![a-z0-9])"
    return re.search(words, gpu.type.lower()) is not None


def _gpu_need(request: Resources) -> str:
    if request.gpu_type is None:
        return _plural(request.count, "GPU")
    return f"{request.count} × {request.gpu_type.strip()}"


def _inventory(gpus: Sequence[Gpu]) -> str:
    if not gpus:
        return "no GPU"
    return " and ".join(f"{n} × {name}" for name, n in Counter(gpu.type for gpu in gpus).items())


def _free(free: float, total: float) -> str:
    return f"{free:.5g} of {total:.5g} {'is' if free == 1 else 'are'} free"


def _plural(amount: float, noun: str) -> str:
    return f"{amount:.5g} {noun}{'' if amount == 1 else 's'}"
