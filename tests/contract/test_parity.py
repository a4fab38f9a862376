"""One story told through REST and through GraphQL leaves the same database and the same history.

Every operation meets a run of every status, with good input and bad; what each face answers (the
ids, or the error's code and sentence) must be equal too. Ids and times are normalised.
"""

import asyncio
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from app.db.sql import Tx
from app.domain.lifecycle import RunStatus
from app.services import runs
from tests.api.conftest import Api, running
from tests.support.graphql import Graph

S = RunStatus
PATHS: dict[RunStatus, tuple[RunStatus, ...]] = {
    S.QUEUED: (),
    S.STARTING: (S.STARTING,),
    S.RUNNING: (S.STARTING, S.RUNNING),
    S.CANCELLING: (S.STARTING, S.RUNNING, S.CANCELLING),
    S.CANCELLED: (S.CANCELLED,),
    S.SUCCEEDED: (S.STARTING, S.RUNNING, S.SUCCEEDED),
    S.FAILED: (S.STARTING, S.RUNNING, S.FAILED),
}


def snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda letter: f"_{letter[1].lower()}", name)


class Rest:
    """What a client does, over REST. Fields have their GraphQL names."""

    def __init__(self, api: Api) -> None:
        self.api = api

    def _post(self, path: str, fields: dict[str, Any], answer: Callable[[Any], Any]) -> Any:
        key = fields.pop("idempotencyKey", None)
        body = {
            snake(name): {snake(k): v for k, v in value.items()} if name == "resources" else value
            for name, value in fields.items()
        }
        headers = {"Idempotency-Key": key} if key is not None else {}
        found = self.api.send("POST", f"/v1{path}", json=body, headers=headers)
        told = found.json()
        if found.status_code >= 400:
            return told["code"], [error["pointer"] for error in told.get("errors", [])]
        return answer(told), found.headers.get("idempotent-replayed") == "true"

    def experiment(self, **fields: Any) -> Any:
        return self._post("/experiments", fields, lambda told: told["experiment_id"])

    def run(self, experiment: str, **fields: Any) -> Any:
        path = f"/experiments/{experiment}/runs"
        return self._post(path, fields, lambda t: (t["run_id"], t["status"], "run_token" in t))

    def cancel(self, experiment: str, run: str, **fields: Any) -> Any:
        path = f"/experiments/{experiment}/runs/{run}/cancel"
        return self._post(path, fields, lambda t: (t["status"], t["ckpt_path"]))

    def resume(self, experiment: str, run: str, **fields: Any) -> Any:
        path = f"/experiments/{experiment}/runs/{run}/resume"
        return self._post(path, fields, lambda t: (t["run_id"], t["status"], t["hyperparams"]))

    def mark(self, experiment: str, run: str, **fields: Any) -> Any:
        path = f"/experiments/{experiment}/checkpoints/mark"
        return self._post(path, {"runId": run} | fields, lambda t: (t["ckpt_path"], t["state"]))


class GraphQL:
    """The same, over GraphQL."""

    def __init__(self, api: Api) -> None:
        self.graph = Graph(api.send)

    def _do(self, name: str, select: str, fields: Any, answer: Callable[[Any], Any]) -> Any:
        payload = self.graph.do(name, f"{select} replayed", **fields)
        if payload["userErrors"]:
            errors = payload["userErrors"]
            pointers = [
                "/" + "/".join(snake(part) for part in error["field"][1:])
                for error in errors
                if error["field"]
            ]
            return errors[0]["code"], pointers
        return answer(payload), payload["replayed"]

    def experiment(self, **fields: Any) -> Any:
        return self._do(
            "createExperiment", "experiment { id }", fields, lambda p: p["experiment"]["id"]
        )

    def run(self, experiment: str, **fields: Any) -> Any:
        return self._do(
            "createRun", "run { id status } runToken", {"experimentId": experiment} | fields,
            lambda p: (p["run"]["id"], p["run"]["status"].lower(), p["runToken"] is not None),
        )  # fmt: skip

    def cancel(self, experiment: str, run: str, **fields: Any) -> Any:
        return self._do(
            "cancelRun", "run { status } checkpoint { ckptPath }", {"runId": run} | fields,
            lambda p: (p["run"]["status"].lower(), p["checkpoint"]["ckptPath"]),
        )  # fmt: skip

    def resume(self, experiment: str, run: str, **fields: Any) -> Any:
        return self._do(
            "resumeRun", "run { id status hyperparams }", {"runId": run} | fields,
            lambda p: (p["run"]["id"], p["run"]["status"].lower(), p["run"]["hyperparams"]),
        )  # fmt: skip

    def mark(self, experiment: str, run: str, **fields: Any) -> Any:
        return self._do(
            "markCheckpoint", "checkpoint { ckptPath state }", {"runId": run} | fields,
            lambda p: (p["checkpoint"]["ckptPath"], p["checkpoint"]["state"].lower()),
        )  # fmt: skip


@pytest.fixture(scope="module", params=[None, "demo"], ids=["external", "with a recipe"])
def recipe(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with pytest.MonkeyPatch.context() as patch:
        # The stories move the runs themselves; nothing is to happen in the background.
        patch.setattr("app.supervisor.Supervisor.run", _idle)
        with running(tmp_path_factory.mktemp("parity")) as api:
            yield api


async def _idle(self: Any) -> None:
    return None


def write(api: Api, use_case: Any, *args: Any) -> Any:
    db = api.app.state.db
    return asyncio.run_coroutine_threadsafe(db.write(use_case, *args), db._loop).result(10)


def reach(tx: Tx, run_id: str, status: RunStatus) -> None:
    for to in PATHS[status]:
        launched: dict[str, Any] = {"attempt": 1} if to is S.STARTING else {}
        runs.move(tx, runs.lock(tx, run_id), to, **launched)


def normalised(value: Any) -> Any:
    """Ids by the order of their appearance, times by none."""
    names: dict[str, str] = {}
    numbers: dict[str, Iterator[int]] = {}

    def name(match: re.Match[str]) -> str:
        kind = match[1]
        if match[0] not in names:
            names[match[0]] = f"{kind}-{next(numbers.setdefault(kind, count(1)))}"
        return names[match[0]]

    text = re.sub(r"(exp|run|ckpt)_[0-9a-z]{26}", name, repr(value))
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+\+00:00", "T", text)


def stored(api: Api, experiment: str) -> Any:
    """All rows of an experiment."""
    path = api.settings.database_url.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection:
        connection.row_factory = sqlite3.Row
        rows = []
        for table, column, order in (
            ("experiment", "id", "id"),
            ("experiment_tag", "experiment_id", "tag"),
            ("run", "experiment_id", "id"),
            ("checkpoint", "experiment_id", "id"),
            ("event", "experiment_id", "seq"),
        ):
            query = f"SELECT * FROM {table} WHERE {column} = ? ORDER BY {order}"
            rows += [(table, dict(row)) for row in connection.execute(query, (experiment,))]
    return rows


def tell(api: Api, face: Any, story: Callable[..., Any]) -> str:
    """Return what a story answers and leaves behind."""
    answers, experiment = story(api, face)
    return "\n".join(map(normalised, [(answers, stored(api, experiment))]))


def both(api: Api, story: Callable[..., Any]) -> None:
    rest, graphql = tell(api, Rest(api), story), tell(api, GraphQL(api), story)
    assert rest == graphql


def begin(face: Any, recipe: str | None, **fields: Any) -> tuple[str, str]:
    experiment, _ = face.experiment(name="parity", taskType="sft", tags=["a", "b"])
    made, _ = face.run(
        experiment, model="m", recipe=recipe, hyperparams={"lr": 0.1}, notes="n",
        dataset={"name": "d"}, resources={"gpuType": "A100", "count": 2}, **fields,
    )  # fmt: skip
    return experiment, made[0]


def test_creating_and_its_errors(api: Api, recipe: str | None) -> None:
    def story(api: Api, face: Any) -> Any:
        experiment, run = begin(face, recipe)
        answers = [
            face.experiment(
                name="all", taskType="sft", goal="g", version="v", baseModel="b", owner="o",
                paramConfig={"a": [1, None, "é"]}, tags=["x"],
            )[1],
            face.experiment(name="", taskType="sft"),
            face.experiment(name="n" * 201, taskType="\0"),
            face.experiment(name="n", taskType="t", paramConfig={"a": 2**64}),
            face.experiment(name="n", taskType="t", tags=["x"] * 51),
            face.run("exp_nothing", model="m"),
            face.run(experiment, model=""),
            face.run(experiment, model="m", recipe="nothing"),
            face.run(experiment, model="m", recipe="Not A Slug"),
            face.run(experiment, model="m", resources={"count": -1}),
            face.run(experiment, model="m", hyperparams={"a": "x" * 70_000}),
            (experiment, run),
        ]  # fmt: skip
        return answers, experiment

    both(api, story)


@pytest.mark.parametrize("status", PATHS)
def test_every_operation_on_every_status(api: Api, recipe: str | None, status: RunStatus) -> None:
    def story(api: Api, face: Any) -> Any:
        experiment, run = begin(face, recipe)
        other_experiment, other = begin(face, recipe)
        write(api, reach, run, status)
        prefix = f"/ckpts/{experiment}/{run}"
        answers = [
            (experiment, run, other_experiment, other),
            face.resume(experiment, run),
            face.resume(experiment, run, overrideHyperparams={"lr": 0.01}, notes="again"),
            face.resume(experiment, run, ckptPath=f"{prefix}/declared"),
            face.cancel(experiment, run),
            face.cancel(experiment, run),
            face.resume(experiment, run),
            face.resume(experiment, run, ckptPath=f"{prefix}/../x"),
            face.resume(experiment, run, ckptPath=f"/ckpts/{other_experiment}/{other}/x"),
            face.resume(experiment, run, ckptPath="s3://x"),
            face.mark(experiment, run, ckptPath=f"{prefix}/a", tagType="candidate"),
            face.mark(experiment, run, ckptPath=f"{prefix}/a", tagType="candidate"),
            face.mark(
                experiment, run, ckptPath=f"{prefix}/a", tagType="release", releaseTag="v1",
                metrics={"loss": 1.5},
            ),
            face.mark(
                experiment, run, ckptPath=f"{prefix}/b", tagType="release", releaseTag="v1"
            ),
            face.mark(experiment, run, ckptPath=f"{prefix}/c", tagType="Bad Tag"),
            face.mark(experiment, run, ckptPath=f"{prefix}/.c", tagType="t"),
            face.mark(experiment, run, ckptPath=f"{prefix}/c", tagType="t", metrics={"a": "x"}),
        ]  # fmt: skip
        return answers, experiment

    both(api, story)


def test_keys(api: Api, recipe: str | None) -> None:
    def story(api: Api, face: Any) -> Any:
        key = {"idempotencyKey": f"{type(face).__name__}-{recipe}"}
        made = [face.experiment(name="k", taskType="t", **key) for _ in range(2)]
        experiment = made[0][0]
        answers = [*made, face.experiment(name="other", taskType="t", **key)]
        submitted = [face.run(experiment, model="m", recipe=recipe, **key) for _ in range(2)]
        run = submitted[0][0][0]
        answers += [*submitted, face.run(experiment, model="n", recipe=recipe, **key)]
        answers += [face.cancel(experiment, run, **key) for _ in range(2)]
        answers += [face.resume(experiment, run, **key) for _ in range(2)]
        mark = {"ckptPath": f"/ckpts/{experiment}/{run}/a", "tagType": "t"} | key
        answers += [face.mark(experiment, run, **mark) for _ in range(2)]
        assert [each[1] for each in made] == [False, True]
        return answers, experiment

    both(api, story)


def test_a_run_whose_recipe_is_gone_is_not_resumed(
    api: Api, recipe: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def story(api: Api, face: Any) -> Any:
        experiment, run = begin(face, recipe)
        face.cancel(experiment, run)
        key = {"idempotencyKey": f"gone-{type(face).__name__}-{recipe}"}
        answers = [face.resume(experiment, run, **key)]
        with monkeypatch.context() as gone:
            gone.delitem(api.app.state.recipes, "demo")
            answers += [face.resume(experiment, run, **key), face.resume(experiment, run)]
        assert answers[1] == (answers[0][0], True)
        if recipe is not None:
            assert answers[2] == ("unknown_recipe", [])
        return answers, experiment

    both(api, story)


def test_the_comparison_sees_a_difference(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    def story(api: Api, face: Any) -> Any:
        experiment, run = begin(face, None)
        return [face.cancel(experiment, run)], experiment

    def cancels_and_shows_the_run_as_it_was(tx: Any, run_id: str) -> Any:
        before = runs.get(tx, run_id)
        return runs.cancel(tx, run_id)._replace(run=before)

    both(api, story)
    other = SimpleNamespace(submit=runs.submit, cancel=cancels_and_shows_the_run_as_it_was)
    monkeypatch.setattr("app.graphql.mutations.runs.runs", other)
    rest, graphql = tell(api, Rest(api), story), tell(api, GraphQL(api), story)
    assert rest != graphql
    with pytest.raises(AssertionError):
        both(api, story)


@pytest.mark.parametrize("kind", [Rest, GraphQL])
def test_generations_of_overrides_stay_within_what_a_run_may_hold(
    api: Api, recipe: str | None, kind: type[Rest | GraphQL]
) -> None:
    face, third = kind(api), "x" * 20_000
    experiment = face.experiment(name="a", taskType="b")[0]
    run = face.run(experiment, model="m", recipe=recipe, hyperparams={"0": third})[0][0]
    for override in ({"1": third}, {"2": third}):
        face.cancel(experiment, run)
        (run, _, hyperparams), _ = face.resume(experiment, run, overrideHyperparams=override)
    assert hyperparams == {"0": third, "1": third, "2": third}
    face.cancel(experiment, run)
    before = api.digest()
    for path in ({}, {"ckptPath": f"/ckpts/{experiment}/{run}/declared"}):
        refused = face.resume(experiment, run, overrideHyperparams={"3": third}, **path)
        assert refused == ("invalid_input", ["/override_hyperparams"])
    assert api.digest() == before
    (_, _, hyperparams), _ = face.resume(experiment, run, overrideHyperparams={"2": "less"})
    assert hyperparams == {"0": third, "1": third, "2": "less"}
