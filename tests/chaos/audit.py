"""The audit of a story, on the database and the disk that it left: a list of broken promises."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

from app.db.connect import connect
from app.db.rows import EventRow
from app.db.sql import Tx, load
from app.db.tables import Run
from app.domain import paths
from app.domain.lifecycle import MOVES, TERMINAL, RunStatus
from app.services import checkpoints, curves, events, runs, verification
from app.services.curves import Window
from app.storage import get_storage
from tests.chaos.storm import Acknowledged, Story


async def audit(story: Story, database_url: str, data_dir: Path) -> list[str]:
    """Return what is broken. Call it when no server runs."""
    db = connect(database_url)
    await db.start()
    try:
        return [*story.broken, *await db.scan(_audit, story, data_dir)]
    finally:
        await db.stop()


def _audit(tx: Tx, story: Story, data_dir: Path) -> list[str]:
    found: list[str] = []
    history: dict[str, list[EventRow]] = {}
    for experiment in story.experiments:
        history[experiment] = events.list_after(tx, experiment, 0, 10_000_000)
        found += gapless(experiment, [each.seq for each in history[experiment]])
    everything = [each for each_of in history.values() for each in each_of]
    found += acknowledged(tx, story, everything)
    by_run: dict[str, list[EventRow]] = {}
    for event in everything:
        by_run.setdefault(event.run_id or "", []).append(event)
    for run_id, told in by_run.items():
        if run_id:
            run = runs.get(tx, run_id)
            found += lifecycle(run, [each.type for each in told])
            found += launched_once(run, data_dir, story.ledger)
            found += points(tx, run)
            found += files(tx, run, data_dir)
    return found


def gapless(experiment: str, numbers: list[int]) -> list[str]:
    """The events of an experiment are numbered 1, 2, 3, …"""
    return [] if numbers == list(range(1, len(numbers) + 1)) else [f"{experiment}: seq has gaps"]


def acknowledged(tx: Tx, story: Story, told: list[EventRow]) -> list[str]:
    """Each acknowledged request had its effect, and had it once; nothing else happened."""
    found = []
    queued = Counter(runs.get(tx, each.run_id or "").notes for each in told if _is_new(each))
    marks = Counter(
        key
        for each in told
        if each.type == "checkpoint.marked"
        for key in _new_keys(load(each.data)["metrics"], each, told)
    )
    acked = {"queued": set[str](), "marks": set[str]()}
    for each in story.acknowledged:
        if each.kind in ("submit", "resume"):
            acked["queued"].add(each.key)
            if queued[each.key] != 1:
                found.append(f"{each.kind} {each.key}: {queued[each.key]} runs")
        elif each.kind == "mark":
            acked["marks"].add(each.key)
            if marks[each.key] != 1:
                found.append(f"mark {each.key}: {marks[each.key]} times")
        elif each.kind == "cancel":
            run = runs.get(tx, each.path.split("/")[4])
            if run.status != RunStatus.CANCELLED:
                found.append(f"cancel of {run.id} acknowledged; it is {run.status}")
            elif not _promise_kept(tx, each):
                found.append(f"cancel of {run.id}: no outcome under the promised path")
        elif each.kind == "report":
            found += _reported(tx, each)
    for what, counts in (("queued", queued), ("marks", marks)):
        extra = set(counts) - acked[what]
        found += [f"{what} {key}: done, and never acknowledged" for key in extra]
    return found


def _is_new(event: EventRow) -> bool:
    return event.type == "run.queued" and load(event.data).get("reason") != "retrying"


def _new_keys(now: dict[str, Any], event: EventRow, told: list[EventRow]) -> set[str]:
    """The metrics that this mark added: a checkpoint collects those of all its marks."""
    checkpoint = load(event.data)["checkpoint_id"]
    before = [
        load(each.data)["metrics"]
        for each in told
        if each.type == "checkpoint.marked"
        and each.experiment_id == event.experiment_id
        and each.seq < event.seq
        and load(each.data)["checkpoint_id"] == checkpoint
    ]
    return set(now) - (set(before[-1]) if before else set())


def _promise_kept(tx: Tx, cancel: Acknowledged) -> bool:
    promised = checkpoints.get_by_path(tx, json.loads(cancel.content)["ckpt_path"])
    return promised is not None and promised.state in (
        "ready", "empty", "declared", "lost", "deleted",
    )  # fmt: skip


def _reported(tx: Tx, report: Acknowledged) -> list[str]:
    (point,) = report.body["points"]
    run_id = report.path.split("/")[2]
    window = Window(limit=1_000_000)
    for series in curves.read(tx, [run_id], [point["key"]], window, raw=True):
        if point["step"] in list(series.steps):
            return []
    return [f"report {report.key}: its point is lost"]


def lifecycle(run: Run, told: list[str]) -> list[str]:
    """The history of a run is a walk along legal moves, and ends where the run is."""
    names = {status.value for status in RunStatus}
    moves = [each.removeprefix("run.") for each in told]
    walk = [RunStatus(each) for each in moves if each in names]
    found = [f"{run.id}: {old} → {new}" for old, new in pairwise(walk) if new not in MOVES[old]]
    if walk[0] != RunStatus.QUEUED or walk[-1] != run.status or run.status not in TERMINAL:
        found.append(f"{run.id}: {run.status} after {walk}")
    return found


def launched_once(run: Run, data_dir: Path, ledger: Path | None = None) -> list[str]:
    """No attempt has two trainers, and no trainer is of an attempt that was not claimed.

    `ledger`: of the starts of all runs, where trainers have directories of their own.
    """
    file = ledger or data_dir / "runs" / run.id / "launches.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    if ledger is not None:
        lines = [line.partition(" ")[2] for line in lines if line.startswith(f"{run.id} ")]
    attempts = Counter(int(line.split()[0]) for line in lines)
    return [
        f"{run.id}: attempt {attempt} of {run.attempt} launched {count} times"
        for attempt, count in attempts.items()
        if count != 1 or attempt > run.attempt
    ]


def points(tx: Tx, run: Run) -> list[str]:
    """A run that trained to its end has every step's loss, once, and the value of that step."""
    if run.status != RunStatus.SUCCEEDED or run.recipe is None:
        return []
    (loss,) = curves.read(tx, [run.id], ["loss"], Window(limit=1_000_000))
    steps = list(loss.steps)
    if steps != list(range(1, run.step + 1)):
        return [f"{run.id}: {run.step} steps, and points of {steps}"]
    wrong = [step for step, value in zip(steps, loss.values, strict=True)
             if abs(value - 0.99**step) > 1e-9]  # fmt: skip
    return [f"{run.id}: wrong values at {wrong}"] if wrong else []


def files(tx: Tx, run: Run, data_dir: Path) -> list[str]:
    """Every ready checkpoint is whole; every promise is settled; nothing partial is left."""
    storage = get_storage("directory:", data_dir)
    found = []
    for each in checkpoints.list_of_run(tx, run.id):
        if each.state == "pending":
            found.append(f"{each.ckpt_path} is still pending")
        if each.state == "ready" and each.stored_as_id is None:
            path = paths.parse(each.ckpt_path)
            manifest = verification.verify_files(storage, path, each.sha256).manifest
            if isinstance(manifest, str) or manifest.sha256 != each.sha256:
                found.append(f"{each.ckpt_path} is ready and not whole: {manifest}")
    place = data_dir / "ckpts" / run.experiment_id / run.id
    return found + [f"{partial} is left" for partial in place.glob(".t*")]
