"""The lifecycle as data: where a run can go, and that it always can come to an end."""

from app.domain.lifecycle import LAUNCHED, MOVES, TERMINAL, RunStatus


def reach(origin: RunStatus) -> set[RunStatus]:
    found: set[RunStatus] = set()
    todo = [origin]
    while todo:
        new = MOVES[todo.pop()] - found
        found |= new
        todo += new
    return found


def test_every_status_can_be_reached_and_can_end() -> None:
    assert reach(RunStatus.QUEUED) == set(RunStatus)
    for status in set(RunStatus) - TERMINAL:
        assert reach(status) & TERMINAL


def test_the_terminal_statuses_are_the_documented_ones() -> None:
    assert {"succeeded", "failed", "cancelled"} == TERMINAL


def test_a_cancel_that_was_accepted_ends_as_cancelled_and_nothing_else() -> None:
    assert MOVES[RunStatus.CANCELLING] == {RunStatus.CANCELLED}


def test_only_launched_runs_can_succeed() -> None:
    assert {s for s in RunStatus if RunStatus.SUCCEEDED in MOVES[s]} <= LAUNCHED
