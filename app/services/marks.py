"""Marks: what people say about a checkpoint: a tag, a release tag, metrics."""

from sqlalchemy import Executable

from app.db.sql import Tx, columns, dump, load, query, select_all
from app.db.tables import Checkpoint
from app.domain import paths
from app.domain.permissions import Permission
from app.domain.requests import MarkRequest
from app.errors import BadCheckpointPath, ReleaseTagTaken
from app.services import checkpoints, events, runs

_checkpoint = columns(Checkpoint)


@query(Checkpoint)
def _by_release(*, experiment: str, release: str) -> Executable:
    return select_all(Checkpoint).where(
        _checkpoint.experiment_id == experiment,
        _checkpoint.release_tag == release,
    )


def mark(tx: Tx, experiment_id: str, request: MarkRequest) -> Checkpoint:
    """Put a tag, a release tag and metrics onto a checkpoint; the same again changes nothing.

    Raises NotFound, NotPermitted, BadCheckpointPath, ReleaseTagTaken (it names the holder).
    """
    run = runs.get(tx, request.run_id, experiment_id)
    path = paths.parse(request.ckpt_path)
    if (path.experiment_id, path.run_id) != (experiment_id, run.id):
        raise BadCheckpointPath(
            f"A checkpoint of this run begins with /ckpts/{experiment_id}/{run.id}/.",
            errors=[{"pointer": "/ckpt_path", "detail": "belongs to another run"}],
        )
    if request.release_tag is not None:
        tx.require(Permission.MAINTAIN, experiment_id)
        holder = tx.first(_by_release, experiment=experiment_id, release=request.release_tag)
        if holder is not None and holder.ckpt_path != request.ckpt_path:
            raise ReleaseTagTaken(
                f"Release tag {request.release_tag!r} is held by {holder.ckpt_path}; "
                "choose another tag.",
                ckpt_path=holder.ckpt_path,
                checkpoint_id=holder.id,
            )
    found = checkpoints.declare(tx, run, request.ckpt_path)
    release_tag = request.release_tag or found.release_tag
    metrics = load(found.metrics) | request.metrics
    unchanged = (found.tag_type, found.release_tag, load(found.metrics)) == (
        request.tag_type, release_tag, metrics,
    )  # fmt: skip
    if unchanged and found.marked_at is not None:
        return found
    marked = checkpoints.change(
        tx, found, tag_type=request.tag_type, release_tag=release_tag,
        metrics=dump(metrics), marked_at=tx.now,
    )  # fmt: skip
    events.append(
        tx, experiment_id, "checkpoint.marked", run_id=run.id, checkpoint_id=marked.id,
        ckpt_path=marked.ckpt_path, tag_type=marked.tag_type, release_tag=marked.release_tag,
        metrics=metrics,
    )  # fmt: skip
    if marked.release_tag is not None and marked.release_tag != found.release_tag:
        events.append(
            tx, experiment_id, "checkpoint.released", run_id=run.id, checkpoint_id=marked.id,
            ckpt_path=marked.ckpt_path, release_tag=marked.release_tag, metrics=metrics,
        )  # fmt: skip
    return marked
