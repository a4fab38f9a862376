"""Requests of runs, capacities of machines, and the allocation of GPUs.

* `Resources`: the request of a run, as documented for the field `resources`.
* `Capacity`: one machine, its GPUs by id and type.
* `allocate`: the GPUs for a request, or one sentence that names the shortage.
* `Reservations`: resources that waiting runs keep from younger ones.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, NamedTuple, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from app.domain.text import clean


def _clean(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return clean(text)


class Resources(BaseModel):
    """The resources that a run needs on its machine.

    One model for requests, recipes and what is stored. A field that is None is not counted.
    """

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    gpu_type: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_clean)] | None = (
        None
    )
    count: Annotated[int, Field(ge=0, le=65_536)] | None = None
    cpus: Annotated[float, Field(gt=0, le=1e6)] | None = None
    memory_gb: Annotated[float, Field(gt=0, le=1e6)] | None = None
    nodes: Annotated[int, Field(ge=1, le=65_536)] | None = None
    time_limit_minutes: Annotated[float, Field(gt=0, le=1e6)] | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read a recipe's or a stored run's `resources`. Raises ValueError, led by the key."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            known = ", ".join(cls.model_fields)
            unknown = first["type"] == "extra_forbidden"
            wrong = f"unknown; known are {known}" if unknown else first["msg"]
            raise ValueError(f"{key}: {wrong}") from error

    @property
    def gpus(self) -> int:
        """Return the number of GPUs; a `gpu_type` without a `count` asks for one."""
        if self.count is not None:
            return self.count
        return 0 if self.gpu_type is None else 1

    def count_held(self, gpus: Sequence[str]) -> int:
        """Return how many GPUs a run holds: those it was given, else what it asks an engine for."""
        return len(gpus) or self.gpus_in_all

    @property
    def gpus_in_all(self) -> int:
        """Return the number of GPUs on all of its nodes."""
        return self.gpus * (self.nodes or 1)


class Gpu(NamedTuple):
    """One GPU: the id that CUDA_VISIBLE_DEVICES takes, and the name its driver reports."""

    id: str
    type: str


@dataclass(frozen=True)
class Capacity:
    """The capacity of one machine; `memory_gb` in units of 10^9 bytes."""

    cpus: float
    memory_gb: float
    gpus: tuple[Gpu, ...] = ()
    host: str | None = None
    """The machine whose GPUs these are; None: of more than one."""
    slots: int | None = None
    """How many runs it takes at a time; None: as many as fit."""
    _by_type: dict[str | None, list[str]] = field(
        default_factory=dict, init=False, compare=False, repr=False
    )

    def fitting(self, gpu_type: str | None) -> list[str]:
        """Return the ids of its GPUs of a type; None: of all. Looked up once for each type."""
        fitting = self._by_type.get(gpu_type)
        if fitting is None:
            fitting = [gpu.id for gpu in self.gpus if _is_type(gpu, gpu_type)]
            self._by_type[gpu_type] = fitting
        return fitting


@dataclass(frozen=True)
class Allocation:
    """The resources that one run holds while it is launched."""

    gpus: tuple[str, ...] = ()
    cpus: float = 0
    memory_gb: float = 0
    host: str | None = None
    """The machine that has it."""

    def environment(self) -> dict[str, str]:
        """Return the variables that show a trainer only its own GPUs, in the driver's order."""
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


class Kind(StrEnum):
    """A kind of resource that runs compete for on one machine."""

    NODES = "nodes"
    GPUS = "GPUs"
    CPUS = "CPUs"
    MEMORY = "memory"
    SLOTS = "slots"


@dataclass(frozen=True)
class Shortage:
    """The reason why a request must wait. `impossible`: it exceeds even the idle machine.

    `detail` names what is needed and what the machine has, not how much of it is free now: it
    stays the same as long as the reason does.
    """

    detail: str
    impossible: bool
    kind: Kind


def allocate(
    request: Resources, capacity: Capacity, in_use: Iterable[Allocation]
) -> Allocation | Shortage:
    """Give `request` its share of what `in_use` leaves of `capacity`, or say what is lacking.

    GPUs are given lowest first. A shortage that no waiting can cure is named before others.
    """
    held = list(in_use)
    fitting = capacity.fitting(request.gpu_type)
    free = _free(fitting, held)
    if (request.nodes or 1) > 1:
        return Shortage(f"Needs {request.nodes} nodes; this is one machine.", True, Kind.NODES)
    need = _gpu_need(request)
    if request.gpus > len(fitting):
        has = _inventory(capacity.gpus)
        return Shortage(f"Needs {need}; this machine has {has}.", True, Kind.GPUS)
    amounts = _amounts(request, capacity, held)
    for kind, amount, _, total, what in amounts:
        if amount > total:
            return Shortage(f"Needs {what}; this machine has {total:.5g}.", True, kind)
    if request.gpus > len(free):
        taken = f"other runs hold too many of the {len(fitting)} here"
        return Shortage(f"Needs {need}; {taken}.", False, Kind.GPUS)
    for kind, amount, used, total, what in amounts:
        if amount and used + amount > total:
            much = "much" if kind is Kind.MEMORY else "many"
            taken = f"other runs hold too {much} of the {total:.5g} here"
            return Shortage(f"Needs {what}; {taken}.", False, kind)
    return Allocation(
        tuple(free[: request.gpus]), request.cpus or 0, request.memory_gb or 0, capacity.host
    )


@dataclass
class Reservations:
    """Resources kept for waiting runs, which younger ones would otherwise overtake forever.

    A younger run may start only with what no older run waits for: T4 GPUs while one waits for an
    H100, no CPU while one waits for CPUs.
    """

    held: list[Allocation] = field(default_factory=list)
    gpus: set[str] = field(default_factory=set)
    """Ids of all GPUs that one of them could take."""
    kinds: set[Kind] = field(default_factory=set)

    def allocate(
        self, request: Resources, capacity: Capacity, in_use: Iterable[Allocation]
    ) -> Allocation | Shortage:
        """Allocate like the function `allocate`, without the amounts that are kept back."""
        allocation = allocate(request, capacity, [*in_use, *self.held])
        if isinstance(allocation, Allocation) or allocation.impossible:
            return allocation
        held = self.gpus.intersection(capacity.fitting(request.gpu_type))
        if held if allocation.kind is Kind.GPUS else allocation.kind in self.kinds:
            return replace(
                allocation, detail=f"Waits behind an older run that needs {allocation.kind}."
            )
        return allocation

    def add(self, request: Resources, capacity: Capacity, in_use: Iterable[Allocation]) -> bool:
        """Keep back what is free of what a waiting run needs. Return True if that is any more."""
        before = [*in_use, *self.held]
        fitting = capacity.fitting(request.gpu_type) if request.gpus else []
        amounts = _amounts(request, capacity, before)
        cpus, memory = (min(amount, max(all_ - used, 0)) for _, amount, used, all_, _ in amounts)
        share = Allocation(tuple(_free(fitting, before)[: request.gpus]), cpus, memory)
        kinds = {kind for kind, amount, *_ in amounts if amount}
        if share == Allocation() and self.gpus.issuperset(fitting) and kinds <= self.kinds:
            return False
        self.held.append(share)
        self.gpus.update(fitting)
        self.kinds |= kinds
        return True


def _amounts(
    request: Resources, capacity: Capacity, held: Sequence[Allocation]
) -> tuple[tuple[Kind, float, float, float, str], ...]:
    """Return the amounts needed, held and present of what is divisible, and the need in words."""
    cpus, memory = request.cpus or 0, request.memory_gb or 0
    used_cpus = math.fsum(allocation.cpus for allocation in held)
    used_memory = math.fsum(allocation.memory_gb for allocation in held)
    return (
        (Kind.CPUS, cpus, used_cpus, capacity.cpus, _plural(cpus, "CPU")),
        (Kind.MEMORY, memory, used_memory, capacity.memory_gb, f"{memory:.5g} GB of memory"),
    )


def _free(gpus: Iterable[str], held: Iterable[Allocation]) -> list[str]:
    taken = {gpu for allocation in held for gpu in allocation.gpus}
    return [gpu for gpu in gpus if gpu not in taken]


def _is_type(gpu: Gpu, gpu_type: str | None) -> bool:
    """Return True if the words of `gpu_type` are in the GPU's name, in any case.

    Whole words only: who asks for an A10, L4 or H200 must not get an A100, L40 or GH200.
    """
    if gpu_type is None:
        return True
    words = rf"(?<![a-z0-9]){re.escape(gpu_type.strip().lower())}(?![a-z0-9])"
    return re.search(words, gpu.type.lower()) is not None


def _gpu_need(request: Resources) -> str:
    if request.gpu_type is None:
        return _plural(request.gpus, "GPU")
    return f"{request.gpus} × {request.gpu_type.strip()}"


def _inventory(gpus: Sequence[Gpu]) -> str:
    if not gpus:
        return "no GPU"
    return " and ".join(f"{n} × {name}" for name, n in Counter(gpu.type for gpu in gpus).items())


def _plural(amount: float, noun: str) -> str:
    return f"{amount:.5g} {noun}{'' if amount == 1 else 's'}"
