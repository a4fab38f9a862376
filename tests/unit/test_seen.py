"""How a user's newest runs are divided among its experiments, where not all of them are read."""

from hypothesis import example, given
from hypothesis import strategies as st

from app.db.seen import share_evenly

NUMBERS = st.lists(st.integers(0, 5_000), min_size=1, max_size=80)


def test_what_small_experiments_do_not_need_is_left_for_the_large_one() -> None:
    assert share_evenly([10, 90_000, 10], 4_000) == 3_980


@example([1, 2], 3)
@given(NUMBERS, st.integers(1, 4_000))
def test_each_has_the_same_and_all_together_no_more_than_there_may_be(
    numbers: list[int], most: int
) -> None:
    each = share_evenly(numbers, most)
    read = sum(min(number, each) for number in numbers)
    assert each == 1 or read <= most
    assert read == sum(numbers) or most < sum(min(number, each + 1) for number in numbers)
