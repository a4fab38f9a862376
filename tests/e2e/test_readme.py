"""The README and the pages of `app/docs` show what works as it stands, but for the ids.

Their training loop needs PyTorch: tests/trainers/test_readme.py runs it.
"""

import json
import re
import shlex
from typing import Any

import httpx
import pytest

from app.domain.lifecycle import CheckpointState, Reason, RunStatus
from app.domain.recipe_file import KEYS as RECIPE_KEYS
from app.domain.recipe_file import parse_recipes
from app.settings import Settings
from app.web import guide
from tests.support.pages import PAGES, README, block
from tests.support.server import REPOSITORY, Server, wait_until


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
    return httpx.request(method, url, content=data, headers=headers, verify=False)


@pytest.fixture(scope="module", params=["README", "zh/quickstart"])
def page(request: pytest.FixtureRequest) -> str:
    """The pages that show the whole sequence."""
    return str(request.param)


@pytest.fixture(scope="module")
def answers(server: Server, page: str) -> list[tuple[str, httpx.Response]]:
    """Every curl of the page in order, each with its answer."""
    variables: dict[str, str] = {}
    told: list[tuple[str, httpx.Response]] = []
    script = block("bash", "REST", page).replace("\\\n", " ")
    for line in script.splitlines():
        if found := re.match(r"export (\w+)=\S+ +# (\w+) of the answer", line):
            variables[found[1]] = told[-1][1].json()[found[2]]
            if found[1] == "RUN":
                wait_until(lambda: trains(server, variables), "a step, for which a reader waits")
        elif line.startswith("curl "):
            for name, value in variables.items():
                line = line.replace(f"${name}", value)
            told.append((line, curl(line, server.url)))
    return told


def trains(server: Server, ids: dict[str, str]) -> bool:
    """Return True if the run of the page has taken a step."""
    path = f"/v1/experiments/{ids['EXPERIMENT']}/runs/{ids['RUN']}/status"
    return bool(httpx.get(server.url + path).json()["step"])


def test_every_curl_of_the_sequence_is_answered(answers: list[tuple[str, httpx.Response]]) -> None:
    assert [response.status_code for _, response in answers] == [
        201, 201, 200, 200, 200, 202, 201, 200,
    ]  # fmt: skip


def test_the_sequence_tells_one_story(answers: list[tuple[str, httpx.Response]]) -> None:
    experiment, run, status, curves, detail, cancelled, child, marked = (
        response.json() for _, response in answers
    )
    assert status["run_id"] == run["run_id"] and status["status"] == "running"
    assert [each["key"] for each in curves["series"] if each["steps"]] == ["loss"]
    assert detail["experiment"] == experiment
    assert cancelled["status"] == "cancelling"
    assert child["parent_run_id"] == run["run_id"]
    assert child["hyperparams"] == {"learning_rate": 4e-3, "steps": 100_000}
    assert marked["release_tag"] == "v1.0.0"
    assert marked["ckpt_path"] == cancelled["ckpt_path"] == child["ckpt_path"]


def test_the_release_of_the_sequence_is_what_was_trained(
    server: Server, answers: list[tuple[str, httpx.Response]]
) -> None:
    """And the resumed run goes on from it: the page marks no checkpoint that is empty."""
    marked, child = answers[-1][1].json(), answers[-2][1].json()
    experiment = f"{server.url}/v1/experiments/{marked['experiment_id']}"
    run = f"{experiment}/runs/{child['run_id']}"

    def release() -> dict[str, Any]:
        saved = httpx.get(f"{experiment}/checkpoints").json()
        (released,) = [each for each in saved["checkpoints"] if each["release_tag"]]
        return dict(released)

    wait_until(lambda: release()["state"] == "ready", lambda: str(release()))
    saved = release()["step"]
    wait_until(
        lambda: (httpx.get(f"{run}/status").json()["step"] or 0) > saved,
        "a step of the resumed run",
    )
    assert saved and httpx.post(f"{run}/cancel").status_code == 202


def test_the_run_without_a_recipe_waits_for_a_trainer(server: Server, page: str) -> None:
    shown = re.search(r"`(\{.*\"A100\".*\})`", PAGES[page])
    assert shown is not None
    experiment = httpx.post(f"{server.url}/v1/experiments", json={"name": "e", "task_type": "sft"})
    runs = f"{server.url}/v1/experiments/{experiment.json()['experiment_id']}/runs"
    run = httpx.post(runs, json=json.loads(shown[1])).json()
    assert run["status_reason"] == "waiting_for_trainer" and run["run_token"]


def test_the_graphql_query_is_answered(
    server: Server, page: str, answers: list[tuple[str, httpx.Response]]
) -> None:
    experiment = answers[0][1].json()["experiment_id"]
    answer: dict[str, Any] = httpx.post(
        f"{server.url}/graphql",
        json={"query": block("graphql", "GraphQL", page), "variables": {"id": experiment}},
    ).json()
    assert "errors" not in answer
    assert len(answer["data"]["experiment"]["runs"]["nodes"]) == 2


def test_the_recipe_is_one_that_the_service_reads_and_shows_every_key() -> None:
    text = block("toml", "", "recipes")
    assert "sft" in parse_recipes(text, "recipes.md")
    shown = set(re.findall(r"^(?:# )?(\w+) =", text, re.MULTILINE))
    assert shown | {"description", "env_allow"} == set(RECIPE_KEYS)


def rows(page: str, heading: str) -> list[str]:
    """Return the first cell of each row of the table whose first heading is this one."""
    table = PAGES[page].split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^\| `([^`]+)`", table, re.MULTILINE)


def test_every_setting_is_explained_and_every_explained_one_exists() -> None:
    assert sorted(rows("configuration", "`LLM_TRAIN_…`")) == sorted(
        map(str.upper, Settings.model_fields)
    )
    first = README.split("| `LLM_TRAIN_…` |", 1)[1].split("\n\n", 1)[0]
    assert {name.lower() for name in re.findall(r"`([A-Z_]+)`", first)} <= set(
        Settings.model_fields
    )


def test_every_default_that_is_shown_is_that_of_the_code() -> None:
    table = PAGES["configuration"] + README
    shown = re.findall(r"^\| `([A-Z_]+)` \| `([^`]+)` \|", table, re.MULTILINE)
    assert len(shown) > 20
    for name, default in shown:
        value = Settings.model_fields[name.lower()].default
        # 3600 for 3600.0, and `true` for True.
        assert default in (
            str(value),
            f"{value:g}" if isinstance(value, float) else str(value).lower(),
        )
    empty = re.findall(r"^\| `([A-Z_]+)` \|(?: unlimited)? \|", table, re.MULTILINE)
    assert len(empty) > 5
    assert not [name for name in empty if Settings.model_fields[name.lower()].default]


@pytest.mark.parametrize("language", ["", "zh/"])
def test_every_status_reason_and_state_is_explained(language: str) -> None:
    status, state = ("状态", "状态") if language else ("Status", "State")
    assert sorted(rows(f"{language}concepts", status)) == sorted(map(str, RunStatus))
    checkpoints = PAGES[f"{language}concepts"].rpartition(f"| {state} |")[2]
    assert re.findall(r"^\| `(\w+)`", checkpoints, re.MULTILINE) == [
        str(s) for s in CheckpointState
    ]
    if not language:
        assert set(rows("concepts", "`status_reason`")) == {str(each) for each in Reason}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_to_a_file(page: str) -> None:
    here = REPOSITORY / "README.md" if page == "README" else guide.DOCS / f"{page}.md"
    links = re.findall(r"\]\(([^)#]+)\)", PAGES[page])
    assert [link for link in links if not (here.parent / link).is_file()] == []


def test_the_readme_is_read_in_five_minutes() -> None:
    assert len(README.split()) <= 1000


@pytest.mark.parametrize("topic", guide.list_topics())
def test_the_guide_shows_each_page_with_its_tables_and_code(server: Server, topic: str) -> None:
    answer = httpx.get(f"{server.url}/guide/{topic}")
    assert answer.status_code == 200 and f">{PAGES[topic].splitlines()[0][2:]}</h1>" in answer.text
    assert ("<table>" in answer.text) == ("\n| ---" in PAGES[topic])


def test_a_page_that_is_none_is_named_with_those_that_are(server: Server) -> None:
    answer = httpx.get(f"{server.url}/guide/../../etc/passwd")
    assert answer.status_code == 404
    answer = httpx.get(f"{server.url}/guide/nothing")
    assert answer.status_code == 404 and "recipes" in answer.json()["detail"]
