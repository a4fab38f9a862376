"""Runs brought to any status by use cases alone: the supervisor's and the trainer's part played.

stage = await Stage.open(db)
run = await stage.run("running", saved=True)      # at step 5 of 10, step-000005 is ready
"""

import hashlib
import os
from pathlib import Path
from typing import Any

from llm_train.checkpoint import Manifest, Quality
from llm_train.manifest import NO_QUALITY

from app.agent import directory
from app.agent.mailbox import ExitRecord
from app.db.database import Database
from app.db.rows import EventRow
from app.db.sql import Statement, select_all
from app.db.tables import Checkpoint, DataDir, Run
from app.domain.evidence import Evidence
from app.domain.lifecycle import Reason
from app.domain.paths import CheckpointPath
from app.domain.recipes import Recipe
from app.domain.reports import ReportRequest
from app.domain.requests import ExperimentRequest, RunRequest
from app.services import checkpoints, endings, events, experiments, launches, reports, runs, saves

RECIPES = {"tiny": Recipe("tiny", ("true",))}
SAVED = "step-000005"
_DATA_DIR = Statement(select_all(DataDir), DataDir)


def manifest(step: int, content: str = "", quality: Quality = NO_QUALITY) -> Manifest:
    """Return what verification would have found."""
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    return Manifest(step, (), "2026-01-01T00:00:00Z", sha256, quality=quality)


def record_exit(attempt: Path, **outcome: Any) -> None:
    """The agent of an attempt writes down how it ended; `attempt` is its directory."""
    folder = directory.open_directory(str(attempt))
    try:
        directory.write_exit(folder, ExitRecord(**outcome))
    finally:
        os.close(folder)


class Stage:
    """One experiment, and what the actors do to its runs."""

    def __init__(self, db: Database, experiment: str) -> None:
        self.db = db
        self.experiment = experiment

    @classmethod
    async def open(cls, db: Database) -> "Stage":
        request = ExperimentRequest(name="stage", task_type="test")
        return cls(db, (await db.write(experiments.create, request)).id)

    async def submit(self, recipe: str | None = "tiny", **more: Any) -> Run:
        request = RunRequest(model="tiny", recipe=recipe, **more)
        return await self.db.write(runs.submit, self.experiment, request, RECIPES)

    async def get(self, run: Run) -> Run:
        return await self.db.read(runs.get, run.id)

    async def claim(self, run: Run) -> Run:
        """The supervisor claims a launch, from the best source there is."""
        found = await self.db.read(launches.list_sources, run)
        source = found[0] if found else None
        held = await self.db.read(lambda tx: tx.first(_DATA_DIR))
        name = held.name if held else None
        claimed = await self.db.write(launches.claim, run, [], source, None, name)
        assert claimed is not None
        return claimed

    async def report(self, run: Run, **report: Any) -> reports.ReportResponse:
        """The trainer reports, as the attempt that the run had when it was read."""
        body = ReportRequest.model_validate({"attempt": run.attempt or 1} | report)
        return await self.db.write(reports.ingest, run.id, body)

    async def saves(
        self, run: Run, name: str, step: int, content: str = "", quality: Quality = NO_QUALITY
    ) -> None:
        """The trainer commits a checkpoint, and the service finds it good."""
        sha256 = manifest(step, content).sha256
        await self.report(run, checkpoints=[{"name": name, "step": step, "sha256": sha256}])
        if run.recipe is not None:
            path = CheckpointPath(run.experiment_id, run.id, name)
            found = manifest(step, content, quality)
            await self.db.write(saves.apply_verification, path, sha256, found)

    async def ends(self, run: Run, **evidence: Any) -> Run:
        """The trainer is gone; its promised checkpoints that are not ready are not there."""
        absent = frozenset(each.id for each in await self.checkpoints(run))
        found = Evidence(cancel_asked=False, **evidence)
        await self.db.write(endings.finish_attempt, run.id, run.attempt, found, None, absent)
        return await self.get(run)

    async def retries(self, run: Run, **evidence: Any) -> Run:
        """An attempt fails under a recipe that allows another one."""
        recipe = Recipe("tiny", ("true",), max_attempts=3)
        found = Evidence(cancel_asked=False, **evidence)
        await self.db.write(endings.finish_attempt, run.id, run.attempt, found, recipe, frozenset())
        queued = await self.get(run)
        assert (queued.status, queued.status_reason) == ("queued", "retrying")
        return queued

    async def run(self, status: str, recipe: str | None = "tiny", saved: bool = False) -> Run:
        """A run with this status; if it ever trained, at step 5 of 10."""
        run = await self.submit(recipe)
        if status == "queued":
            return run
        if recipe is not None:
            run = await self.claim(run)
        if status == "starting":
            assert recipe is not None, "an external run starts with its first report"
            return run
        await self.report(run, batch=1, step=5, total_steps=10)
        run = await self.get(run)
        if saved:
            await self.saves(run, SAVED, 5)
        if status in ("cancelling", "cancelled"):
            await self.db.write(runs.cancel, run.id)
        if status == "succeeded":
            await self.report(run, finished=True)
        if status == "failed":
            await self.db.write(endings.request_termination, run, Reason.HEARTBEAT_LOST, "Silence.")
        if status in ("cancelled", "succeeded", "failed"):
            await self.ends(run)
        run = await self.get(run)
        assert run.status == status
        return run

    async def checkpoints(self, run: Run) -> list[Checkpoint]:
        return await self.db.read(checkpoints.list_of_run, run.id)

    async def named(self, run: Run, name: str) -> Checkpoint:
        """The checkpoint of this name."""
        path = str(CheckpointPath(run.experiment_id, run.id, name))
        found = await self.db.read(checkpoints.get_by_path, path)
        assert found is not None
        return found

    async def events(self) -> list[EventRow]:
        found = await self.db.read(events.list_after, self.experiment, 0, 10_000)
        assert [each.seq for each in found] == list(range(1, len(found) + 1)), "seq has a gap"
        return found
