"""Marks: what people say about a checkpoint: a tag, a release tag, metrics; and the releases."""

from typing import NamedTuple

from sqlalchemy import Executable, func, select

from app.db.sql import Tx, columns, dump, load, query, select_all
from app.db.tables import Checkpoint, Event, Run, VerificationFinding
from app.domain import paths
from app.domain.gate import APPROVED, OPEN, RELEASE, Gate
from app.domain.lifecycle import CheckpointState
from app.domain.permissions import Permission
from app.domain.requests import MarkRequest
from app.errors import BadCheckpointPath, ReleaseGate, ReleaseTagTaken
from app.services import approvals, checkpoints, events, experiments, projects, runs

_checkpoint = columns(Checkpoint)


@query(Checkpoint)
def _by_release(*, experiment: str, release: str) -> Executable:
    return select_all(Checkpoint).where(
        _checkpoint.experiment_id == experiment,
        _checkpoint.release_tag == release,
    )


_finding, _event = columns(VerificationFinding), columns(Event)


@query(tuple[str | None])
def _verified(*, checkpoint: str) -> Executable:
    return select(func.max(_finding.at)).where(
        _finding.checkpoint_id == checkpoint,
        _finding.outcome == CheckpointState.READY.value,
    )


@query(tuple[str, str | None, str])
def _marks(*, experiment: str, until: str) -> Executable:
    return (
        select(_event.at, _event.run_id, _event.data)
        .where(
            _event.experiment_id == experiment,
            _event.type == "checkpoint.marked",
            _event.at <= until,
        )
        .order_by(_event.seq)
    )


class Release(NamedTuple):
    """A release as it was at some time."""

    release_tag: str
    ckpt_path: str
    checkpoint_id: str
    run_id: str
    tag_type: str
    metrics: dict[str, float]
    released_at: str


def mark(tx: Tx, experiment_id: str, request: MarkRequest, gate: Gate = OPEN) -> Checkpoint:
    """Put a tag, a release tag and metrics onto a checkpoint; the same again changes nothing.

    Args:
        gate: what every checkpoint must meet that becomes a release; its project may want more.

    Raises NotFound, NotPermitted, BadCheckpointPath, ReleaseTagTaken (it names the holder),
    ReleaseGate.
    """
    run = runs.get(tx, request.run_id, experiment_id)
    _check_path(run, request.ckpt_path)
    tx.require(Permission.WRITE, experiment_id)
    gate = projects.find_gate(tx, experiment_id, gate)
    approves = gate.needs_approval and request.tag_type == APPROVED
    checkpoint = checkpoints.declare(tx, run, request.ckpt_path)
    was_release = checkpoint.tag_type == RELEASE
    release_tag = request.release_tag or checkpoint.release_tag
    if approves or was_release or request.tag_type == RELEASE or release_tag is not None:
        tx.require(Permission.MAINTAIN, experiment_id)
    if request.release_tag is not None:
        _check_tag(tx, experiment_id, request.release_tag, request.ckpt_path)
    metrics = load(checkpoint.metrics) | request.metrics
    unchanged = (checkpoint.tag_type, checkpoint.release_tag, load(checkpoint.metrics)) == (
        request.tag_type, release_tag, metrics,
    )  # fmt: skip
    # Another one who approves changes nothing, and is on record.
    if unchanged and checkpoint.marked_at is not None and not approves:
        return checkpoint
    is_new = release_tag != checkpoint.release_tag
    if is_new or (request.tag_type == RELEASE and not was_release):
        _pass_gate(tx, gate, checkpoint, metrics)
    marked = checkpoints.change(
        tx, checkpoint, tag_type=request.tag_type, release_tag=release_tag,
        metrics=dump(metrics), marked_at=tx.now,
    )  # fmt: skip
    _tell(tx, marked, metrics, is_new)
    return marked


def _check_path(run: Run, ckpt_path: str) -> None:
    path = paths.parse(ckpt_path)
    if (path.experiment_id, path.run_id) != (run.experiment_id, run.id):
        raise BadCheckpointPath(
            f"A checkpoint of this run begins with /ckpts/{run.experiment_id}/{run.id}/.",
            errors=[{"pointer": "/ckpt_path", "detail": "belongs to another run"}],
        )


def _check_tag(tx: Tx, experiment_id: str, release_tag: str, ckpt_path: str) -> None:
    """Raise ReleaseTagTaken if another checkpoint of the experiment holds a release tag."""
    holder = tx.first(_by_release, experiment=experiment_id, release=release_tag)
    if holder is not None and holder.ckpt_path != ckpt_path:
        raise ReleaseTagTaken(
            f"Release tag {release_tag!r} is held by {holder.ckpt_path}; choose another tag.",
            ckpt_path=holder.ckpt_path,
            checkpoint_id=holder.id,
        )


def _tell(tx: Tx, marked: Checkpoint, metrics: dict[str, float], is_released: bool) -> None:
    events.append(
        tx, marked.experiment_id, "checkpoint.marked", run_id=marked.run_id,
        checkpoint_id=marked.id, ckpt_path=marked.ckpt_path, tag_type=marked.tag_type,
        release_tag=marked.release_tag, metrics=metrics,
    )  # fmt: skip
    if is_released:
        events.append(
            tx, marked.experiment_id, "checkpoint.released", run_id=marked.run_id,
            checkpoint_id=marked.id, ckpt_path=marked.ckpt_path, release_tag=marked.release_tag,
            metrics=metrics,
        )  # fmt: skip


def _pass_gate(tx: Tx, gate: Gate, checkpoint: Checkpoint, metrics: dict[str, float]) -> None:
    """Raise ReleaseGate if a checkpoint does not meet what a release must."""
    row = tx.first(_verified, checkpoint=checkpoint.id)
    times = [row[0] if row else None]
    if checkpoint.state == CheckpointState.READY:
        times.append(checkpoint.saved_at)  # that is when it was first found to be whole
    verified_at = max((at for at in times if at is not None), default=None)
    unmet = gate.list_unmet(metrics, verified_at, tx.now)
    if gate.needs_approval and approvals.find_approver(tx, checkpoint, metrics) is None:
        unmet.append(
            f"marked as `{APPROVED}` by another maintainer: nobody has, with these metrics"
        )
    if unmet:
        raise ReleaseGate(
            f"{checkpoint.ckpt_path} cannot be released. {'; '.join(unmet)}.", unmet=unmet
        )


def list_releases_at(tx: Tx, experiment_id: str, at: str | None = None) -> list[Release]:
    """Return the releases of an experiment as they were at a time, by tag. Raises NotFound.

    A checkpoint that was given another tag since had the earlier one until then.
    """
    experiments.get(tx, experiment_id)
    held: dict[str, Release] = {}
    for when, run_id, text in tx.all(_marks, experiment=experiment_id, until=at or tx.now):
        data = load(text)
        path, tag = data.get("ckpt_path"), data.get("release_tag")
        if path is None or tag is None or run_id is None:
            continue
        before = held.get(path)
        since = before.released_at if before and before.release_tag == tag else when
        held[path] = Release(
            tag, path, data["checkpoint_id"], run_id, data["tag_type"], data["metrics"], since
        )
    return sorted(held.values(), key=lambda release: release.release_tag)
