"""An attempt that was given up, whose machine still sees the run's files, saves beside the next."""

from pathlib import Path

import pytest
from llm_train import checkpoint

from app.db.database import Database
from app.db.tables import Run
from app.services import live_runs
from app.supervisor import verifying
from app.supervisor.state import SupervisorState
from tests.support.stage import Stage
from tests.support.supervisor import Recorder, jobs, open_state

pytestmark = pytest.mark.anyio


def save(run: Run, data_dir: Path, step: int, attempt: int | None) -> None:
    """A trainer commits a checkpoint, and never reports it."""
    name = f"step-{step:06d}"
    folder = checkpoint.begin(data_dir / "ckpts" / run.experiment_id / run.id, name)
    (folder / "state.bin").write_bytes(bytes(100))
    checkpoint.commit(folder, name, step, attempt=attempt)


async def take_in(stage: Stage, state: SupervisorState) -> None:
    """The end of the run's current attempt: all that it committed is verified."""
    (run,) = await stage.db.read(live_runs.list_launched)
    while await verifying.verify_committed(state, run) is None:
        await jobs(state)


async def test_what_an_earlier_attempt_saves_beside_the_next_one_is_not_taken(
    db: Database, tmp_path: Path
) -> None:
    """Control: without the look at the manifest's attempt, step 7 is one of the run's."""
    stage = await Stage.open(db)
    state = open_state(db, tmp_path, Recorder())
    run = await stage.claim(await stage.submit())
    save(run, tmp_path, 5, attempt=1)
    await take_in(stage, state)
    run = await stage.claim(await stage.retries(run, exit_code=1))
    save(run, tmp_path, 6, attempt=2)
    save(run, tmp_path, 7, attempt=1)
    save(run, tmp_path, 8, attempt=None)  # a trainer that does not say
    await take_in(stage, state)
    found = {each.ckpt_path[-6:]: each.state for each in await stage.checkpoints(run)}
    assert found == {"000005": "ready", "000006": "ready", "000008": "ready"}
