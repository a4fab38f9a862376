"""Verifications: reading many checkpoints again, in the background, with progress.

start(tx, …)          records the request; the leading server's supervisor does the work
list_remaining(tx, …) the checkpoints still to read, also after a restart
record_…(tx, …)       records one finding at a time, so that none is lost
get(tx, …)            progress and findings

`verification` reads and checks the files; this module only keeps the records.
"""

from typing import Any, NamedTuple

from sqlalchemy import Executable, func, select

from app.db.sql import Tx, by_id, changing, columns, query, select_all
from app.db.tables import Checkpoint, Verification, VerificationFinding
from app.domain.ids import new_id
from app.domain.requests import VerifyRequest
from app.errors import NotFound
from app.services import verification
from app.services.verification import VerificationResult

MAX_FINDINGS = 1000
ATTESTED = "By the sizes and checksums that the object store keeps; no byte was read."

_verification, _finding = columns(Verification), columns(VerificationFinding)

_by_id = by_id(Verification)


@query(Verification)
def _unfinished() -> Executable:
    return (
        select_all(Verification)
        .where(_verification.finished_at.is_(None))
        .order_by(_verification.id)
    )


def _own(verification: str) -> Any:
    return _finding.verification_id == verification


@query(VerificationFinding)
def _findings(*, after: int, verification: str) -> Executable:
    return (
        select_all(VerificationFinding)
        .where(_own(verification), _finding.seq > after)
        .order_by(_finding.seq)
        .limit(MAX_FINDINGS)
    )


@query(tuple[str])
def _read(*, verification: str) -> Executable:
    return select(_finding.checkpoint_id).where(_own(verification))


@query(tuple[int | None])
def _last(*, verification: str) -> Executable:
    return select(func.max(_finding.seq)).where(_own(verification))


@query(tuple[str, int])
def _counts(*, verification: str) -> Executable:
    return (
        select(_finding.outcome, func.count()).where(_own(verification)).group_by(_finding.outcome)
    )


class Progress(NamedTuple):
    """A verification, how many checkpoints it found in which state, and some findings."""

    verification: Verification
    counts: dict[str, int]
    findings: list[VerificationFinding]


def start(tx: Tx, experiment_id: str, request: VerifyRequest) -> Progress:
    """Start a verification of the checkpoints that `request` selects.

    While one of the same checkpoints is under way, that one is returned. Raises NotFound.
    """
    wanted = (experiment_id, request.run_id, request.ckpt_path)
    selected = verification.select(tx, experiment_id, request)
    for unfinished in tx.all(_unfinished):
        if (unfinished.experiment_id, unfinished.run_id, unfinished.ckpt_path) == wanted:
            return get(tx, unfinished.id, experiment_id)
    started = Verification(
        id=new_id("vfy"), experiment_id=experiment_id, run_id=request.run_id,
        ckpt_path=request.ckpt_path, total=len(selected), created_at=tx.now,
        finished_at=None if selected else tx.now,
    )  # fmt: skip
    tx.insert(started)
    return Progress(started, {}, [])


def get(tx: Tx, verification_id: str, experiment_id: str, after: int = 0) -> Progress:
    """Return the progress of a verification, and its next findings behind number `after`.

    Raises NotFound.
    """
    job = tx.first(_by_id, verification_id)
    if job is None or job.experiment_id != experiment_id:
        raise NotFound(f"There is no verification {verification_id} in {experiment_id}.")
    counts = {row[0]: row[1] for row in tx.all(_counts, verification=job.id)}
    return Progress(job, counts, tx.all(_findings, verification=job.id, after=after))


def list_unfinished(tx: Tx) -> list[Verification]:
    """Return the verifications that are under way, oldest first."""
    return tx.all(_unfinished)


def list_remaining(tx: Tx, unfinished: Verification) -> list[Checkpoint]:
    """Return the checkpoints of a verification without a finding, of those known at its start."""
    request = VerifyRequest(run_id=unfinished.run_id, ckpt_path=unfinished.ckpt_path)
    read = {row[0] for row in tx.all(_read, verification=unfinished.id)}
    return [
        checkpoint
        for checkpoint in verification.select(tx, unfinished.experiment_id, request)
        if checkpoint.id not in read and checkpoint.created_at <= unfinished.created_at
    ]


def record_result(
    tx: Tx, verification_id: str, checkpoint: Checkpoint, result: VerificationResult | None
) -> None:
    """Record what was found of a checkpoint; None: it has no files here, and needs none."""
    how = ATTESTED if result is not None and result.is_attested else None
    for recorded in verification.record_results(tx, [result]) if result else [checkpoint]:
        _add(tx, verification_id, checkpoint, recorded.state, recorded.reason or how)


def record_unreadable(tx: Tx, verification_id: str, checkpoint: Checkpoint, why: str) -> None:
    """Record that a checkpoint could not be read; it stays what it is."""
    _add(tx, verification_id, checkpoint, verification.UNREADABLE, why)


def _add(
    tx: Tx, verification_id: str, checkpoint: Checkpoint, outcome: str, reason: str | None
) -> None:
    row = tx.first(_last, verification=verification_id)
    tx.insert(VerificationFinding(
        verification_id=verification_id, seq=((row and row[0]) or 0) + 1,
        checkpoint_id=checkpoint.id, ckpt_path=checkpoint.ckpt_path, outcome=outcome,
        reason=reason, at=tx.now,
    ))  # fmt: skip


def finish(tx: Tx, verification_id: str) -> None:
    """Record that every checkpoint of a verification has a finding. May be repeated."""
    tx.send(_finish, key=verification_id, finished_at=tx.now)


_finish = changing(Verification, frozenset({"finished_at"}))
