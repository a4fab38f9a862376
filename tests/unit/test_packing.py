"""Points come back from their bytes to the last bit, and regular ones are small.

Each was seen red: a packed column whose length is taken for that of a plain one, times set back
taken for rising ones.
"""

import math
import struct
from array import array

from hypothesis import example, given
from hypothesis import strategies as st

from app.domain import packing, points
from app.domain.points import MAX_STEP, Column

BITS = st.integers(0, 2**64 - 1).map(
    lambda bits: struct.unpack("<d", bits.to_bytes(8, "little"))[0]
)
FLOATS = st.one_of(st.floats(), BITS, st.floats(width=32), st.integers(-(2**53), 2**53).map(float))
STEPS = st.one_of(
    st.builds(
        lambda first, stride, count: list(range(first, first + stride * count, stride)),
        st.integers(0, 2**40), st.integers(1, 2**20), st.integers(0, 600),
    ),
    st.sets(st.integers(0, MAX_STEP), max_size=100).map(sorted),
)  # fmt: skip


@st.composite
def columns(draw: st.DrawFn) -> Column:
    steps = draw(STEPS)
    values = draw(st.lists(FLOATS, min_size=len(steps), max_size=len(steps)))
    kind = draw(st.sampled_from(["missing", "regular", "jitter", "any"]))
    if kind == "missing":
        times = [math.nan] * len(steps)
    elif kind == "any":
        times = draw(st.lists(FLOATS, min_size=len(steps), max_size=len(steps)))
    else:
        jitter = 0.01 if kind == "jitter" else 0.0
        times = [1.7638e9 + 0.25 * i + jitter * math.sin(i) for i in range(len(steps))]
    return Column(steps, values, times)


def bits(column: Column) -> bytes:
    steps, values, wall_times = column
    return b"".join((array("q", steps), array("d", values), array("d", wall_times)))


@given(columns())
@example(Column([MAX_STEP - 1, MAX_STEP], [0.0, -0.0], [math.inf, -math.inf]))
@example(Column(range(MAX_STEP - 99, MAX_STEP), [1.0] * 99, [5e-324] * 99))
def test_what_is_packed_comes_back_to_the_last_bit(column: Column) -> None:
    packed = points.pack(column)
    assert bits(points.unpack(packed)) == bits(column)
    plain = len(packed) % 24 == 0
    assert plain == (len(column.steps) < packing.FEWEST)


@given(columns())
def test_points_of_earlier_versions_are_read(column: Column) -> None:
    assert bits(points.unpack(bits(column))) == bits(column)


def test_packed_points_are_never_as_long_as_plain_ones() -> None:
    """The length is what tells them apart."""
    for count in range(packing.FEWEST, 200):
        values = [1 + step % 16 / 16 for step in range(count)]  # one byte of eight varies
        of = Column(range(count), values, [math.nan] * count)
        packed = points.pack(of)
        assert len(packed) % points.PLAIN_BYTES
        assert bits(points.unpack(packed)) == bits(of)


def per_point(times: list[float], stride: int = 10) -> float:
    count = len(times)
    values = [2 + math.sin(i) for i in range(count)]
    return len(points.pack(Column(range(0, stride * count, stride), values, times))) / count


def test_regular_points_are_small() -> None:
    second = [1_763_800_000.25 + i for i in range(512)]
    jitter = [at + 0.05 * math.sin(i * i) for i, at in enumerate(second)]
    assert per_point([math.nan] * 512) < 8.3
    assert per_point(second) < 8.3
    assert per_point(jitter) < 11.5


def test_an_end_that_is_missing_is_noticed() -> None:
    packed = points.pack(Column(range(100), [float(i) for i in range(100)], [math.nan] * 100))
    for size in range(1, len(packed)):
        if size % 24:
            try:
                points.unpack(packed[:size])
            except (ValueError, IndexError):
                continue
            raise AssertionError(size)
