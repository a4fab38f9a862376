"""What the README shows works as it stands, with only the ids replaced."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.recipes import parse_recipes
from app.settings import Settings
from tests.support.server import REPOSITORY, Server, wait_until

README = (REPOSITORY / "README.md").read_text()


def block(language: str, heading: str) -> str:
    """The first block of this language under this heading."""
    section = README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    found = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert found is not None
    return found[1]


def curl(command: str, base: str) -> httpx.Response:
    """Makes the request of a curl command line."""
    words = shlex.split(command)[1:]
    method, url, data, headers = "GET", "", None, {}
    while words:
        match words.pop(0):
            case "-s":
                pass
            case "-X":
                method = words.pop(0)
            case "-H":
                name, _, value = words.pop(0).partition(": ")
                headers[name] = value
            case "-d":
                data, method = words.pop(0), "POST"
            case word:
                url = word
    assert url.startswith("http://127.0.0.1:8000/")
    url = base + url.removeprefix("http://127.0.0.1:8000")
    return httpx.request(method, url, content=data, headers=headers)


@pytest.fixture(scope="module")
def answers(server: Server) -> list[tuple[str, httpx.Response]]:
    """Every curl of the README in order, each with its answer."""
    variables: dict[str, str] = {}
    told: list[tuple[str, httpx.Response]] = []
    script = block("bash", "REST").replace("\\\n", " ")
    for line in script.splitlines():
        if found := re.match(r"export (\w+)=\S+ +# (\w+) of the answer", line):
            variables[found[1]] = told[-1][1].json()[found[2]]
        elif line.startswith("curl "):
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            told.append((line, curl(line, server.url)))
    return told


def test_every_curl_of_the_sequence_is_answered(answers: list[tuple[str, httpx.Response]]) -> None:
    assert [response.status_code for _, response in answers] == [
        201, 201, 200, 200, 200, 200, 201, 200,
    ]  # fmt: skip


def test_the_sequence_tells_one_story(answers: list[tuple[str, httpx.Response]]) -> None:
    experiment, run, status, curves, detail, cancelled, child, marked = (
        response.json() for _, response in answers
    )
    assert run["status_reason"] == "waiting_for_trainer"
    assert status["run_id"] == run["run_id"]
    assert [(each["key"], each["steps"]) for each in curves["series"]] == [("loss", [])]
    assert detail["experiment"] == experiment
    assert cancelled["status"] == "cancelled"
    assert child["parent_run_id"] == run["run_id"]
    assert child["hyperparams"] == {"learning_rate": 1e-5, "batch_size": 16}
    assert marked["release_tag"] == "v1.0.0"
    assert marked["ckpt_path"] == cancelled["ckpt_path"] == child["ckpt_path"]


def test_the_graphql_query_is_answered(
    server: Server, answers: list[tuple[str, httpx.Response]]
) -> None:
    experiment = answers[0][1].json()["experiment_id"]
    answer: dict[str, Any] = httpx.post(
        f"{server.url}/graphql",
        json={"query": block("graphql", "GraphQL"), "variables": {"id": experiment}},
    ).json()
    assert "errors" not in answer
    assert len(answer["data"]["experiment"]["runs"]["nodes"]) == 2


def test_the_recipe_is_one_that_the_service_reads() -> None:
    assert "sft" in parse_recipes(block("toml", "Your own trainer"), "README")


BEFORE_THE_LOOP = """\
import pickle
class torch:
    save = lambda state, path: path.write_bytes(pickle.dumps(state))
start, steps, loss, state = 0, 5, 0.5, {}
"""


def test_the_training_loop_attaches_by_the_variables_and_its_curve_is_there(
    server: Server, answers: list[tuple[str, httpx.Response]], tmp_path: Path
) -> None:
    (_, created), (submit, submitted), _, (metrics, _), *_ = answers
    run = curl(submit, server.url).json()
    assert run["run_id"] != submitted.json()["run_id"]
    (tmp_path / "train.py").write_text(BEFORE_THE_LOOP + block("python", "Your own trainer"))
    started = block("bash", "Your own trainer")
    for shown, real in (
        ("http://127.0.0.1:8000", server.url),
        ("run_…", run["run_id"]),
        ("rt_…", run["run_token"]),
        ("python ", f"{sys.executable} "),
    ):
        assert shown in started
        started = started.replace(shown, real)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    subprocess.run(["bash", "-ec", started], cwd=tmp_path, env=environment, check=True, timeout=60)
    asked = metrics.replace(submitted.json()["run_id"], run["run_id"])
    (curve,) = curl(asked, server.url).json()["series"]
    assert (curve["key"], curve["steps"], curve["values"]) == ("loss", [1, 2, 3, 4, 5], [0.5] * 5)
    detail = f"{server.url}/v1/experiments/{created.json()['experiment_id']}/runs/{run['run_id']}"
    wait_until(lambda: httpx.get(f"{detail}/status").json()["status"] == "succeeded", "it is over")


def test_every_setting_named_in_the_table_exists() -> None:
    table = README.split("## Configuration", 1)[1].split("\n## ", 1)[0]
    named = re.findall(r"`([A-Z_]+)`", table.split("| --- |", 1)[1])
    rows = [name for name in named if name.lower() in Settings.model_fields]
    assert {"HOST", "PORT", "DATABASE_URL", "DATA_DIR", "RECIPES", "API_TOKEN"} <= set(rows)
