"""Releases as files: which checkpoint is exported under a release tag."""

from typing import NamedTuple

from sqlalchemy import Executable

from app.db.sql import Tx, columns, query, select_all
from app.db.tables import Checkpoint
from app.domain import paths
from app.domain.lifecycle import CheckpointState
from app.domain.paths import CheckpointPath
from app.errors import CheckpointLost, NotFound
from app.services import checkpoints, experiments

_checkpoint = columns(Checkpoint)


class Released(NamedTuple):
    """A release: the path of its files, and the digest of their manifest."""

    path: CheckpointPath
    sha256: str | None


@query(Checkpoint)
def _by_release(*, experiment: str, release: str) -> Executable:
    return select_all(Checkpoint).where(
        _checkpoint.experiment_id == experiment, _checkpoint.release_tag == release
    )


def find(tx: Tx, experiment_id: str, release_tag: str) -> Released:
    """Return the files of a release. Raises NotFound; CheckpointLost if there are no good ones."""
    experiments.get(tx, experiment_id)
    checkpoint = tx.first(_by_release, experiment=experiment_id, release=release_tag)
    if checkpoint is None:
        raise NotFound(f"There is no release {release_tag!a} in this experiment.")
    stored = checkpoints.get_stored(tx, checkpoint)
    if stored.state != CheckpointState.READY:
        raise CheckpointLost(
            f"{checkpoint.ckpt_path} is {stored.state}: there is nothing to export.",
            ckpt_path=checkpoint.ckpt_path,
        )
    return Released(paths.parse(stored.ckpt_path), stored.sha256)
