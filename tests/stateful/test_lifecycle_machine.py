"""Users on REST and GraphQL, trainers and the supervisor, in any order, against a small model.

The model says what each operation answers and what every run and checkpoint is afterwards. Users
come through the faces; what trainers and the supervisor do are the use cases that they call. At
the end every legal move must have been seen, and no other.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

import httpx
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.db.connect import connect
from app.db.database import Database
from app.db.objects import replace
from app.db.tables import Run
from app.domain import evidence as evidences
from app.domain import paths
from app.domain.evidence import Evidence, Outcome
from app.domain.lifecycle import MOVES, TERMINAL, Reason, RunStatus
from app.domain.paths import CheckpointPath
from app.domain.recipes import Recipe
from app.errors import RunFinished, SessionActive, StaleAttempt
from app.main import create_app
from app.services import checkpoints, endings, events, launches, promises, runs, saves, sessions
from app.settings import Settings
from tests.support.database import postgresql_heavy, sqlite_only
from tests.support.stage import Stage, manifest

S = RunStatus
pytestmark = postgresql_heavy

RECIPES = {
    "once": Recipe("once", ("true",)),
    "twice": Recipe("twice", ("true",), max_attempts=2),
}
FACES = st.sampled_from(("rest", "graphql"))
PICK = st.integers(0, 1000)
SILENT_SUCCESS, CRASH, KILLED, HALFWAY, FINISHED, CONDEMNED = (
    "exit 0 of a recipe that does not report", "exit 3", "signal 9", "exit 0 halfway",
    "exit 0 at its end", "condemned",
)  # fmt: skip


LIVE = (S.STARTING, S.RUNNING, S.CANCELLING)


@dataclass(eq=False)
class Saved:
    """A checkpoint in the model; one that stands for another shares its fate.

    `own_saved_at` counts what was saved; 0: nothing ever was under this name.
    """

    name: str
    own_state: str
    own_step: int | None
    stands_for: "Saved | None" = None
    own_saved_at: int = 0

    @property
    def state(self) -> str:
        return self.stands_for.state if self.stands_for else self.own_state

    @property
    def step(self) -> int | None:
        return self.stands_for.step if self.stands_for else self.own_step

    @property
    def saved_at(self) -> int:
        return self.stands_for.saved_at if self.stands_for else self.own_saved_at

    @property
    def step_or_0(self) -> int:
        return self.step or 0

    @property
    def held(self) -> "Saved":
        """The one that has the files."""
        return self.stands_for.held if self.stands_for else self


@dataclass(eq=False)
class Model:
    """A run in the model."""

    id: str
    recipe: str | None
    parent: "Model | None" = None
    source: Saved | None = None
    status: RunStatus = S.QUEUED
    attempt: int = 0
    step: int = 0
    finished: bool = False
    reported: bool = False
    named: bool = False  # its trainer has told its session
    saved: dict[str, Saved] = field(default_factory=dict)

    def newest(self) -> Saved | None:
        """Return what a resume goes on from."""
        good = [s for s in self.saved.values() if s.state == "ready"]
        if not good and self.recipe is None:
            good = [s for s in self.saved.values() if s.state == "declared" and s.step is not None]
        return max(good, key=lambda s: s.saved_at, default=None)

    def line(self) -> Iterator["Model"]:
        """This run and those it comes from."""
        each: Model | None = self
        while each is not None:
            yield each
            each = each.parent

    def keeper(self, saved: Saved) -> "Model":
        """The run, of those it comes from, under whose name a checkpoint is known."""
        return next(run for run in self.line() if saved in run.saved.values())

    def inherited(self) -> Saved | None:
        """Return what it goes back to beyond itself: its source, else what is ready before that."""
        run = self
        while run.source is not None:
            if run.source.state != "lost":
                return run.source
            limit = run.source.saved_at or float("inf")
            run = run.keeper(run.source)
            ready = [s for s in run.saved.values() if s.state == "ready" and s.saved_at <= limit]
            if ready:
                return max(ready, key=lambda s: s.saved_at)
        return self.source

    @property
    def promise(self) -> Saved | None:
        return self.saved.get(f"cancel-{self.attempt}")

    def settle(self, unknown: bool) -> None:
        """The outcome of the promise, now that the trainer is gone.

        `unknown`: it never reported and need not, so that nobody knows what it did.
        """
        promise = self.saved.setdefault(
            f"cancel-{self.attempt}", Saved(f"cancel-{self.attempt}", "pending", None)
        )
        if promise.state not in ("pending", "lost"):
            return
        target = self.newest() or self.inherited()
        if target is not None and target.state != "lost":
            promise.stands_for = target
        elif promise.state == "pending":
            empty = self.step == 0 and not unknown
            promise.own_state = "empty" if empty else "lost"
            promise.own_step = 0 if empty else None


def is_file(each: Saved) -> bool:
    """Ready by itself, not as a stand-in."""
    return each.stands_for is None and each.own_state == "ready"


def has_files(run: Model) -> bool:
    """Return True if a run has a checkpoint that can be damaged."""
    return any(map(is_file, run.saved.values()))


class World:
    """One app and one database for all examples; each example has its own experiment."""

    def __init__(self, db: Database, client: httpx.AsyncClient, runner: asyncio.Runner) -> None:
        self.db, self.client, self.runner = db, client, runner

    def do(self, use_case: Callable[..., Any], *args: Any) -> Any:
        return self.runner.run(self.db.write(use_case, *args))

    def see(self, use_case: Callable[..., Any], *args: Any) -> Any:
        return self.runner.run(self.db.read(use_case, *args))

    def rest(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        answer = self.runner.run(self.client.request(method, f"/v1{path}", json=body))
        assert answer.status_code < 500, answer.text
        return answer.status_code, answer.json()

    def graphql(self, mutation: str, chosen: dict[str, Any], fields: str) -> Any:
        """The payload; `code` is the first user error's."""
        kind = mutation[0].upper() + mutation[1:] + "Input!"
        query = (
            f"mutation($i: {kind}) {{ {mutation}(input: $i) {{ {fields} userErrors {{ code }} }} }}"
        )
        body = {"query": query, "variables": {"i": chosen}}
        answer = self.runner.run(self.client.post("/graphql", json=body)).json()
        assert "errors" not in answer, answer
        payload = answer["data"][mutation]
        return payload | {"code": next((e["code"] for e in payload["userErrors"]), None)}


class Lifecycle(RuleBasedStateMachine):
    """The actors."""

    world: ClassVar[World]
    seen: ClassVar[set[tuple[RunStatus, RunStatus]]] = set()

    @initialize()
    def open(self) -> None:
        self.stage = self.world.runner.run(Stage.open(self.world.db))
        self.runs: list[Model] = []
        self.marks = self.saves = 0

    # Users.

    @rule(recipe=st.sampled_from(("twice", "once", "twice", None)), face=FACES)
    def submit(self, recipe: str | None, face: str) -> None:
        if face == "rest":
            path = f"/experiments/{self.stage.experiment}/runs"
            status, answer = self.world.rest("POST", path, {"model": "m", "recipe": recipe})
            assert status == 201
            run_id = answer["run_id"]
        else:
            chosen = {"experimentId": self.stage.experiment, "model": "m", "recipe": recipe}
            answer = self.world.graphql("createRun", chosen, "run { id status } runToken")
            assert answer["run"]["status"] == "QUEUED"
            assert bool(answer["runToken"]) == (recipe is None)
            run_id = answer["run"]["id"]
        self.runs.append(Model(run_id, recipe))

    @precondition(lambda self: self.runs)
    @rule(pick=PICK, face=FACES)
    def cancel(self, pick: int, face: str) -> None:
        run = self.pick(pick)
        ok = run.status not in (S.SUCCEEDED, S.FAILED)
        if run.status in (S.STARTING, S.RUNNING):
            run.status = S.CANCELLING
            run.saved.setdefault(
                f"cancel-{run.attempt}", Saved(f"cancel-{run.attempt}", "pending", None)
            )
        elif run.status == S.QUEUED:
            run.status = S.CANCELLED
            run.settle(unknown=run.attempt > 0 and not run.reported)
        if face == "rest":
            status, answer = self.world.rest("POST", self.at(run) + "/cancel")
            assert status == (409 if not ok else 200 if run.status == S.CANCELLED else 202)
            code, told = answer.get("code"), answer
            checkpoint = answer.get("checkpoint", {})
        else:
            fields = "run { status } checkpoint { ckptPath state }"
            told = self.world.graphql("cancelRun", {"runId": run.id}, fields)
            code, checkpoint = told["code"], told["checkpoint"] or {}
            checkpoint = {"ckpt_path": checkpoint.get("ckptPath"),
                          "state": checkpoint.get("state", "").lower()}  # fmt: skip
        if not ok:
            assert code == "run_finished"
            return
        promise = run.promise
        assert promise is not None
        assert checkpoint["ckpt_path"] == self.path(run, promise.name)
        assert checkpoint["state"] == promise.state

    @precondition(lambda self: self.runs)
    @rule(pick=PICK, face=FACES)
    def resume(self, pick: int, face: str) -> None:
        parent = self.pick(pick)
        source, code = self.source_of(parent)
        if face == "rest":
            status, answer = self.world.rest("POST", self.at(parent) + "/resume", {})
            assert status == (201 if code is None else 409), answer
            told = answer.get("code"), answer.get("run_id"), answer.get("parent_run_id")
        else:
            answer = self.world.graphql("resumeRun", {"runId": parent.id},
                                        "run { id parent { id } }")  # fmt: skip
            run = answer["run"] or {"id": None, "parent": {"id": None}}
            told = answer["code"], run["id"], run["parent"]["id"]
        assert told[0] == code
        if source is not None:
            assert told[2] == parent.id
            child = Model(told[1], parent.recipe, parent, source)
            child.step = source.step or 0
            self.runs.append(child)

    @precondition(lambda self: self.runs)
    @rule(pick=PICK, face=FACES)
    def resume_from_a_path_that_only_the_client_knows(self, pick: int, face: str) -> None:
        parent = self.pick(pick)
        self.marks += 1
        source = parent.saved[f"mine-{self.marks}"] = Saved(f"mine-{self.marks}", "declared", None)
        path = self.path(parent, source.name)
        if face == "rest":
            _, answer = self.world.rest("POST", self.at(parent) + "/resume", {"ckpt_path": path})
            child = answer["run_id"]
        else:
            chosen = {"runId": parent.id, "ckptPath": path}
            child = self.world.graphql("resumeRun", chosen, "run { id }")["run"]["id"]
        self.runs.append(Model(child, parent.recipe, parent, source))

    def source_of(self, parent: Model) -> tuple[Saved | None, str | None]:
        promise = parent.promise if parent.status in (S.CANCELLING, S.CANCELLED) else None
        if promise is not None and promise.state == "pending":
            return promise, None
        found = parent.newest()
        if found is None and promise is not None and promise.state != "lost":
            found = promise
        if found is None:
            found = parent.inherited()
        if found is None:
            return None, "conflict"
        return (None, "checkpoint_lost") if found.state == "lost" else (found, None)

    @precondition(lambda self: self.runs)
    @rule(pick=PICK, face=FACES)
    def mark(self, pick: int, face: str) -> None:
        run = self.pick(pick)
        self.marks += 1
        name = f"marked-{self.marks}"
        path = self.path(run, name)
        if face == "rest":
            body = {"run_id": run.id, "ckpt_path": path, "tag_type": "candidate"}
            where = f"/experiments/{self.stage.experiment}/checkpoints/mark"
            status, answer = self.world.rest("POST", where, body)
            assert (status, answer["state"]) == (200, "declared")
        else:
            chosen = {"runId": run.id, "ckptPath": path, "tagType": "candidate"}
            answer = self.world.graphql("markCheckpoint", chosen, "checkpoint { state }")
            assert answer["checkpoint"]["state"] == "DECLARED"
        run.saved[name] = Saved(name, "declared", None)

    # The supervisor.

    @precondition(lambda self: self.some(self.launchable))
    @rule(pick=PICK)
    def launch(self, pick: int) -> None:
        self.start(self.pick(pick, self.launchable))

    def start(self, run: Model) -> None:
        row = self.row(run)
        found = self.world.see(launches.list_sources, row)
        source = next((s for s in found if s.stored.state in ("ready", "empty", "declared")), None)
        if source is not None and source.stored.state == "declared":  # it is not there
            path = paths.parse(source.stored.ckpt_path)
            self.world.do(saves.apply_verification, path, None, "It is not there.")
            self.known(str(path)).own_state, source = "lost", None
        if source is None and run.source is not None:
            assert run.source.state == "lost"
            self.world.do(
                launches.fail_queued, run.id, Reason.CHECKPOINT_MISSING, "Nothing is left."
            )
            run.status = S.FAILED
            return
        claimed = self.world.do(launches.claim, row, [], source, None, None)
        run.attempt += 1
        run.status, run.finished, run.reported = S.STARTING, False, False
        own = run.newest()
        if own is not None and run.attempt > 1:
            expected = {own.step_or_0}
        elif run.source is not None and run.source.state != "lost":
            expected = {run.source.step or 0}
        elif source is None:
            expected = {0}
        else:  # what the lineage still has
            expected = {
                s.step_or_0
                for each in run.line()
                for s in each.saved.values()
                if s.state in ("ready", "empty")
            }
        assert claimed.start_step in expected
        run.step = claimed.start_step
        if source is not None and claimed.source_checkpoint_id == source.named.id:
            run.source = self.known(source.named.ckpt_path)

    def launchable(self, run: Model) -> bool:
        """A recipe's run that waits, for no checkpoint that is being written."""
        pending = run.source is not None and run.source.state == "pending"
        return run.status == S.QUEUED and run.recipe is not None and not pending

    @precondition(lambda self: self.some(lambda r: r.status in LIVE and r.recipe))
    @rule(
        pick=PICK,
        reported=st.booleans(),
        how=st.sampled_from((SILENT_SUCCESS, CRASH, KILLED, HALFWAY, FINISHED)),
    )
    def end(self, pick: int, reported: bool, how: str) -> None:
        run = self.pick(pick, lambda r: r.status in LIVE and r.recipe is not None)
        if reported or (how == FINISHED and not run.finished):
            self.report(pick, 1, how == FINISHED, run)
        self.end_as(run, how)

    @precondition(lambda self: self.some(self.may_fail_twice))
    @rule(pick=PICK, how=st.sampled_from((CRASH, KILLED)))
    def fail_at_once(self, pick: int, how: str) -> None:
        """Seldom by chance alone: no report comes between the start and the end."""
        run = self.pick(pick, self.may_fail_twice)
        self.start(run)
        if run.status == S.STARTING:
            self.end_as(run, how)

    def may_fail_twice(self, run: Model) -> bool:
        return self.launchable(run) and run.recipe == "twice" and run.attempt == 0

    def end_as(self, run: Model, how: str) -> None:
        found = {
            SILENT_SUCCESS: Evidence(False, exit_code=0, requires_report=False),
            CRASH: Evidence(False, exit_code=3),
            KILLED: Evidence(False, signal=9),
            HALFWAY: Evidence(False, exit_code=0),
            FINISHED: Evidence(False, exit_code=0),
        }[how]
        recipe = RECIPES[run.recipe or ""]
        absent = frozenset(c.id for c in self.world.see(checkpoints.list_of_run, run.id))
        self.world.do(endings.finish_attempt, run.id, run.attempt, found, recipe, absent)
        self.ended(run, how, recipe.max_attempts)

    @precondition(lambda self: self.some(lambda r: r.status in LIVE and r.recipe is None))
    @rule(pick=PICK)
    def lose_sight_of_an_external_trainer(self, pick: int) -> None:
        run = self.pick(pick, lambda r: r.status in LIVE and r.recipe is None)
        reason = Reason.HEARTBEAT_LOST
        seen = self.world.see(runs.get, run.id)
        self.world.do(endings.request_termination, seen, reason, "No report.")
        absent = frozenset(c.id for c in self.world.see(checkpoints.list_of_run, run.id))
        self.world.do(endings.finish_attempt, run.id, run.attempt, Evidence(False), None, absent)
        self.ended(run, FINISHED if run.finished else CONDEMNED, 1)

    def ended(self, run: Model, how: str, max_attempts: int) -> None:
        stop = f"cancel-{run.attempt}"
        for each in run.saved.values():
            if each.state == "pending" and each.name != stop:
                each.own_state = "lost"
        if run.status == S.CANCELLING:
            run.status = S.CANCELLED
            run.settle(unknown=how == SILENT_SUCCESS and not run.reported)
        elif how in (SILENT_SUCCESS, FINISHED) or (how == HALFWAY and run.finished):
            run.status = S.SUCCEEDED
        elif how in (CRASH, KILLED) and run.attempt < max_attempts:
            run.status = S.QUEUED
        else:
            run.status = S.FAILED

    @precondition(lambda self: self.some(has_files))
    @rule(pick=PICK)
    def find_a_checkpoint_damaged(self, pick: int) -> None:
        run = self.pick(pick, has_files)
        (hurt, *_) = [each for each in run.saved.values() if is_file(each)]
        path = CheckpointPath(self.stage.experiment, run.id, hurt.name)
        expected = manifest(hurt.step or 0).sha256
        self.world.do(saves.apply_verification, path, expected, "It vanished.")
        hurt.own_state = "lost"

    # Trainers.

    @precondition(lambda self: self.some(lambda r: self.can_report(r)))
    @rule(pick=PICK, steps=st.integers(1, 3), finished=st.booleans())
    def reports(self, pick: int, steps: int, finished: bool) -> None:
        self.report(pick, steps, finished)

    def report(self, pick: int, steps: int, finished: bool, run: Model | None = None) -> None:
        run = run or self.pick(pick, self.can_report)
        row = self.row(run)
        if run.status == S.QUEUED:  # an external trainer attaches, and goes on from its source
            run.attempt, run.step = 1, 0
            if run.source is not None:
                known = run.source.step
                run.step = run.keeper(run.source.held).step if known is None else known
        step = run.step + steps
        receipt = self.world.runner.run(self.stage.report(row, step=step, finished=finished))
        if run.status in (S.QUEUED, S.STARTING):
            run.status = S.RUNNING
        run.step, run.finished, run.reported = step, run.finished or finished, True
        assert receipt.status == run.status
        assert receipt.should_stop == (run.status == S.CANCELLING)

    @precondition(lambda self: self.some(lambda r: r.status in LIVE and r.recipe is None))
    @rule(pick=PICK, asks=st.booleans())
    def another_process_attaches(self, pick: int, asks: bool) -> None:
        run = self.pick(pick, lambda r: r.status in LIVE and r.recipe is None)
        self.marks += 1
        row = self.row(run)
        report = {"attempt": None, "session": f"process-{self.marks}", "take_over": asks}
        occupied = run.named and not asks and run.status != S.CANCELLING
        if occupied or (run.named and run.finished):
            with pytest.raises(RunFinished if run.finished else SessionActive):
                self.world.runner.run(self.stage.report(row, **report))
            return
        receipt = self.world.runner.run(self.stage.report(row, **report))
        if run.named and asks and run.status != S.CANCELLING:
            run.attempt += 1
        run.named = True
        assert (receipt.attempt, receipt.status) == (run.attempt, run.status)
        assert receipt.should_stop == (run.status == S.CANCELLING)

    def can_report(self, run: Model) -> bool:
        return run.status in LIVE or (run.status == S.QUEUED and run.recipe is None)

    @precondition(lambda self: self.some(lambda r: r.status in (S.RUNNING, S.CANCELLING)))
    @rule(pick=PICK, good=st.booleans(), promised=st.booleans(), seen=st.booleans())
    def save(self, pick: int, good: bool, promised: bool, seen: bool) -> None:
        run = self.pick(pick, lambda r: r.status in (S.RUNNING, S.CANCELLING))
        stop = f"cancel-{run.attempt}"
        name = stop if promised and run.status == S.CANCELLING else f"s{run.step}"
        if name in run.saved and run.saved[name].state != "pending":
            return
        row, step = self.row(run), run.step
        sha256 = manifest(step).sha256
        saved = {"name": name, "step": step, "sha256": sha256}
        self.world.runner.run(self.stage.report(row, checkpoints=[saved]))
        state = "declared" if run.recipe is None else "pending"
        if run.recipe is not None and seen:
            path = CheckpointPath(row.experiment_id, run.id, name)
            verdict = manifest(step) if good else "It is damaged."
            self.world.do(saves.apply_verification, path, sha256, verdict)
            state = "ready" if good else "lost"
        known = run.saved.setdefault(name, Saved(name, state, step))
        self.saves += 1
        known.own_state, known.own_step, known.own_saved_at = state, step, self.saves
        run.reported = True

    @precondition(lambda self: self.some(lambda r: r.attempt > 1 or r.status in TERMINAL))
    @rule(pick=PICK)
    def a_zombie_reports(self, pick: int) -> None:
        run = self.pick(pick, lambda r: r.attempt > 1 or r.status in TERMINAL)
        row = self.row(run)
        stale = replace(row, attempt=max(1, row.attempt - 1))
        with pytest.raises((StaleAttempt, RunFinished)):
            self.world.runner.run(self.stage.report(stale, step=10_000, finished=True))

    # What must always hold.

    @invariant()
    def everything_is_as_the_model_says(self) -> None:
        if not getattr(self, "runs", None):
            return
        _, detail = self.world.rest("GET", f"/experiments/{self.stage.experiment}/detail")
        assert {r["run_id"]: (r["status"], r["step"], r["attempt"]) for r in detail["runs"]} == {
            r.id: (r.status, r.step, r.attempt) for r in self.runs
        }
        assert {c["ckpt_path"]: c["state"] for c in detail["checkpoints"]} == {
            self.path(r, s.name): s.state for r in self.runs for s in r.saved.values()
        }

    def teardown(self) -> None:
        if not getattr(self, "runs", None):
            return
        told = self.world.see(events.list_after, self.stage.experiment, 0, 100_000)
        assert [each.seq for each in told] == list(range(1, len(told) + 1))
        for run in self.runs:
            moves = [e.type.removeprefix("run.") for e in told if e.run_id == run.id]
            walk = [S(each) for each in moves if each in set(S)]
            for move in pairwise(walk):
                assert move[1] in MOVES[move[0]], f"{run.id}: {walk}"
                self.seen.add(move)

    # Names.

    def some(self, wanted: Callable[[Model], object]) -> bool:
        return any(wanted(run) for run in self.runs)

    def pick(self, number: int, wanted: Callable[[Model], object] | None = None) -> Model:
        fitting = [run for run in self.runs if wanted is None or wanted(run)]
        return fitting[number % len(fitting)]

    def row(self, run: Model) -> Run:
        found: Run = self.world.see(runs.get, run.id)
        return found

    def known(self, path: str) -> Saved:
        _, _, _, run_id, name = path.split("/")
        (run,) = [each for each in self.runs if each.id == run_id]
        return run.saved[name]

    def at(self, run: Model) -> str:
        return f"/experiments/{self.stage.experiment}/runs/{run.id}"

    def path(self, run: Model, name: str) -> str:
        return f"/ckpts/{self.stage.experiment}/{run.id}/{name}"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, module_database_url: str) -> Iterator[World]:
    path = tmp_path_factory.mktemp("machine")
    with _world(path, module_database_url) as found, pytest.MonkeyPatch.context() as patch:
        patch.setattr(sessions, "QUIET_SECONDS", 3600.0)  # a walk may take longer than a trainer
        yield found


@contextmanager
def _world(path: Path, database_url: str) -> Iterator[World]:
    tables = "".join(f'[recipes.{name}]\ncommand = ["true"]\n' for name in RECIPES)
    (path / "recipes.toml").write_text(tables)
    app = create_app(
        Settings(database_url=database_url, data_dir=path / "data",
                 recipes=path / "recipes.toml")
    )  # fmt: skip
    db = connect(database_url)
    app.state.db = db  # and no supervisor: the machine is it
    app.state.secret = "s" * 32
    with asyncio.Runner() as runner:
        runner.run(db.start())
        transport = httpx.ASGITransport(app)
        client = httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000")
        yield World(db, client, runner)
        runner.run(client.aclose())
        runner.run(db.stop())


QUICK = settings(
    derandomize=False,  # Hypothesis' own profile for CI would walk the same way every round
    max_examples=12, stateful_step_count=40, deadline=None, database=None, print_blob=True,
    phases=[Phase.generate],  # a failing walk is short enough, and shrinking it takes minutes
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
MOST_ROUNDS = 20
"""Until every legal move was seen."""


def test_every_legal_move_and_no_other(world: World) -> None:
    see_every_move(world, 1)


@pytest.mark.heavy
@sqlite_only
def test_every_legal_move_and_no_other_in_more_rounds(world: World) -> None:
    see_every_move(world, 5)


def see_every_move(world: World, rounds: int) -> None:
    """Let the machine walk for so many rounds, and until it has seen every legal move."""
    Lifecycle.world = world
    Lifecycle.seen = set()
    legal = {(old, new) for old in S for new in MOVES[old]}
    for number in range(MOST_ROUNDS):
        run_state_machine_as_test(Lifecycle, settings=QUICK)
        if legal == Lifecycle.seen and number + 1 >= rounds:
            break
    assert legal == Lifecycle.seen


@sqlite_only  # it is about the machine, which asks both databases the same
@pytest.mark.parametrize("bug", ["cancel_is_forgotten", "exit_code_decides", "promise_is_left"])
def test_the_machine_finds_a_planted_bug(
    world: World, monkeypatch: pytest.MonkeyPatch, bug: str
) -> None:
    derive = evidences.derive_outcome
    if bug == "cancel_is_forgotten":
        monkeypatch.setattr(promises, "resolve", lambda tx, run, *a, **k: promises.ensure(tx, run))
    elif bug == "exit_code_decides":
        success = Outcome(S.SUCCEEDED, None, None)
        monkeypatch.setattr(
            evidences,
            "derive_outcome",
            lambda e: derive(e) if e.cancel_asked or e.exit_code else success,
        )
    else:
        monkeypatch.setattr(paths, "stop_name", lambda attempt: f"cancel-{attempt + 1}")
    Lifecycle.world = world
    with pytest.raises((AssertionError, BaseExceptionGroup)) as found:
        run_state_machine_as_test(Lifecycle, settings=settings(QUICK, max_examples=100))
    assert {type(error) for error in leaves(found.value)} == {AssertionError}


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors of a group, and of the groups in it; of another error, itself."""
    if not isinstance(error, BaseExceptionGroup):
        yield error
        return
    for inner in error.exceptions:
        yield from leaves(inner)
