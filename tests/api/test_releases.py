"""Releases: what was released when, and the gate before it."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import httpx
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.db.database import Database
from app.db.tables import Checkpoint, Run
from app.domain.gate import OPEN, Bound, Gate
from app.domain.ids import timestamp_after
from app.domain.paths import parse
from app.domain.permissions import DEFAULT_PROJECT
from app.domain.requests import ExperimentRequest, MarkRequest, VerifyRequest
from app.domain.team import ProjectRequest, ProjectUpdate
from app.errors import NotFound, ReleaseGate
from app.services import checkpoints, experiments, marks, projects, verifications
from app.services.verification import VerificationResult
from tests.api.conftest import running
from tests.support.graphql import Graph
from tests.support.stage import Stage, manifest
from tests.support.tenants import API_TOKEN, Person, operator, person

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
    found = await stage.db.read(marks.list_releases_at, stage.experiment, when)
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
    first = (await db.read(marks.list_releases_at, stage.experiment, times[2]))[0]
    assert (first.released_at, first.metrics) == (times[1], {"loss": 1.0})
    with pytest.raises(NotFound):
        await db.read(marks.list_releases_at, "exp_none", None)


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


async def test_a_project_may_want_more_than_the_service_and_never_less(db: Database) -> None:
    stage = await Stage.open(db)
    run = await stage.run("running")
    await stage.saves(run, "a", 1)
    least = Gate((Bound("loss", "<=", 2.0),))
    more = ProjectUpdate(release_metrics=["wer<0.1"], release_verified_hours=1)
    await db.write(projects.update, DEFAULT_PROJECT, more)
    with pytest.raises(ReleaseGate) as refused:
        await release(stage, run, "a", "v1", least, loss=3.0, wer=0.5)
    assert refused.value.extra["unmet"] == ["loss <= 2: it is 3", "wer < 0.1: it is 0.5"]
    approved = ProjectUpdate(release_approval=True)
    await db.write(projects.update, DEFAULT_PROJECT, approved)
    with pytest.raises(ReleaseGate, match="another maintainer"):
        await release(stage, run, "a", "v1", least, loss=1.0, wer=0.05)
    open_again = ProjectUpdate(release_metrics=None, release_approval=None)
    await db.write(projects.update, DEFAULT_PROJECT, open_again)
    with pytest.raises(ReleaseGate, match="loss <= 2"):
        await release(stage, run, "a", "v1", least, loss=3.0)
    assert (await release(stage, run, "a", "v1", least, loss=1.0)).release_tag == "v1"
    # The gate of one project is none of another one's.
    await db.write(projects.update, DEFAULT_PROJECT, more)
    other = (await db.write(projects.create, ProjectRequest(name="other"))).name
    request = ExperimentRequest(name="e", task_type="t", project=other)
    elsewhere = Stage(db, (await db.write(experiments.create, request)).id)
    run = await elsewhere.run("running")
    await elsewhere.saves(run, "a", 1)
    assert (await release(elsewhere, run, "a", "v1")).release_tag == "v1"


BOUNDS = st.lists(
    st.builds(Bound, st.sampled_from("ab"), st.sampled_from(("<=", ">")), st.integers(-3, 3)),
    max_size=3,
)  # fmt: skip
GATES = st.builds(Gate, BOUNDS.map(tuple), st.none() | st.sampled_from((1.0, 2.0)), st.booleans())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example(Gate((), 1.0), Gate((), 2.0), {}, True)
@example(Gate((Bound("a", ">", 0),)), Gate((Bound("b", ">", 0),)), {"a": 1}, True)
@given(GATES, GATES, st.dictionaries(st.sampled_from("ab"), st.integers(-4, 4)), st.booleans())
def test_a_joined_gate_passes_what_both_pass(
    one: Gate, other: Gate, metrics: dict[str, float], lately: bool
) -> None:
    at_ = timestamp_after(NOW, -4000 if lately else -8000)
    both = one.join(other)
    passes = [not gate.list_unmet(metrics, at_, NOW) for gate in (one, other, both)]
    assert passes[2] == (passes[0] and passes[1])
    assert both.needs_approval == (one.needs_approval or other.needs_approval)


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


def test_what_a_release_was_at_a_time_is_asked_over_rest(tmp_path: Path) -> None:
    with running(tmp_path) as api:
        experiment = api.post("/v1/experiments", {"name": "a", "task_type": "t"})["experiment_id"]
        run = api.post(f"/v1/experiments/{experiment}/runs", {"model": "m"})["run_id"]
        base = f"/v1/experiments/{experiment}"

        def release(name: str, tag: str) -> str:
            """Release a checkpoint; return when that was, as the history has it."""
            path = f"/ckpts/{experiment}/{run}/{name}"
            mark = {"run_id": run, "ckpt_path": path, "tag_type": "release", "release_tag": tag}
            api.post(f"{base}/checkpoints/mark", mark)
            return str(api.send("GET", f"{base}/detail").json()["events"][-1]["at"])

        def known(when: str | None) -> dict[str, str]:
            params = {} if when is None else {"at": when}
            told = api.send("GET", f"{base}/releases", params=params).json()["releases"]
            return {each["release_tag"]: each["ckpt_path"].rsplit("/", 1)[1] for each in told}

        first, renamed, second = release("a", "prod"), release("a", "old"), release("b", "prod")
        assert known(first) == {"prod": "a"}
        assert known(renamed) == {"old": "a"}
        assert known(second) == known(None) == {"old": "a", "prod": "b"}
        assert known("2020-01-01T00:00:00Z") == {}
        at_first = datetime.fromisoformat(first)
        for hours in (-5, 8):  # the same instant, as somebody elsewhere writes it
            elsewhere = at_first.astimezone(timezone(timedelta(hours=hours)))
            assert known(elsewhere.isoformat()) == {"prod": "a"}


def test_a_release_needs_the_approval_of_somebody_else_who_still_maintains(
    tmp_path: Path,
) -> None:
    with running(tmp_path, api_token=API_TOKEN, release_approval=True) as api:
        admin = operator(api.send)
        ann, ben, cid = (person(admin, name, "p", "maintainer") for name in ("ann", "ben", "cid"))
        mel = person(admin, "mel", "p", "member")
        body = {"name": "robot", "kind": "service"}
        robot = admin.ok("POST", "/v1/users", body)["user_id"]
        members = f"/v1/projects/{ann.project_id}/members"
        admin.ok("POST", members, {"user": "robot", "role": "maintainer"})
        token = admin.ok("POST", "/v1/tokens", {"user": "robot", "scope": "maintainer"})["token"]
        machine = replace(ann, name="robot", user_id=robot, token=token)

        body = {"name": "a", "task_type": "t"}
        experiment = ann.ok("POST", "/v1/experiments", body)["experiment_id"]
        run = ann.ok("POST", f"/v1/experiments/{experiment}/runs", {"model": "m"})["run_id"]
        path = f"/v1/experiments/{experiment}/checkpoints/mark"

        def mark(who: Person, name: str, **more: object) -> httpx.Response:
            given = {"run_id": run, "ckpt_path": f"/ckpts/{experiment}/{run}/{name}"} | more
            return who.send("POST", path, json=given)

        def approve(who: Person, name: str, **more: object) -> int:
            return mark(who, name, tag_type="approved", **more).status_code

        def release(who: Person, name: str, **more: object) -> str:
            answer = mark(who, name, tag_type="release", release_tag=f"v-{name}", **more)
            return str(answer.json().get("code", answer.status_code))

        assert release(ann, "a") == "release_gate"
        assert approve(mel, "a") == 403  # a member
        for who in (ann, machine, admin):  # her own, a machine's, a token that anybody may have
            assert approve(who, "a") == 200
        assert approve(ben, "b") == 200  # another checkpoint
        assert release(ann, "a") == "release_gate"
        assert approve(ben, "a", metrics={"loss": 1.0}) == 200
        assert release(ben, "a") == "release_gate"  # his own, as ann's was of other metrics
        assert release(ann, "a", metrics={"loss": 9.0}) == "release_gate"  # not what he has seen
        assert release(ann, "a") == "200"
        # Whose approval it was is asked when it is used.
        for name, who in (("c", cid), ("d", cid), ("e", ben)):
            assert approve(who, name) == 200
        admin.ok("POST", members, {"user": "cid", "role": "member"})
        assert release(ann, "c") == "release_gate"
        admin.ok("DELETE", f"{members}/{cid.user_id}")
        assert release(ann, "c") == "release_gate"
        admin.ok("POST", members, {"user": "cid", "role": "maintainer"})
        assert release(ann, "c") == "200"
        admin.ok("PATCH", f"/v1/users/{cid.user_id}", {"disabled": True})
        assert release(ann, "d") == "release_gate"
        # Two may approve the same; then either may release it.
        assert approve(ann, "e") == 200
        graph = Graph(ben.send)
        given = {"runId": run, "ckptPath": f"/ckpts/{experiment}/{run}/e", "releaseTag": "v-e"}
        answer = graph.do("markCheckpoint", "checkpoint { releaseTag }", tagType="release", **given)
        assert answer == {"checkpoint": {"releaseTag": "v-e"}, "userErrors": []}


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
    assert (bound.explain_unmet({"val/loss": value}) is None) == met[how]


def test_the_age_of_a_reading_counts_from_its_end() -> None:
    gate = Gate(verified_hours=24)
    assert gate.list_unmet({}, timestamp_after(NOW, -24 * 3600), NOW) == []
    assert gate.list_unmet({}, timestamp_after(NOW, -24 * 3600 - 1), NOW) != []
