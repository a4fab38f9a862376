"""Verifying: what was announced or found is read, in the background, before it is ready.

A checkpoint may hold 100 GB: no step waits for the reading. Its result is recorded unless
the record changed meanwhile, and its end wakes the loop.
"""

import asyncio
import logging
from collections.abc import Iterable

from app.db.tables import Checkpoint, Verification
from app.domain import paths
from app.domain.lifecycle import GONE
from app.domain.lifecycle import CheckpointState as State
from app.domain.paths import CheckpointPath
from app.errors import CheckpointUnreadable
from app.services import checkpoints, retention, runs, verification, verifications
from app.services.launches import Source
from app.services.live_runs import LiveRun
from app.services.verification import VerificationResult
from app.storage.base import CheckpointStorage, Damaged
from app.supervisor.state import SupervisorState

PATIENCE_SECONDS = 60.0
"""The time for which an unreadable file is tried again, in listening seconds."""
FIRST_PAUSE, LONGEST_PAUSE = 1.0, 8.0
_REQUESTED = "the requested verification"

log = logging.getLogger(__name__)


async def verify(state: SupervisorState) -> None:
    """Look at every checkpoint that was announced and not yet seen."""
    waiting = [
        pending
        for pending in await state.db.read(checkpoints.list_pending)
        if pending.ckpt_path not in state.jobs
    ]
    if waiting:  # the disk may hang: that must hold up the steps only, not the server
        for saved in await asyncio.to_thread(_list_present, state.storage, waiting):
            begin(state, paths.parse(saved.ckpt_path), saved.sha256)


async def verify_requested(state: SupervisorState) -> None:
    """Work off the verifications that operators asked for, one at a time."""
    unfinished = await state.db.read(verifications.list_unfinished)
    if unfinished and _REQUESTED not in state.jobs:
        state.start_job(_REQUESTED, _work_off(state, unfinished[0]))


async def _work_off(state: SupervisorState, unfinished: Verification) -> None:
    """Read what has no finding yet; another server goes on from there."""
    for checkpoint in await state.db.scan(verifications.list_remaining, unfinished):
        if not await state.has_data_dir():
            await asyncio.sleep(LONGEST_PAUSE)
            return
        about = (unfinished.id, checkpoint)
        try:
            result = await _read_again(state, checkpoint)
        except CheckpointUnreadable as error:
            await state.db.write(verifications.record_unreadable, *about, error.detail)
        except Exception:  # one hostile checkpoint must not end the verification of the others
            log.exception("%s could not be verified", checkpoint.ckpt_path)
            why = "It could not be read; the log of the server says why."
            await state.db.write(verifications.record_unreadable, *about, why)
        else:
            await state.db.write(verifications.record_result, *about, result)
    await state.db.write(verifications.finish, unfinished.id)


async def _read_again(state: SupervisorState, checkpoint: Checkpoint) -> VerificationResult | None:
    """Return None for one that was never here (an external run's, kept elsewhere): not lost."""
    path = paths.parse(checkpoint.ckpt_path)
    exists = checkpoint.state != State.DECLARED or await asyncio.to_thread(
        state.storage.exists, path
    )
    return await state.verify_files(path, checkpoint.sha256) if exists else None


def has_unread(state: SupervisorState, known: list[Checkpoint]) -> bool:
    """Return True if one of these checkpoints has files that are not yet verified."""
    unseen = [
        checkpoint
        for checkpoint in known
        if checkpoint.state == State.PENDING and checkpoint.stored_as_id is None
    ]
    return bool(_list_present(state.storage, unseen))


def _list_present(storage: CheckpointStorage, waiting: list[Checkpoint]) -> list[Checkpoint]:
    return [
        checkpoint for checkpoint in waiting if storage.exists(paths.parse(checkpoint.ckpt_path))
    ]


def begin(
    state: SupervisorState, path: CheckpointPath, expected: str | None, *, last: bool = False
) -> None:
    """Start reading one checkpoint, unless that is under way."""
    if str(path) not in state.jobs:
        state.start_job(str(path), check(state, path, expected, last=last))


async def check(
    state: SupervisorState, path: CheckpointPath, expected: str | None, *, last: bool
) -> None:
    """Read a checkpoint and records what was found.

    One that cannot be read stays what it is; with `last`, for want of its trainer, it is lost
    when the patience is over.
    """
    about = str(path)
    finding = await read(state, about, path, expected)
    if finding is None and not last:
        await asyncio.sleep(LONGEST_PAUSE)  # and begins anew
        return
    if finding is None:
        finding = VerificationResult(path, expected, state.unreadable[about][1])
    state.unreadable.pop(about, None)
    await record(state, finding)


async def read(
    state: SupervisorState, about: str, path: CheckpointPath, expected: str | None
) -> VerificationResult | None:
    """Compare the files with their manifest, every byte.

    What cannot be read now is tried again, for a minute of all the work `about` it. None: it
    still cannot be read, and `state.unreadable[about]` says why.
    """
    pause = FIRST_PAUSE
    while True:
        try:
            return await state.verify_files(path, expected)
        except CheckpointUnreadable as error:
            since = (
                state.unreadable[about][0] if about in state.unreadable else state.listening_seconds
            )
            state.unreadable[about] = since, error.detail
        if state.listening_seconds - since >= PATIENCE_SECONDS:
            return None
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


async def record(state: SupervisorState, finding: VerificationResult) -> Checkpoint | None:
    """Record what was found; return the checkpoint as it is then."""
    recorded = next(iter(await state.db.write(verification.record_results, [finding])), None)
    if recorded is not None and recorded.state == State.READY:
        run = await state.db.read(runs.get, recorded.run_id)
        recipe = state.recipe(run)
        if recipe is not None and (rule := retention.rule_of(recipe)):
            state.over_limit[run.id] = rule
    return recorded


async def verify_committed(state: SupervisorState, run: LiveRun) -> frozenset[str] | None:
    """Verify all that a dead trainer committed, announced or not; return the ids of the
    promised checkpoints that have no files. None: something is still being read."""
    known = {
        checkpoint.ckpt_path: checkpoint
        for checkpoint in await state.db.read(checkpoints.list_of_run, run.id)
    }
    try:
        committed = await asyncio.to_thread(state.storage.list_run, run.experiment_id, run.id)
    except CheckpointUnreadable:  # each that was promised is tried then, and has its minute
        promised = [
            checkpoint for checkpoint in known.values() if checkpoint.state == State.PENDING
        ]
        committed = [paths.parse(e.ckpt_path) for e in promised if e.stored_as_id is None]
    pending = [c for c in known.values() if c.state == State.PENDING and c.stored_as_id is None]
    unlisted = {paths.parse(entry.ckpt_path) for entry in pending} - set(committed)
    if unlisted:  # a listing of an object store may lag
        committed = [*committed, *await asyncio.to_thread(_list_committed, state.storage, unlisted)]
    own = await asyncio.to_thread(_drop_stale, state.storage, committed, set(known), run.attempt)
    reading = False
    for path in own:
        checkpoint = known.pop(str(path), None)
        if checkpoint is None or checkpoint.state in (State.PENDING, State.DECLARED):
            begin(state, path, checkpoint.sha256 if checkpoint else None, last=True)
            reading = True
    if reading:
        return None
    return frozenset(
        checkpoint.id for checkpoint in known.values() if checkpoint.state == State.PENDING
    )


def _list_committed(
    storage: CheckpointStorage, candidates: Iterable[CheckpointPath]
) -> list[CheckpointPath]:
    """Return those that have a manifest, or may have one."""
    committed = []
    for path in candidates:
        try:
            storage.manifest(path)
        except Damaged:
            continue
        except CheckpointUnreadable:
            pass  # each has its minute
        committed.append(path)
    return committed


def _drop_stale(
    storage: CheckpointStorage, committed: Iterable[CheckpointPath], known: set[str], attempt: int
) -> list[CheckpointPath]:
    """Return these checkpoints without those that an earlier attempt committed by itself.

    Its machine was cut off, and sees the same files: what was not on record when that attempt was
    given up belongs to no attempt that counts. It stays on disk as long as the run.
    """
    stale = []
    for path in committed:
        if str(path) not in known:
            try:
                by = storage.manifest(path).attempt
            except (Damaged, CheckpointUnreadable):
                by = None  # reading the files says what is wrong
            if by is not None and by < attempt:
                continue
        stale.append(path)
    return stale


async def find_good_source(
    state: SupervisorState, about: str, candidates: list[Source]
) -> tuple[Source | None, str | None]:
    """Return the first candidate whose files match their manifest; damaged ones become lost.

    One that cannot be read is waited for, then passed over as it is: the second answer says so
    of the first candidate. A checkpoint that was ready may be replaced by the next good one.
    One that a client declared either exists or does not.
    """
    why: str | None = None
    for candidate in candidates:
        stored = candidate.stored
        if stored.state == State.EMPTY:
            return candidate, why
        if stored.state in GONE:
            continue
        finding = await read(state, about, paths.parse(stored.ckpt_path), stored.sha256)
        if finding is not None:
            recorded = await record(state, finding)
            if recorded is not None and recorded.state == State.READY:
                return Source(
                    recorded if candidate.named.id == stored.id else candidate.named, recorded
                ), why
        elif candidate is candidates[0]:
            why = state.unreadable[about][1]
        if stored.state == State.DECLARED:
            return None, why
    return None, why
