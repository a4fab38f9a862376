"""Releases: what was released when, and the gate before it."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.db.database import Database
from app.db.tables import Checkpoint, Run
from app.domain.gate import OPEN, Bound, Gate
from app.domain.ids import timestamp_after
from app.domain.paths import parse
from app.domain.requests import MarkRequest, VerifyRequest
from app.errors import NotFound, ReleaseGate
from app.services import checkpoints, marks, verifications
from app.services.verification import VerificationResult
from tests.api.conftest import running
from tests.support.graphql import Graph
from tests.support.stage import Stage, manifest

pytestmark = pytest.mark.anyio
NOW = "2026-01-31T12:00:00.000000+00:00"


async def release(
    stage: Stage, run: Run, name: str, tag: str | None, gate: Gate = OPEN, **metrics: float
) -> Checkpoint:
    path = f"/ckpts/{run.experiment_id}/{run.id}/{name}"
    request = MarkRequest(
        run_id=run.id, ckpt_path=path, tag_type="release" if tag else "candidate",
        release_tag=tag, metrics=metrics,
    )  # fmt: skip
    return await stage.db.write(marks.mark, run.experiment_id, request, gate)


async def at(stage: Stage, when: str | None) -> dict[str, str]:
    """The releases as they were, as the names of the checkpoints."""
    found = await stage.db.read(marks.releases_at, stage.experiment, when)
    return {each.release_tag: each.ckpt_path.rsplit("/", 1)[1] for each in found}


async def test_what_a_release_was_at_any_time_is_known(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    for name, step in (("a", 1), ("b", 2)):
        await stage.saves(run, name, step, content=name)
    times = [(await stage.events())[-1].at]
    for name, tag in (("a", "prod"), ("b", None), ("a", "prod-old"), ("b", "prod")):
        await asyncio.sleep(0.002)
        await release(stage, run, name, tag, loss=1.0)
        times.append((await stage.events())[-1].at)
    assert [await at(stage, when) for when in times] == [
        {}, {"prod": "a"}, {"prod": "a"}, {"prod-old": "a"}, {"prod-old": "a", "prod": "b"},
    ]  # fmt: skip
    assert await at(stage, None) == await at(stage, times[-1])
    assert await at(stage, timestamp_after(times[1], -0.0005)) == {}
    first = (await db.read(marks.releases_at, stage.experiment, times[2]))[0]
    assert (first.released_at, first.metrics) == (times[1], {"loss": 1.0})
    with pytest.raises(NotFound):
        await db.read(marks.releases_at, "exp_none", None)


async def test_a_checkpoint_that_does_not_meet_the_gate_is_refused(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    await stage.saves(run, "a", 1)
    gate = Gate((Bound("loss", "<=", 2.0), Bound("acc", ">", 0.5)))
    before = await stage.events()
    with pytest.raises(ReleaseGate, match="has no acc") as refused:
        await release(stage, run, "a", "v1", gate, loss=2.5)
    assert refused.value.extra["unmet"] == [
        "loss <= 2: it is 2.5", "acc > 0.5: the checkpoint has no acc",
    ]  # fmt: skip
    assert await stage.events() == before
    assert (await stage.named(run, "a")).release_tag is None
    await release(stage, run, "a", None, gate, loss=2.5)  # a candidate need not meet it
    await release(stage, run, "a", "v1", gate, loss=2.0, acc=0.6)
    # Released is released: more metrics, or the same again, are no new release.
    await release(stage, run, "a", "v1", gate, loss=9.0)


async def test_files_that_were_read_long_ago_must_be_read_again(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    await stage.saves(run, "a", 1)
    path = f"/ckpts/{run.experiment_id}/{run.id}/a"
    gate = Gate(verified_hours=1)
    long_ago = timestamp_after((await stage.events())[-1].at, -3601)
    checkpoint = await stage.named(run, "a")
    await db.write(lambda tx: checkpoints.change(tx, checkpoint, saved_at=long_ago))
    with pytest.raises(ReleaseGate, match="the last time was"):
        await release(stage, run, "a", "v1", gate)
    with pytest.raises(ReleaseGate, match="never found to be whole"):
        await release(stage, run, "by-hand", "v1", gate)
    request = VerifyRequest(ckpt_path=path)
    started = await db.write(verifications.start, run.experiment_id, request)
    result = VerificationResult(parse(path), checkpoint.sha256, manifest(1))
    verification = started.verification.id
    await db.write(verifications.record_result, verification, checkpoint, result)
    assert (await release(stage, run, "a", "v1", gate)).release_tag == "v1"


def test_both_apis_keep_the_gate(tmp_path: Path) -> None:
    with running(tmp_path, release_metrics="loss<=2") as api:
        body = {"name": "a", "task_type": "t"}
        experiment = api.post("/v1/experiments", body)["experiment_id"]
        run = api.post(f"/v1/experiments/{experiment}/runs", {"model": "m"})["run_id"]
        path = f"/ckpts/{experiment}/{run}/a"
        mark = {"run_id": run, "ckpt_path": path, "tag_type": "release"}
        refused = api.send("POST", f"/v1/experiments/{experiment}/checkpoints/mark", json=mark)
        assert (refused.status_code, refused.json()["code"]) == (409, "release_gate")
        assert refused.json()["unmet"] == ["loss <= 2: the checkpoint has no loss"]
        graph = Graph(api.send)
        select = "checkpoint { releaseTag }"
        given = {"runId": run, "ckptPath": path, "tagType": "release", "releaseTag": "v1"}
        answer = graph.do("markCheckpoint", select, **given)
        assert [error["code"] for error in answer["userErrors"]] == ["release_gate"]
        answer = graph.do("markCheckpoint", select, **given, metrics={"loss": 1.5})
        assert answer["checkpoint"] == {"releaseTag": "v1"}
        found = api.send("GET", f"/v1/experiments/{experiment}/releases").json()["releases"]
        assert [each["release_tag"] for each in found] == ["v1"]


@pytest.mark.parametrize(
    "text", ["", "loss", "loss<", "<1", "loss=1", "loss<x", "loss<1<2", "a<nan"]
)
def test_a_bound_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Bound.parse(text)


@given(st.floats(-1e6, 1e6), st.sampled_from(["<", "<=", ">", ">="]), st.floats(-1e6, 1e6))
def test_a_bound_is_met_as_it_reads(value: float, how: str, limit: float) -> None:
    bound = Bound.parse(f"val/loss {how} {limit!r}")
    met = {"<": value < limit, "<=": value <= limit, ">": value > limit, ">=": value >= limit}
    assert (bound.unmet({"val/loss": value}) is None) == met[how]


def test_the_age_of_a_reading_counts_from_its_end() -> None:
    gate = Gate(verified_hours=24)
    assert gate.unmet({}, timestamp_after(NOW, -24 * 3600), NOW) == []
    assert gate.unmet({}, timestamp_after(NOW, -24 * 3600 - 1), NOW) != []
