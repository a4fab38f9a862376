"""How a run ended, for each way a trainer can be gone."""

from typing import Any

import pytest

from app.domain.evidence import Clues, Evidence, derive_outcome
from tests.support.evidence import CASES, HALFWAY, LOST


@pytest.mark.parametrize(("evidence", "status", "reason"), [c[1:] for c in CASES],
                         ids=[c[0] for c in CASES])  # fmt: skip
def test_the_verdict_follows_the_evidence(
    evidence: dict[str, Any], status: str, reason: str | None
) -> None:
    outcome = derive_outcome(Evidence(cancel_asked=False, **evidence))
    assert (outcome.status, outcome.reason) == (status, reason)
    assert (outcome.detail is None) == (status == "succeeded")


@pytest.mark.parametrize("evidence", [c[1] for c in CASES], ids=[c[0] for c in CASES])
def test_after_a_cancel_every_end_is_cancelled(evidence: dict[str, Any]) -> None:
    outcome = derive_outcome(Evidence(cancel_asked=True, **evidence))
    assert (outcome.status, outcome.reason) == ("cancelled", "cancel_requested")


def test_the_detail_says_what_a_user_needs() -> None:
    def detail(**evidence: Any) -> str | None:
        return derive_outcome(Evidence(cancel_asked=False, **evidence)).detail

    assert detail(signal=9) == "Ended by SIGKILL (9)."
    assert detail(signal=9, **LOST) == "No report for 60 seconds. Ended by SIGKILL (9)."
    assert detail(exit_code=1, clues=Clues(last_line="CUDA out of memory")) == (
        "Exited with code 1. Its last log line: CUDA out of memory"
    )
    assert detail(exit_code=1, clues=Clues(error="ValueError: x", last_line="step 3")) == (
        "Exited with code 1. The last error in its log: ValueError: x"
    )
    assert detail(exit_code=1, clues=Clues(child_signal=9, follow_up="Connection closed")) == (
        "Exited with code 1. SIGKILL (9) ended one of its processes."
    )
    assert detail(exit_code=137, out_of_memory=True) == (
        "Exited with code 137. SIGKILL (9) ended one of its processes."
        " The kernel was out of memory."
    )
    assert detail(signal=6, clues=Clues(error="what(): CUDA error")) == (
        "Ended by SIGABRT (6). The last error in its log: what(): CUDA error"
    )
    assert detail(exit_code=1, stop_sent=True) == "Exited with code 1 after the stop signal."
    stopped = Evidence(cancel_asked=True, exit_code=0, stop_sent=True)
    assert derive_outcome(stopped).detail == "Exited with code 0 after the stop signal."
    assert detail(exit_code=0, **HALFWAY) == (
        "Exited with code 0 at step 5 of 10, without its last step."
    )
