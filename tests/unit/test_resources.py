"""Who gets which GPU, and what the others are told."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.resources import Allocation, Capacity, Gpu, Resources, Shortage, allocate

A100 = "NVIDIA A100-SXM4-80GB"
LAPTOP = Capacity(cpus=8, memory_gb=16)
NODE = Capacity(64, 512, tuple(Gpu(str(i), A100) for i in range(4)))
MIXED = Capacity(8, 64, (Gpu("0", "NVIDIA L40S"), Gpu("1", "NVIDIA A10"), Gpu("2", A100)))


def ask(**data: Any) -> Resources:
    return Resources.from_dict(data)


def test_the_documented_field_is_read() -> None:
    data = {"gpu_type": "A100", "count": 4, "cpus": 8, "memory_gb": 64.5, "nodes": 1}
    read = Resources.from_dict({**data, "time_limit_minutes": 90})
    assert (read.gpu_type, read.count, read.cpus, read.memory_gb) == ("A100", 4, 8, 64.5)
    assert (read.nodes, read.time_limit_minutes) == (1, 90)
    assert Resources.from_dict(dict.fromkeys(data)) == Resources.from_dict({}) == Resources()
    assert (ask().gpus, ask(gpu_type="A100").gpus) == (0, 1)
    assert ask(gpu_type="A100", count=0).gpus == 0


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"gpus": 1}, "gpus: unknown; known are gpu_type, count"),
        ({"count": -1}, "count: Input should be greater than or equal to 0"),
        ({"count": 1.0}, "count: Input should be a valid integer"),
        ({"count": True}, "count: Input should be a valid integer"),
        ({"gpu_type": " "}, "gpu_type: Value error, must not be blank"),
        ({"gpu_type": 100}, "gpu_type: Input should be a valid string"),
        ({"nodes": 0}, "nodes: Input should be greater than or equal to 1"),
        ({"cpus": 0}, "cpus: Input should be greater than 0"),
        ({"memory_gb": math.nan}, "memory_gb: Input should be a finite number"),
        ({"time_limit_minutes": math.inf}, "time_limit_minutes: Input should be a finite number"),
    ],
)
def test_what_is_no_resource_is_named(data: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Resources.from_dict(data)


@pytest.mark.parametrize(
    ("request_", "capacity", "in_use", "detail", "impossible"),
    [
        (ask(gpu_type="A100", count=4), LAPTOP, [], "4 × A100; this machine has no GPU", True),
        (ask(count=1), LAPTOP, [], "1 GPU; this machine has no GPU", True),
        (ask(gpu_type="H100"), NODE, [], f"1 × H100; this machine has 4 × {A100}", True),
        (
            ask(gpu_type="T4"),
            MIXED,
            [],
            f"1 × T4; this machine has 1 × NVIDIA L40S and 1 × NVIDIA A10 and 1 × {A100}",
            True,
        ),
        (
            ask(count=2),
            NODE,
            [Allocation(("0", "1", "3"))],
            "2 GPUs; other runs hold too many of the 4 here",
            False,
        ),
        (
            ask(gpu_type="a100", count=3),
            NODE,
            [Allocation(("0",)), Allocation(("2",))],
            "3 × a100; other runs hold too many of the 4 here",
            False,
        ),
        (ask(nodes=2), NODE, [], "2 nodes; this is one machine", True),
        (ask(cpus=9), LAPTOP, [], "9 CPUs; this machine has 8", True),
        (
            ask(cpus=1),
            LAPTOP,
            [Allocation(cpus=7.5)],
            "1 CPU; other runs hold too many of the 8 here",
            False,
        ),
        (ask(memory_gb=17), LAPTOP, [], "17 GB of memory; this machine has 16", True),
        (
            ask(memory_gb=10),
            LAPTOP,
            [Allocation(memory_gb=20)],
            "10 GB of memory; other runs hold too much of the 16 here",
            False,
        ),
        # What no waiting can cure is said first.
        (ask(count=1, cpus=99), NODE, [Allocation(("0", "1", "2", "3"))], "99 CPUs; this", True),
    ],
)
def test_a_shortage_is_one_sentence_of_what_is_needed_and_what_there_is(
    request_: Resources,
    capacity: Capacity,
    in_use: list[Allocation],
    detail: str,
    impossible: bool,
) -> None:
    answer = allocate(request_, capacity, in_use)
    assert isinstance(answer, Shortage)
    assert answer.detail.startswith(f"Needs {detail}") and answer.detail.endswith(".")
    assert answer.impossible is impossible


def test_who_asks_for_nothing_is_never_held_up() -> None:
    """Also where more is held than there is: the machine may have shrunk."""
    assert allocate(ask(), LAPTOP, [Allocation(("7",), 99, 99)]) == Allocation()


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        ("A10", ["1"]),  # not the A100
        ("L40S", ["0"]),
        ("nvidia", ["0", "1", "2"]),
        ("A100-SXM4", ["2"]),
        ("80gb", ["2"]),
        ("L40", []),  # not the L40S
        ("a.0", []),
        (" a100 ", ["2"]),
    ],
)
def test_a_gpu_type_means_whole_words_of_the_drivers_name(wanted: str, ids: list[str]) -> None:
    for count, got in enumerate([ids[:n] for n in range(1, len(ids) + 1)], start=1):
        answer = allocate(ask(gpu_type=wanted, count=count), MIXED, [])
        assert isinstance(answer, Allocation) and list(answer.gpus) == got
    assert isinstance(allocate(ask(gpu_type=wanted, count=len(ids) + 1), MIXED, []), Shortage)


def test_a_trainer_sees_its_own_gpus_only() -> None:
    assert Allocation(("2", "3")).environment()["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert Allocation().environment()["CUDA_VISIBLE_DEVICES"] == ""


numbers = st.none() | st.floats(0.1, 40) | st.integers(1, 40)
gpu_requests = st.builds(
    Resources,
    gpu_type=st.none() | st.sampled_from(["A100", "h100", "T4"]),
    count=st.integers(0, 4),
    nodes=st.sampled_from([1, 1, 1, 2]),
)
requests = gpu_requests | st.builds(Resources, cpus=numbers, memory_gb=numbers)
capacities = st.builds(
    Capacity,
    cpus=st.floats(0.5, 64),
    memory_gb=st.floats(0.5, 64),
    gpus=st.lists(st.sampled_from([A100, "NVIDIA H100", "Tesla T4"]), max_size=8).map(
        lambda types: tuple(Gpu(str(i), t) for i, t in enumerate(types))
    ),
)


@given(capacities, st.lists(st.tuples(requests, st.booleans()), max_size=30))
def test_nothing_is_ever_given_twice_or_beyond_what_there_is(
    capacity: Capacity, moves: list[tuple[Resources, bool]]
) -> None:
    """Control: with `taken` left empty in `allocate` this fails at two runs of one GPU."""
    held: list[Allocation] = []
    types = dict(capacity.gpus)
    for request, release in moves:
        if release and held:
            held.pop(0)
        answer = allocate(request, capacity, held)
        if isinstance(answer, Shortage):
            # It says the truth about ever and now.
            assert answer.impossible is isinstance(allocate(request, capacity, []), Shortage)
            continue
        assert request.nodes in (None, 1) and len(answer.gpus) == request.gpus
        if request.gpu_type:
            assert all(request.gpu_type.lower() in types[gpu].lower() for gpu in answer.gpus)
        held.append(answer)
        gpus = [gpu for allocation in held for gpu in allocation.gpus]
        assert len(gpus) == len(set(gpus)) and set(gpus) <= set(types)
        assert math.fsum(a.cpus for a in held) <= capacity.cpus + 1e-9
        assert math.fsum(a.memory_gb for a in held) <= capacity.memory_gb + 1e-9
