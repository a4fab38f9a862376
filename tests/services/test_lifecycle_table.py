"""Every status with every operation: what happens, what is answered, which events it leaves."""

from itertools import product
from typing import Any, NamedTuple

import pytest

from app.db.database import Database
from app.db.tables import Run
from app.domain.lifecycle import MOVES, TERMINAL, RunStatus
from app.domain.requests import MarkRequest, ResumeRequest
from app.errors import ServiceError
from app.services import checkpoints, marks, resuming, runs
from tests.support.database import Databases, postgresql_heavy, sqlite_only
from tests.support.stage import RECIPES, SAVED, Stage

pytestmark = [pytest.mark.anyio, postgresql_heavy]


@pytest.fixture(scope="module")
def database_url(databases: Databases) -> str:
    """One database for all: each test has an experiment of its own."""
    return databases.migrated()


class Told(NamedTuple):
    """`answer`: a status, or the code of an error. `checkpoint`: the state of the one named."""

    answer: str
    checkpoint: str | None = None
    events: tuple[str, ...] = ()


STOPPING = Told("cancelling", "pending", ("run.cancelling", "checkpoint.pending"))
RESUMED = Told("queued", "ready", ("run.queued",))
NOTHING_TO_RESUME = Told("conflict")
OVER = Told("run_finished")
NEW = Told("queued", None, ("run.queued",))

# Two answers: nothing was saved; step-000005 was saved. The status says all about marks and
# submissions that there is to say, which is nothing.
CANCEL = {
    "queued": Told(
        "cancelled", "empty", ("run.cancelled", "checkpoint.pending", "checkpoint.empty")
    ),
    "starting": STOPPING,
    "running": STOPPING,
    "cancelling": Told("cancelling", "pending"),
    "cancelled": (Told("cancelled", "lost"), Told("cancelled", "ready")),
    "succeeded": OVER,
    "failed": OVER,
}
RESUME = {
    "queued": NOTHING_TO_RESUME,
    "starting": NOTHING_TO_RESUME,
    "running": (NOTHING_TO_RESUME, RESUMED),
    "cancelling": Told("queued", "pending", ("run.queued",)),
    "cancelled": (NOTHING_TO_RESUME, RESUMED),
    "succeeded": (NOTHING_TO_RESUME, RESUMED),
    "failed": (NOTHING_TO_RESUME, RESUMED),
}
REPORT = {
    "queued": Told("stale_attempt"),
    "starting": Told("running", None, ("run.running",)),
    "running": Told("running"),
    "cancelling": Told("cancelling"),
    "cancelled": OVER,
    "succeeded": OVER,
    "failed": OVER,
}
MARK = (
    Told("marked", "declared", ("checkpoint.declared", "checkpoint.marked", "checkpoint.released")),
    Told("marked", "ready", ("checkpoint.marked", "checkpoint.released")),
)
TABLE: dict[str, dict[str, Any]] = {
    "cancel": CANCEL,
    "resume": RESUME,
    "report": REPORT,
    "mark": dict.fromkeys(RunStatus, MARK),
    "submit": dict.fromkeys(RunStatus, NEW),
}
# An external run differs in this: its first report starts it, and its checkpoints, which the
# service never sees, stay declared.
EXTERNAL = {("report", "queued"): Told("running", None, ("run.starting", "run.running"))}
ON_EXTERNAL = {"ready": "declared"}


async def cancel(stage: Stage, run: Run) -> tuple[str, str | None]:
    answer = await stage.db.write(runs.cancel, run.id)
    assert answer.checkpoint.ckpt_path.endswith(f"/{run.id}/cancel-{run.attempt}")
    return answer.run.status, answer.checkpoint.state


async def resume(stage: Stage, run: Run) -> tuple[str, str | None]:
    child = await stage.db.write(resuming.resume, run.id, ResumeRequest(), RECIPES)
    assert child.parent_run_id == run.id and child.source_checkpoint_id is not None
    source = await stage.db.read(checkpoints.get, child.source_checkpoint_id)
    assert child.source_ckpt_path == source.ckpt_path
    return child.status, source.state


async def report(stage: Stage, run: Run) -> tuple[str, str | None]:
    receipt = await stage.report(run, batch=2, step=6)
    stopping = receipt.status == "cancelling"
    assert receipt.should_stop == stopping
    assert receipt.stop_checkpoint == ("cancel-1" if stopping else None)
    assert (await stage.get(run)).step == 6
    return receipt.status, None


async def mark(stage: Stage, run: Run) -> tuple[str, str | None]:
    path = f"/ckpts/{run.experiment_id}/{run.id}/{SAVED}"
    body = MarkRequest(run_id=run.id, ckpt_path=path, tag_type="release", release_tag="v1")
    marked = await stage.db.write(marks.mark, run.experiment_id, body)
    assert (marked.tag_type, marked.release_tag) == ("release", "v1")
    return "marked", marked.state


async def submit(stage: Stage, run: Run) -> tuple[str, str | None]:
    again = await stage.submit(run.recipe)
    assert again.id != run.id
    return again.status, None


OPERATIONS = {f.__name__: f for f in (cancel, resume, report, mark, submit)}
RUNS = [
    (status, recipe, saved)
    for status, recipe, saved in product(RunStatus, (*RECIPES, None), (False, True))
    if not (status == "starting" and recipe is None)  # it starts with its first report
    if not (status in ("queued", "starting") and saved)
]
# What differs for a run without a recipe is decided before a statement, but for its start.
ON_POSTGRESQL = [each for each in RUNS if each[0] == "queued" or each[1] is not None]
ON_DATABASES = [("sqlite", *each) for each in RUNS] + [
    ("postgresql", *each) for each in ON_POSTGRESQL
]


def expected(operation: str, status: str, recipe: str | None, saved: bool) -> Told:
    cell = TABLE[operation][status]
    told: Told = cell if isinstance(cell, Told) else cell[saved]
    if recipe is None:
        told = EXTERNAL.get((operation, status), told)
        told = told._replace(checkpoint=ON_EXTERNAL.get(told.checkpoint or "", told.checkpoint))
    return told


@pytest.mark.parametrize(
    ("databases", "status", "recipe", "saved"), ON_DATABASES, indirect=["databases"]
)
@pytest.mark.parametrize("operation", OPERATIONS)
async def test_every_status_answers_every_operation(
    db: Database, operation: str, status: str, recipe: str | None, saved: bool
) -> None:
    stage = await Stage.open(db)
    run = await stage.run(status, recipe, saved)
    before, already = await stage.get(run), len(await stage.events())

    try:
        answer, checkpoint = await OPERATIONS[operation](stage, run)
    except ServiceError as error:
        answer, checkpoint = error.code, None

    new = tuple(each.type for each in (await stage.events())[already:])
    assert Told(answer, checkpoint, new) == expected(operation, status, recipe, saved)
    after = await stage.get(run)
    if not any(each.startswith("run.") for each in new) or operation in ("resume", "submit"):
        assert after.status == before.status
    if status in TERMINAL:
        assert after == before, "a terminal run changed"


@pytest.mark.parametrize("status", sorted(TERMINAL))
async def test_no_evidence_changes_a_terminal_run(db: Database, status: str) -> None:
    stage = await Stage.open(db)
    run = await stage.run(status)
    history = await stage.events()

    for evidence in ({"exit_code": 0, "finished": True}, {"signal": 9}, {"is_lost": True}):
        assert await stage.ends(run, **evidence) == run
    assert await stage.events() == history


@sqlite_only  # one statement makes each move, on both above; an illegal one asks no database
@pytest.mark.parametrize(("origin", "to"), [*product(RunStatus, RunStatus)])
async def test_the_door_opens_for_legal_moves_only(
    db: Database, origin: RunStatus, to: RunStatus
) -> None:
    stage = await Stage.open(db)
    run = await stage.run(origin)
    if to in MOVES[origin]:
        assert (await db.write(lambda tx: runs.move(tx, run, to))).status == to
    else:
        with pytest.raises(AssertionError, match="no move"):
            await db.write(lambda tx: runs.move(tx, run, to))
        assert await stage.get(run) == run
