"""Retention keeps the newest, and never takes what somebody needs."""

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from llm_train import checkpoint
from llm_train.checkpoint import Quality

from app.db.database import Database
from app.db.sql import Tx
from app.db.tables import Checkpoint, Run
from app.domain import paths
from app.domain.lifecycle import RunStatus
from app.domain.paths import CheckpointPath
from app.domain.requests import MarkRequest, ResumeRequest
from app.errors import Busy, CheckpointLost, CheckpointUnreadable
from app.services import (
    checkpoints,
    launches,
    marks,
    resuming,
    retention,
    runs,
    saves,
    verification,
)
from app.settings import Settings
from app.storage import data_dir as data_dir_file
from app.storage import get_storage
from app.supervisor.cleanup import clean_up
from app.supervisor.state import SupervisorState
from tests.support.database import Databases
from tests.support.disk import make_busy
from tests.support.stage import RECIPES, Stage, manifest

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def database_url(databases: Databases) -> str:
    """One database for all: each test has an experiment of its own."""
    return databases.migrated()


async def trained(stage: Stage, steps: int = 6) -> Run:
    """A live run that has saved at each of its steps."""
    run = await stage.run("running")
    for step in range(1, steps + 1):
        await stage.saves(run, f"s{step}", step, content=str(step))
    return await stage.get(run)


async def left(stage: Stage, run: Run) -> list[str]:
    ready = await stage.db.read(checkpoints.list_ready, run.id)
    return sorted(each.ckpt_path.rsplit("/", 1)[1] for each in ready)


async def pending_deletion(stage: Stage, run: Run) -> list[Checkpoint]:
    """The deleted checkpoints of a run whose files may still be there."""
    found = await stage.db.read(retention.list_pending_deletion)
    return [each for each in found if each.run_id == run.id]


def place_of(data_dir: Path, path: object) -> Path:
    return data_dir / str(path).lstrip("/")


def remove(data_dir: Path, deleted: Checkpoint) -> None:
    storage = get_storage("directory:", data_dir)
    storage.delete(paths.parse(deleted.ckpt_path), deleted.sha256)


async def resume(stage: Stage, run: Run, name: str) -> Run:
    path = f"/ckpts/{run.experiment_id}/{run.id}/{name}"
    return await stage.db.write(resuming.resume, run.id, ResumeRequest(ckpt_path=path), RECIPES)


async def test_the_newest_stay_and_the_dry_run_says_what_goes(db: Database) -> None:
    stage = await Stage.open(db)
    run = await trained(stage)
    plan = await db.scan(retention.plan, {"tiny": 2}, stage.experiment)
    assert [each.step for each in plan] == [4, 3, 2, 1]
    assert await left(stage, run) == ["s1", "s2", "s3", "s4", "s5", "s6"], "a dry run is dry"

    deleted = await db.write(retention.delete, run.id, 2)
    assert [each.id for each in deleted] == [each.id for each in plan]
    assert await left(stage, run) == ["s5", "s6"]
    assert [e.type for e in await stage.events()][-4:] == ["checkpoint.deleted"] * 4
    assert await db.scan(retention.plan, {"tiny": 2}, stage.experiment) == []
    with pytest.raises(CheckpointLost, match="Retention"):
        await resume(stage, run, "s1")


async def test_a_recipe_that_keeps_all_has_no_surplus(db: Database) -> None:
    stage = await Stage.open(db)
    await trained(stage)
    assert await db.scan(retention.plan, {"other": 1}) == []
    assert await db.scan(retention.plan, {"tiny": 1}, "exp_of_somebody_else") == []


async def test_one_number_for_all_holds_for_recipes_that_are_no_longer_configured(
    db: Database,
) -> None:
    stage = await Stage.open(db)
    await trained(stage)
    expected = await db.scan(retention.plan, {"tiny": 2}, stage.experiment)
    assert await db.scan(retention.plan, 2, stage.experiment) == expected != []


async def test_a_marked_checkpoint_is_never_taken(db: Database) -> None:
    stage = await Stage.open(db)
    run = await trained(stage)
    path = f"/ckpts/{run.experiment_id}/{run.id}/s2"
    mark = MarkRequest(run_id=run.id, ckpt_path=path, tag_type="candidate")
    await db.write(marks.mark, run.experiment_id, mark)
    await db.write(retention.delete, run.id, 1)
    assert await left(stage, run) == ["s2", "s6"]


async def test_the_source_of_a_run_is_kept_until_that_run_is_over(db: Database) -> None:
    stage = await Stage.open(db)
    run = await trained(stage)
    child = await resume(stage, run, "s3")
    await db.write(retention.delete, run.id, 1)
    assert await left(stage, run) == ["s3", "s6"], "queued"

    child = await stage.claim(child)
    await db.write(retention.delete, run.id, 1)
    assert await left(stage, run) == ["s3", "s6"], "launched"

    await stage.ends(child, exit_code=3)
    await db.write(retention.delete, run.id, 1)
    assert await left(stage, run) == ["s6"], "over"


async def test_what_a_cancelled_runs_path_stands_for_is_kept(db: Database) -> None:
    stage = await Stage.open(db)
    run = await trained(stage, 2)
    child = await resume(stage, run, "s1")
    await db.write(runs.cancel, child.id)
    assert (await stage.named(child, "cancel-0")).state == "ready"
    await db.write(retention.delete, run.id, 1)
    assert await left(stage, run) == ["s1", "s2"]


async def test_a_promise_that_was_found_before_the_saves_before_it_were_reported_is_the_newest(
    db: Database,
) -> None:
    """The trainer saves often, is cancelled, saves the promised one: its files are there before
    its last reports are."""
    stage = await Stage.open(db)
    run = await trained(stage, 1)
    await db.write(runs.cancel, run.id)
    path = CheckpointPath(run.experiment_id, run.id, "cancel-1")
    await db.write(saves.apply_verification, path, None, manifest(4))

    await stage.saves(run, "s2", 2, content="2")
    await stage.saves(run, "s3", 3, content="3")
    await db.write(retention.delete, run.id, 1)
    assert await left(stage, run) == ["cancel-1", "s3"], "what was promised is kept"

    await stage.saves(run, "cancel-1", 4)
    newest = await db.read(checkpoints.get_newest_ready, run.id)
    assert newest is not None and newest.ckpt_path == str(path)
    await db.write(retention.delete, run.id, 1)
    assert await left(stage, run) == ["cancel-1"]


async def test_what_a_live_attempt_started_from_is_kept(db: Database) -> None:
    stage = await Stage.open(db)
    run = await trained(stage, 2)
    queued = await db.write(lambda tx: runs.move(tx, runs.get(tx, run.id), RunStatus.QUEUED))
    again = await stage.claim(queued)
    assert again.start_step == 2
    for step in (3, 4):
        await stage.saves(again, f"s{step}", step, content=str(step))
    await db.write(retention.delete, run.id, 1)
    assert await left(stage, run) == ["s2", "s4"]
    assert await db.read(launches.list_sources, await stage.get(run))


async def test_files_go_after_the_record_and_a_crash_in_between_is_made_good(
    db: Database, tmp_path: Path
) -> None:
    stage = await Stage.open(db)
    run = await trained(stage, 3)
    for name in await left(stage, run):
        directory = place_of(tmp_path, (await stage.named(run, name)).ckpt_path)
        directory.mkdir(parents=True)
        (directory / "weights").write_text("1")
    first, second = await db.write(retention.delete, run.id, 1)
    # The server dies here once, and once in the middle of the removal.
    remove(tmp_path, first)
    directory = place_of(tmp_path, second.ckpt_path)
    shutil.move(directory, directory.with_name(".trash-s2"))

    doomed = await pending_deletion(stage, run)
    assert {each.id for each in doomed} == {first.id, second.id}
    for each in doomed:
        remove(tmp_path, each)
    await db.write(retention.record_files_removed, doomed)

    assert not await pending_deletion(stage, run)
    assert [each.name for each in directory.parent.iterdir()] == ["s3"]
    assert {(await stage.named(run, name)).state for name in ("s1", "s2")} == {"deleted"}
    assert (await stage.named(run, "s1")).files_removed_at is not None


async def test_what_cannot_be_deleted_keeps_nothing_else_on_the_disk(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = await Stage.open(db)
    run = await trained(stage, 4)
    s1, s2, s3, s4 = [
        place_of(tmp_path, (await stage.named(run, name)).ckpt_path)
        for name in await left(stage, run)
    ]
    for each in (s1, s2, s3, s4):
        each.mkdir(parents=True)
    make_busy(monkeypatch, s1)
    elsewhere = tmp_path / "a larger disk"  # where an operator has moved it
    s2.rename(elsewhere)
    s2.symlink_to(elsewhere)
    settings = Settings(data_dir=tmp_path)
    state = SupervisorState(db, settings, {}, "s" * 32, {}, "http://127.0.0.1:1")

    state.over_limit[run.id] = 1
    await clean_up(state)
    await asyncio.gather(*[job for job, _ in state.jobs.values()])

    kept = {each.name for each in s4.parent.iterdir()}
    assert kept == {"s1", "s4"}
    assert elsewhere.is_dir()
    doomed = await pending_deletion(stage, run)
    assert [each.step for each in doomed] == [1], "it is tried again"
    shutil.rmtree(s1.parent)
    await db.write(retention.record_files_removed, doomed)


async def test_what_is_elsewhere_for_a_while_is_not_taken_for_deleted(
    db: Database, tmp_path: Path
) -> None:
    stage = await Stage.open(db)
    run = await trained(stage, 2)
    data_dir = tmp_path / "mounted"
    settings = Settings(data_dir=data_dir)
    state = SupervisorState(db, settings, {}, "s" * 32, {}, "http://127.0.0.1:1")
    state.data_dir = data_dir_file.get_name(data_dir)
    files = place_of(data_dir, (await stage.named(run, "s1")).ckpt_path)
    files.mkdir(parents=True)

    async def removed() -> bool:
        state.pending_deletion = True
        await clean_up(state)
        await asyncio.gather(*[job for job, _ in state.jobs.values()])
        s1 = await stage.named(run, "s1")
        assert s1.state == "deleted"
        return s1.files_removed_at is not None

    state.over_limit[run.id] = 1
    data_dir.rename(tmp_path / "away")
    assert not await removed()
    (tmp_path / "away").rename(data_dir)
    assert await removed() and not files.exists()


async def test_a_name_written_again_while_its_old_files_go_is_a_checkpoint(db: Database) -> None:
    stage = await Stage.open(db)
    run = await trained(stage, 3)
    removed = await db.write(retention.delete, run.id, 1)
    await stage.saves(run, "s1", 1, "written again")
    await db.write(retention.record_files_removed, removed)
    again = await stage.named(run, "s1")
    assert (again.state, again.reason) == ("ready", None)


async def test_a_checkpoint_committed_under_the_name_of_a_deleted_one_keeps_its_files(
    db: Database, tmp_path: Path
) -> None:
    """As of trainers that write into two places in turn."""
    stage = await Stage.open(db)
    run = await stage.run("running")

    async def saves(name: str, step: int) -> Path:
        path = CheckpointPath(run.experiment_id, run.id, name)
        directory = place_of(tmp_path, path)
        temporary = checkpoint.begin(directory.parent, name)
        (temporary / "weights").write_text(str(step))
        shutil.rmtree(directory, ignore_errors=True)
        _, manifest = checkpoint.commit(temporary, name, step)
        saved = {"name": name, "step": step, "sha256": manifest.sha256}
        await stage.report(run, checkpoints=[saved])
        finding = verification.verify_files(
            get_storage("directory:", tmp_path), path, manifest.sha256
        )
        await db.write(verification.record_results, [finding])
        return directory

    await saves("a", 1)
    await saves("b", 2)
    deleted = await db.write(retention.delete, run.id, 1)
    assert [each.step for each in deleted] == [1]
    again = await saves("a", 3)
    for each in deleted:
        remove(tmp_path, each)
    await db.write(retention.record_files_removed, deleted)
    assert (await stage.named(run, "a")).state == "ready"
    assert checkpoint.verify(again).step == 3

    deleted = await db.write(retention.delete, run.id, 1)
    assert [each.step for each in deleted] == [2]
    for each in deleted:
        remove(tmp_path, each)
    assert [each.name for each in again.parent.iterdir()] == ["a"], "the control"


async def test_a_link_in_the_place_of_a_runs_directory_leads_to_no_foreign_files(
    db: Database, tmp_path: Path
) -> None:
    """A trainer has swapped it: nothing is verified, deleted or swept there."""
    stage = await Stage.open(db)
    run = await trained(stage, 2)
    s1 = await stage.named(run, "s1")
    path = paths.parse(s1.ckpt_path)
    foreign = tmp_path / "foreign"
    temporary = checkpoint.begin(foreign, "s1")
    (temporary / "weights").write_text("of somebody else")
    _, manifest = checkpoint.commit(temporary, "s1", 1)
    (foreign / ".tmp-theirs").mkdir()
    swapped = place_of(tmp_path, s1.ckpt_path).parent
    swapped.parent.mkdir(parents=True)
    swapped.symlink_to(foreign)

    with pytest.raises(CheckpointUnreadable, match="is not a directory of the service"):
        verification.verify_files(get_storage("directory:", tmp_path), path, manifest.sha256)
    for each in await db.write(retention.delete, run.id, 1):
        with pytest.raises(CheckpointUnreadable, match="is not a directory of the service"):
            remove(tmp_path, each)
    storage = get_storage("directory:", tmp_path)
    with pytest.raises(CheckpointUnreadable):
        storage.remove_drafts(run.experiment_id, run.id)
    assert storage.size(path, 1 << 30) == 0
    assert checkpoint.verify(foreign / "s1") == manifest
    assert (foreign / ".tmp-theirs").exists()
    swapped.unlink()


async def test_two_stages_that_each_count_from_one_keep_the_work_of_the_last(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    for name, step in (("sft-200", 200), ("sft-400", 400), ("dpo-100", 100), ("dpo-200", 200)):
        await stage.saves(run, name, step, name)
        await db.write(retention.delete, run.id, 2)
    assert await left(stage, run) == ["dpo-100", "dpo-200"]


async def test_a_run_whose_deletion_was_turned_away_is_not_forgotten(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when too many writes wait: the next turn deletes, not the look at all runs after ten
    minutes."""
    stage = await Stage.open(db)
    run = await trained(stage, 2)
    state = SupervisorState(db, Settings(data_dir=tmp_path), {}, "s" * 32, {}, "http://127.0.0.1:1")
    state.cleaned_up_at = time.monotonic()
    state.over_limit[run.id] = 1
    with monkeypatch.context() as busy:
        busy.setattr(retention, "delete", refused)
        with pytest.raises(Busy):
            await clean_up(state)
    assert await left(stage, run) == ["s1", "s2"]

    await clean_up(state)
    assert await left(stage, run) == ["s2"] and not state.over_limit


async def test_a_checkpoint_that_is_verified_during_a_deletion_is_counted_by_the_next(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same rule again was taken for the one that was just applied: it waited ten minutes."""
    stage = await Stage.open(db)
    run = await trained(stage, 2)
    state = SupervisorState(db, Settings(data_dir=tmp_path), {}, "s" * 32, {}, "http://127.0.0.1:1")
    state.cleaned_up_at = time.monotonic()
    state.over_limit[run.id] = 1
    delete = retention.delete

    def delete_while_another_is_verified(tx: Tx, run_id: str, keep: retention.Limit) -> Any:
        deleted = delete(tx, run_id, keep)
        state.over_limit[run_id] = keep  # as `verifying.record` does
        return deleted

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(retention, "delete", delete_while_another_is_verified)
        await clean_up(state)
    await stage.saves(run, "s3", 3, "s3")
    await clean_up(state)
    assert await left(stage, run) == ["s3"] and not state.over_limit


def refused(tx: Tx, run_id: str, keep: int) -> None:
    raise Busy("Too much is waiting.", retry_after=1)


async def test_what_was_deleted_is_told_apart_from_what_was_lost(db: Database) -> None:
    stage = await Stage.open(db)
    run = await trained(stage, 3)
    s2 = await stage.named(run, "s2")
    path = CheckpointPath(run.experiment_id, run.id, "s2")
    await db.write(saves.apply_verification, path, s2.sha256, "It is damaged.")
    await db.write(retention.delete, run.id, 1)
    states = {each.ckpt_path.rsplit("/", 1)[1]: each.state for each in await stage.checkpoints(run)}
    assert states == {"s1": "deleted", "s2": "lost", "s3": "ready"}
    assert [each.step for each in await pending_deletion(stage, run)] == [1]
    with pytest.raises(CheckpointLost, match="is deleted: Retention deleted it"):
        await resume(stage, run, "s1")

    s1 = {"name": "s1", "step": 1, "sha256": manifest(1, "1").sha256}
    await stage.report(run, checkpoints=[s1])
    assert (await stage.named(run, "s1")).state == "deleted", "told once more, it is not back"


async def saves_as(stage: Stage, run: Run, step: int, **quality: Any) -> None:
    await stage.saves(run, f"s{step}", step, content=str(step), quality=Quality(**quality))


async def test_the_best_by_a_metric_stays_besides_the_newest(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    for step, loss in enumerate((3.0, 1.0, 2.0, 2.5, 2.7), start=1):
        await saves_as(stage, run, step, metrics={"eval_loss": loss, "acc": loss})
    lowest, highest = retention.Rule(2, "eval_loss"), retention.Rule(2, "acc", highest=True)
    unknown = retention.Rule(2, "other")
    for rule, steps in ((lowest, [3, 1]), (highest, [3, 2]), (unknown, [3, 2, 1])):
        plan = await db.scan(retention.plan, {"tiny": rule}, stage.experiment)
        assert [each.step for each in plan] == steps
    deleted = await db.write(retention.delete, run.id, lowest)
    assert await left(stage, run) == ["s2", "s4", "s5"]
    assert deleted[0].reason == (
        "Retention deleted it: of this run the newest 2 are kept, and the best by eval_loss."
    )
    kept = await stage.named(run, "s2")
    assert (kept.metrics, kept.healthy) == ('{"eval_loss":1.0,"acc":1.0}', None)


async def test_checkpoints_with_nan_never_take_the_place_of_good_ones(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    for step in (1, 2, 3):
        await saves_as(stage, run, step, metrics={"eval_loss": 1.0 + step}, healthy=True)
    await saves_as(stage, run, 4, metrics={"eval_loss": float("nan")})
    await saves_as(stage, run, 5, metrics={"eval_loss": 0.0}, healthy=False)
    await saves_as(stage, run, 6, healthy=False)
    await db.write(retention.delete, run.id, retention.Rule(2, "eval_loss"))
    assert await left(stage, run) == ["s1", "s2", "s3", "s6"], "newest two, best and last"
    await stage.retries(run, exit_code=1)
    sources = await db.read(launches.list_sources, await stage.get(run))
    assert [each.stored.step for each in sources] == [3, 2, 1, 6], "a retry starts from a good one"
    child = await db.write(resuming.resume, run.id, ResumeRequest(), RECIPES)
    assert (child.source_ckpt_path or "").endswith("/s3"), "and so does a resume"


async def test_where_none_is_good_the_newest_stay(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    for step in (1, 2, 3, 4):
        await saves_as(stage, run, step, healthy=False)
    await db.write(retention.delete, run.id, 2)
    assert await left(stage, run) == ["s3", "s4"]
