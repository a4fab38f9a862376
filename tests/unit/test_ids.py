"""Ids: prefixed, of one shape, sorted by time; and the one clock format."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.ids import is_id, new_id, seconds_between, timestamp


def test_ids_sort_by_time_and_never_repeat() -> None:
    made = [new_id("run") for _ in range(5_000)]
    assert len(set(made)) == len(made)
    # Within one microsecond the order is random; the time is the first eleven characters.
    times = [each[:15] for each in made]
    assert times == sorted(times)


@pytest.mark.parametrize("prefix", ["exp", "run", "ckpt"])
def test_an_id_is_one_of_its_prefix_only(prefix: str) -> None:
    made = new_id(prefix)
    assert [is_id(made, each) for each in ("exp", "run", "ckpt")] == [
        prefix == each for each in ("exp", "run", "ckpt")
    ]


@pytest.mark.parametrize(
    "change",
    [str.upper, lambda i: i + "0", lambda i: i[:-1], lambda i: i + "\n", lambda i: " " + i,
     lambda i: i[:-1] + "l", lambda i: i[:-1] + "٣", lambda i: i.replace("_", "-"), lambda i: ""],
)  # fmt: skip
def test_what_only_looks_like_an_id(change: Callable[[str], str]) -> None:
    assert not is_id(change(new_id("run")), "run")


@given(st.datetimes(timezones=st.just(UTC)), st.datetimes(timezones=st.just(UTC)))
def test_the_order_of_timestamps_is_the_order_of_time(one: datetime, other: datetime) -> None:
    first, second = timestamp(one), timestamp(other)
    assert (first < second) == (one < other)
    assert {len(first), len(second)} == {32}
    assert seconds_between(first, second) == pytest.approx((other - one).total_seconds())


def test_a_timestamp_is_utc_whatever_the_clock_says() -> None:
    there = datetime(2026, 1, 1, 8, tzinfo=timezone(timedelta(hours=8)))
    assert timestamp(there) == "2026-01-01T00:00:00.000000+00:00"


def test_the_rest_of_an_id_is_random_in_every_character() -> None:
    ends = [new_id("run")[-14:] for _ in range(2_000)]
    assert all(len(set(characters)) == 32 for characters in zip(*ends, strict=True))
