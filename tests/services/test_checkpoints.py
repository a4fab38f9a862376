"""Promises and findings: whatever happens, a checkpoint's state is what is known of its files."""

import pytest
from llm_train.checkpoint import Manifest

from app.db.database import Database
from app.db.tables import Checkpoint, Run
from app.domain.evidence import Evidence
from app.domain.lifecycle import Reason, RunStatus
from app.domain.paths import CheckpointPath
from app.domain.recipes import Recipe
from app.domain.requests import MarkRequest, ResumeRequest
from app.errors import CheckpointLost, Conflict
from app.services import checkpoints, endings, launches, marks, resuming, runs, saves
from tests.support.database import Databases
from tests.support.stage import RECIPES, Stage, manifest

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def database_url(databases: Databases) -> str:
    """One database for all: each test has an experiment of its own."""
    return databases.migrated()


async def judge(stage: Stage, found: Checkpoint, verdict: Manifest | str) -> Checkpoint | None:
    """Verification has looked at a checkpoint as it is on record."""
    _, _, _, run, name = found.ckpt_path.split("/")
    path = CheckpointPath(found.experiment_id, run, name)
    return await stage.db.write(saves.apply_verification, path, found.sha256, verdict)


async def resumed(stage: Stage, run: Run) -> Run:
    return await stage.db.write(resuming.resume, run.id, ResumeRequest(), RECIPES)


async def cancelled(stage: Stage, run: Run) -> Checkpoint:
    return (await stage.db.write(runs.cancel, run.id)).checkpoint


@pytest.mark.parametrize(("verdict", "state"), [(manifest(5), "ready"), ("It is damaged.", "lost")])
async def test_a_child_cancelled_in_the_queue_shares_the_fate_of_a_pending_source(
    db: Database, verdict: Manifest | str, state: str
) -> None:
    stage = await Stage.open(db)
    parent = await stage.run("cancelling")
    child = await resumed(stage, parent)

    promised = await cancelled(stage, child)
    assert promised.state == "pending"
    await judge(stage, await stage.named(parent, "cancel-1"), verdict)

    assert (await stage.named(child, "cancel-0")).state == state


async def test_a_child_of_a_promise_that_fell_back_starts_from_the_fallback(db: Database) -> None:
    stage = await Stage.open(db)
    parent = await stage.run("cancelling", saved=True)
    child = await resumed(stage, parent)
    promised = await cancelled(stage, child)

    await stage.ends(parent, signal=9)

    fallback = await stage.named(parent, "step-000005")
    for path in (
        await stage.named(parent, "cancel-1"),
        await db.read(checkpoints.get, promised.id),
    ):
        assert (path.state, path.step, path.sha256) == ("ready", 5, fallback.sha256)
        assert (await db.read(checkpoints.get_stored, path)).id == fallback.id

    await judge(stage, fallback, "It is damaged.")
    assert (await stage.named(parent, "cancel-1")).state == "lost"
    assert (await stage.named(child, "cancel-0")).state == "lost"


async def test_a_declared_source_that_is_not_there_takes_the_promises_on_it_along(
    db: Database,
) -> None:
    stage = await Stage.open(db)
    parent = await stage.run("running")
    path = f"/ckpts/{parent.experiment_id}/{parent.id}/mine"
    child = await db.write(resuming.resume, parent.id, ResumeRequest(ckpt_path=path), RECIPES)
    assert (await cancelled(stage, child)).state == "declared"

    await judge(stage, await stage.named(parent, "mine"), "It is not there.")

    assert (await stage.named(child, "cancel-0")).state == "lost"
    with pytest.raises(CheckpointLost, match="lost"):
        await db.write(resuming.resume, parent.id, ResumeRequest(ckpt_path=path), RECIPES)


async def test_a_path_that_a_client_named_first_is_promised_all_the_same(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    path = f"/ckpts/{run.experiment_id}/{run.id}/cancel-1"
    body = MarkRequest(run_id=run.id, ckpt_path=path, tag_type="release", release_tag="v1")
    await db.write(marks.mark, run.experiment_id, body)

    assert (await cancelled(stage, run)).state == "pending"
    await stage.saves(run, "cancel-1", 6)
    await stage.ends(run, exit_code=0)

    kept = await stage.named(run, "cancel-1")
    assert (kept.state, kept.release_tag) == ("ready", "v1")


async def test_a_path_that_was_looked_for_too_early_is_promised_all_the_same(db: Database) -> None:
    stage = await Stage.open(db)
    parent = await stage.run("running", saved=True)
    await resumed_at(stage, parent, parent, "cancel-1")
    await judge(stage, await stage.named(parent, "cancel-1"), "There is no such directory.")

    promised = await cancelled(stage, parent)
    assert (promised.state, promised.reason) == ("pending", None)
    child = await resumed(stage, parent)
    assert child.source_checkpoint_id == promised.id, "it waits for what is being saved"
    await judge(stage, promised, manifest(8))
    await stage.ends(parent, exit_code=0)
    assert (await stage.named(parent, "cancel-1")).step == 8

    other = await stage.run("running")
    await cancelled(stage, other)
    await stage.ends(other, exit_code=0)
    assert (await cancelled(stage, other)).state == "lost", "who is over has saved nothing more"


async def resumed_at(stage: Stage, run: Run, saved: Run, name: str) -> Run:
    """A run resumed from a checkpoint of its own, or of one that it goes back to."""
    path = f"/ckpts/{saved.experiment_id}/{saved.id}/{name}"
    return await stage.db.write(resuming.resume, run.id, ResumeRequest(ckpt_path=path), RECIPES)


async def three_generations(stage: Stage) -> tuple[Run, Run]:
    """A run that saved at 10, 20 and 30; one resumed from its 10 that saved at 15 and 25."""
    first = await stage.run("running")
    for step in (10, 20, 30):
        await stage.saves(first, f"s{step}", step, f"first {step}")
    second = await stage.claim(await resumed_at(stage, first, first, "s10"))
    for step in (15, 25):
        await stage.saves(second, f"s{step}", step, f"second {step}")
    return await stage.ends(first, exit_code=3), await stage.ends(second, exit_code=3)


async def test_a_fallback_never_leaves_the_line_that_led_to_the_checkpoint(db: Database) -> None:
    stage = await Stage.open(db)
    first, second = await three_generations(stage)

    async def from_where(run: Run) -> list[str | None]:
        found = await db.read(launches.list_sources, run)
        return [each.stored.ckpt_path for each in found]

    def paths(*saved: tuple[Run, str]) -> list[str]:
        return [f"/ckpts/{run.experiment_id}/{run.id}/{name}" for run, name in saved]

    third = await resumed(stage, second)
    line = paths((second, "s25"), (second, "s15"), (first, "s10"))
    assert await from_where(third) == line, "its 20 and 30 are of another training"
    third = await resumed_at(stage, second, first, "s30")
    assert await from_where(third) == paths((first, "s30"), (first, "s20"), (first, "s10"))


async def test_what_is_lost_with_its_source_goes_back_further_and_is_told_truly(
    db: Database,
) -> None:
    stage = await Stage.open(db)
    first, second = await three_generations(stage)
    third = await resumed(stage, second)
    await judge(stage, await stage.named(second, "s25"), "It is damaged.")

    with pytest.raises(CheckpointLost, match=r"Ready: .*/s15, .*/s30, .*/s20, .*/s10"):
        await resumed_at(stage, third, second, "s25")
    assert (await resumed(stage, third)).start_step == 15
    promised = await cancelled(stage, third)
    assert (promised.state, promised.step) == ("ready", 15)
    assert promised.reason is not None and "before the lost one" in promised.reason

    for run, name in ((second, "s15"), (first, "s10")):
        await judge(stage, await stage.named(run, name), "It is damaged.")
    with pytest.raises(CheckpointLost, match=r"Ready: .*/s30, .*/s20"):
        await resumed(stage, third)


async def test_a_damaged_stop_checkpoint_falls_back_to_the_newest_good_one(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("cancelling", saved=True)
    await judge(stage, await stage.named(run, "cancel-1"), "Its SHA-256 differs.")
    await stage.ends(run, exit_code=0)

    promised = await stage.named(run, "cancel-1")
    assert (promised.state, promised.step) == ("ready", 5)
    assert promised.reason is not None and promised.reason.startswith("Its SHA-256 differs.")


async def test_a_trainer_that_reached_its_end_in_the_race_leaves_its_last_checkpoint(
    db: Database,
) -> None:
    stage = await Stage.open(db)
    run = await stage.run("cancelling", saved=True)
    await stage.saves(run, "step-000010", 10)
    await stage.report(run, batch=2, step=10, finished=True)
    ended = await stage.ends(run, exit_code=0)

    assert (ended.status, ended.step) == ("cancelled", 10)
    assert (await stage.named(run, "cancel-1")).step == 10
    child = await resumed(stage, run)
    assert (child.start_step, child.settled_step) == (10, 10)


async def test_a_stop_checkpoint_that_was_renamed_is_what_a_resume_starts_from(
    db: Database,
) -> None:
    stage = await Stage.open(db)
    run = await stage.run("cancelling")
    await stage.saves(run, "cancel-1", 5)
    await stage.saves(run, "cancel-1.2", 9)
    await stage.ends(run, exit_code=0)

    assert (await stage.named(run, "cancel-1")).state == "ready"
    source = (await resumed(stage, run)).source_ckpt_path
    assert source is not None and source.endswith("/cancel-1.2")


async def test_an_announcement_that_is_repeated_changes_nothing(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running", saved=True)
    history = await stage.events()
    sha256 = manifest(5).sha256
    await stage.report(run, checkpoints=[{"name": "step-000005", "step": 5, "sha256": sha256}])
    assert await stage.events() == history


async def test_a_name_that_is_written_again_is_looked_at_again(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running", saved=True)
    await stage.saves(run, "step-000005", 7, "new content")

    found = await stage.named(run, "step-000005")
    assert (found.state, found.step) == ("ready", 7)
    assert [e.type for e in await stage.events()][-2:] == ["checkpoint.pending", "checkpoint.ready"]


@pytest.mark.parametrize("lost", [False, True])
async def test_a_name_that_is_written_again_is_looked_at_again_also_without_a_sha256(
    db: Database, lost: bool
) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running", saved=True)
    if lost:
        await judge(stage, await stage.named(run, "step-000005"), "It is damaged.")
    history = await stage.events()
    await stage.report(run, checkpoints=[{"name": "step-000005", "step": 5}])
    assert await stage.events() == history, "that is the one which is known"

    await stage.report(run, checkpoints=[{"name": "step-000005", "step": 7}])
    await judge(stage, await stage.named(run, "step-000005"), manifest(7, "new content"))
    found = await stage.named(run, "step-000005")
    assert (found.state, found.step) == ("ready", 7)


async def test_what_was_marked_stays_whatever_its_trainer_says_later(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running", saved=True)
    saved = await stage.named(run, "step-000005")
    mark = MarkRequest(run_id=run.id, ckpt_path=saved.ckpt_path, tag_type="release")
    marked = await db.write(marks.mark, run.experiment_id, mark)
    other = [{"name": "step-000005", "step": 9, "sha256": "0" * 64}]
    await stage.report(run, checkpoints=other)
    assert await stage.named(run, "step-000005") == marked


async def test_another_manifest_than_the_recorded_one_is_damage(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running", saved=True)
    await judge(stage, await stage.named(run, "step-000005"), manifest(5, "one bit flipped"))
    assert (await stage.named(run, "step-000005")).state == "lost"


async def test_a_finding_about_an_older_record_is_of_no_use(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running", saved=True)
    old = await stage.named(run, "step-000005")
    sha256 = manifest(7, "new").sha256
    await stage.report(run, checkpoints=[{"name": "step-000005", "step": 7, "sha256": sha256}])

    assert await judge(stage, old, "It was half written when I looked.") is None
    assert (await stage.named(run, "step-000005")).state == "pending"


async def test_an_end_waits_for_what_was_announced_while_it_was_prepared(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    await stage.report(run, checkpoints=[{"name": "late", "step": 5}])
    evidence = Evidence(cancel_asked=False, exit_code=3)

    assert not await db.write(endings.finish_attempt, run.id, 1, evidence, None, frozenset())
    assert (await stage.get(run)).status == "running"
    assert (await stage.named(run, "late")).state == "pending"

    await stage.ends(run, exit_code=3)
    assert (await stage.named(run, "late")).state == "lost"


async def test_a_retry_starts_from_the_newest_ready_checkpoint_as_the_next_attempt(
    db: Database,
) -> None:
    recipe = Recipe("tiny", ("true",), max_attempts=2)
    stage = await Stage.open(db)
    run = await stage.run("running", saved=True)
    await stage.report(run, checkpoints=[{"name": "never-committed", "step": 9}])
    pending = await stage.named(run, "never-committed")

    evidence = Evidence(cancel_asked=False, exit_code=3)
    assert await db.write(
        endings.finish_attempt, run.id, 1, evidence, recipe, frozenset({pending.id})
    )
    queued = await stage.get(run)
    assert (queued.status, queued.status_reason) == ("queued", Reason.RETRYING)
    assert (await stage.named(run, "never-committed")).state == "lost"

    again = await stage.claim(queued)
    assert (again.attempt, again.start_step, again.step) == (2, 5, 5)
    await db.write(
        endings.finish_attempt,
        run.id,
        1,
        Evidence(False, exit_code=0, finished=True),
        recipe,
        frozenset(),
    )
    assert (await stage.get(run)).status == "starting", "the first attempt's end came late"
    await db.write(endings.finish_attempt, run.id, 2, evidence, recipe, frozenset())
    assert (await stage.get(run)).status == "failed", "two attempts, and no third"


async def test_a_claim_fails_when_its_checkpoint_was_lost_meanwhile(db: Database) -> None:
    stage = await Stage.open(db)
    parent = await stage.run("succeeded", saved=True)
    child = await resumed(stage, parent)
    (source,) = await db.read(launches.list_sources, child)
    await judge(stage, source.stored, "It vanished.")

    assert await db.write(launches.claim, child, [], source, None, None) is None
    assert (await stage.get(child)).status == "queued"


async def test_an_external_trainers_newest_announced_checkpoint_can_be_resumed(
    db: Database,
) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running", recipe=None)
    with pytest.raises(Conflict, match="no checkpoint"):
        await resumed(stage, run)
    for step in (6, 7):
        await stage.saves(run, f"step-{step}", step)

    child = await resumed(stage, run)
    assert (child.start_step, child.status_reason) == (7, "waiting_for_trainer")


async def stages(stage: Stage, run: Run, *saves: tuple[str, int]) -> None:
    """One script trains in stages, each counting its steps from 1, and saves as it goes."""
    for name, step in saves:
        await stage.saves(run, name, step, name)


async def test_the_newest_is_what_was_saved_last_and_not_the_highest_step(db: Database) -> None:
    """The second stage of a script counts from 1 again: its work is newer all the same."""
    stage = await Stage.open(db)
    run = await stage.run("running")
    await stages(stage, run, ("sft-400", 400), ("dpo-100", 100))

    queued = await db.write(lambda tx: runs.move(tx, runs.get(tx, run.id), RunStatus.QUEUED))
    assert (await stage.claim(queued)).start_step == 100, "a retry"
    assert (await resumed(stage, run)).source_ckpt_path == path_of(run, "dpo-100")
    await cancelled(stage, run)
    await stage.ends(await stage.get(run), signal=9)
    fallback = await db.read(checkpoints.get_stored, await stage.named(run, "cancel-2"))
    assert fallback.ckpt_path == path_of(run, "dpo-100"), "a cancel without a save"


async def test_those_of_one_report_are_saved_in_its_order(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    names = ["c", "a", "b"]
    saved = [{"name": n, "step": 9 - i, "sha256": str(i) * 64} for i, n in enumerate(names)]
    await stage.report(run, checkpoints=saved)
    by_time = sorted(await stage.checkpoints(run), key=lambda each: each.saved_at or "")
    assert [each.ckpt_path for each in by_time] == [path_of(run, name) for name in names]

    await stage.report(run, checkpoints=saved[:1])
    again = await stage.named(run, "c")
    assert again == by_time[0], "repeated, it was not saved again"


async def test_a_fallback_goes_back_in_the_order_of_saving(db: Database) -> None:
    """A child of "dpo-200" whose files are damaged starts from "dpo-100", not from "sft-400"."""
    stage = await Stage.open(db)
    run = await stage.run("running")
    await stages(stage, run, ("sft-400", 400), ("dpo-100", 100), ("dpo-200", 200), ("dpo-300", 300))
    child = await resumed_at(stage, run, run, "dpo-200")
    line = [each.stored.ckpt_path for each in await db.read(launches.list_sources, child)]
    assert line == [path_of(run, name) for name in ("dpo-200", "dpo-100", "sft-400")]


async def test_what_nobody_reported_was_saved_when_its_manifest_says(db: Database) -> None:
    """Found when their trainer is gone, and read in any order: but not in the future, nor before
    the launch; and what is no time is now."""
    stage = await Stage.open(db)
    run = await stage.run("running")
    assert run.launched_at is not None
    for name, step, created_at in (
        ("second", 1, "2999-01-01T00:00:00Z"), ("third", 2, "yesterday"),
        ("fourth", 3, "0001-01-01T00:00:00+23:00"), ("first", 9, "1999-01-01T00:00:00Z"),
    ):  # fmt: skip
        path = CheckpointPath(run.experiment_id, run.id, name)
        found = manifest(step, name)._replace(created_at=created_at)
        await db.write(saves.apply_verification, path, None, found)
    ready = await db.read(checkpoints.list_ready, run.id)
    assert [each.step for each in ready] == [3, 2, 1, 9]
    assert all(run.launched_at <= (each.saved_at or "") <= each.created_at for each in ready)


def path_of(run: Run, name: str) -> str:
    return f"/ckpts/{run.experiment_id}/{run.id}/{name}"


@pytest.mark.parametrize("verified", [True, False])
async def test_a_checkpoint_of_the_trainers_own_never_stands_for_the_promise(
    db: Database, verified: bool
) -> None:
    """It took the name "cancel-1" first: the promise is where its next commit to that name goes."""
    stage = await Stage.open(db)
    run = await stage.run("running")
    if verified:
        await stage.saves(run, "cancel-1", 3, "its own")
    else:
        own = {"name": "cancel-1", "step": 3, "sha256": "0" * 64}
        await stage.report(run, checkpoints=[own])

    promised = await cancelled(stage, run)
    assert (promised.ckpt_path, promised.state) == (path_of(run, "cancel-1.2"), "pending")
    assert (await cancelled(stage, run)).id == promised.id, "a repeated cancel names the same"
    assert (await stage.report(run)).stop_checkpoint == "cancel-1.2"
    await stage.saves(run, "cancel-1.2", 8, "its stop")
    await stage.ends(run, exit_code=0)

    assert (await cancelled(stage, run)).step == 8
    assert (await resumed(stage, run)).source_ckpt_path == promised.ckpt_path


@pytest.mark.parametrize("attempts", [1, 2])
async def test_what_a_trainer_that_does_not_report_has_saved_is_not_known(
    db: Database, attempts: int
) -> None:
    """It may have trained for hours: "no step" would be a guess, and a resume at 0 its price."""
    stage = await Stage.open(db)
    recipe = Recipe("tiny", ("true",), max_attempts=2, requires_report=False)
    run = await stage.run("starting")
    await db.write(launches.mark_running, run.id, 1)
    if attempts == 2:
        await db.write(
            endings.finish_attempt, run.id, 1, Evidence(False, signal=9), recipe, frozenset()
        )
    promised = await cancelled(stage, run)
    if attempts == 1:
        evidence = Evidence(False, exit_code=0, requires_report=False)
        await db.write(
            endings.finish_attempt, run.id, 1, evidence, recipe, frozenset({promised.id})
        )
        promised = await cancelled(stage, run)

    assert promised.state == "lost"
    assert promised.reason is not None and "is not known" in promised.reason
    with pytest.raises(Conflict, match=r"name one with ckpt_path, or submit a new run.*not known"):
        await resumed(stage, run)


async def test_a_trainer_that_was_never_started_has_taken_no_step(db: Database) -> None:
    """The control of the test above."""
    stage = await Stage.open(db)
    run = await stage.run("starting")
    promised = await cancelled(stage, run)
    evidence = Evidence(False, launch_error="No such program.", requires_report=False)
    await db.write(endings.finish_attempt, run.id, 1, evidence, None, frozenset({promised.id}))
    assert (await cancelled(stage, run)).state == "empty"
