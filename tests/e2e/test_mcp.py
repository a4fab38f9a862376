"""`llm-train mcp` with the protocol's own client, over stdio, against a real service.

The protocol's packages take a second to import: these tests do, and not each process that collects.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from app.mcp import bounded
from tests.support.server import REPOSITORY, Server, end_trainers, running_server

if TYPE_CHECKING:
    from mcp import Client

pytestmark = pytest.mark.anyio


@pytest.fixture
def tools_module() -> ModuleType:
    """The module of the tools."""
    from app.mcp import server

    return server


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("mcp")
    with running_server(place) as running:
        yield running
    end_trainers(place / "data")


@asynccontextmanager
async def agent(served: Server, home: Path, *arguments: str) -> AsyncIterator["Client"]:
    from mcp import Client, StdioServerParameters
    from mcp.client.stdio import stdio_client

    environment = {"LLM_TRAIN_API_URL": served.url, "XDG_CONFIG_HOME": str(home)}
    command = StdioServerParameters(
        command=sys.executable, args=["-m", "app.cli.main", "mcp", *arguments],
        env=environment, cwd=REPOSITORY,
    )  # fmt: skip
    async with Client(stdio_client(command)) as client:
        yield client


async def call(client: "Client", tool: str, /, **arguments: Any) -> Any:
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    answer = result.structured_content
    assert answer is not None and isinstance(answer["truncated"], bool)
    assert len(json.dumps(answer)) <= bounded.MAX_BYTES + 100
    return answer


async def test_an_agent_reads_by_default_and_can_change_nothing(
    served: Server, tmp_path: Path, tools_module: ModuleType
) -> None:
    async with agent(served, tmp_path) as client:
        tools = (await client.list_tools()).tools
        assert {tool.name for tool in tools} == set(tools_module.READING)
        assert all(tool.annotations and tool.annotations.read_only_hint for tool in tools)
        assert all(tool.description for tool in tools)
        refused = await client.call_tool("cancel_run", {"run": "@last"})
        assert refused.is_error


async def test_an_agent_submits_watches_cancels_and_resumes(
    served: Server, tmp_path: Path, tools_module: ModuleType
) -> None:
    async with agent(served, tmp_path, "--write") as client:
        recipes = await call(client, "list_recipes")
        assert "demo" in [row["name"] for row in recipes["recipes"]]
        slow = {"steps": 100_000, "step_delay_ms": 5}
        made = await call(
            client, "submit_run", experiment="agents", recipe="demo", hyperparams=slow, name="a"
        )
        run = made["run_id"]
        while not (await call(client, "get_run", run=run))["metrics"]:
            pass
        stopped = await call(client, "cancel_run", run=run[-6:])
        assert stopped["checkpoint"]["ckpt_path"].startswith("/ckpts/")
        while (await call(client, "get_run", run="a"))["status"] != "cancelled":
            pass
        child = await call(
            client, "resume_run", run=run, override_hyperparams={"steps": 1, "step_delay_ms": 0}
        )
        assert child["parent_run_id"] == run
        listed = await call(client, "list_runs", experiment="agents", limit=1)
        assert [row["run_id"] for row in listed["runs"]] == [child["run_id"]]
        assert listed["truncated"], "there are two"
        curves = await call(client, "get_metrics", run=run, keys=["loss"], points=10_000)
        (curve,) = curves["curves"]
        assert 0 < len(curve["steps"]) <= tools_module.MAX_POINTS
        assert curve["summary"]["lowest"] <= curve["summary"]["highest"]
        log = await call(client, "tail_log", run=run, lines=3)
        assert 0 < len(log["log"]) <= 4
        compared = await call(client, "compare_runs", runs=[run, child["run_id"]])
        assert "hyperparams.steps" in [row["key"] for row in compared["differences"]]
        for name, arguments in (
            ("get_run", {"run": "no such"}),
            ("tail_log", {"run": "@last:failed"}),
        ):
            refused = await client.call_tool(name, arguments)
            assert refused.is_error and "not_found" in str(refused.content)


def fill(served: Server) -> list[str]:
    """Make runs that hold as much as they may; return some of their ids."""
    with httpx.Client(base_url=served.url) as http:
        experiment = http.post("/v1/experiments", json={"name": "large", "task_type": "t"}).json()
        path = f"/v1/experiments/{experiment['experiment_id']}/runs"
        for number in range(40):
            body = {
                "model": "m", "name": "n" * 200, "notes": "x" * 9_000,
                "hyperparams": {f"k{number}-{key}": "v" * 50 for key in range(600)},
            }  # fmt: skip
            assert http.post(path, json=body).status_code == 201
        return [row["run_id"] for row in http.get(f"{path}?limit=10").json()["runs"]]


async def test_an_answer_is_bounded_whatever_a_run_holds(
    served: Server, tmp_path: Path, tools_module: ModuleType
) -> None:
    runs = await asyncio.to_thread(fill, served)
    async with agent(served, tmp_path) as client:
        assert (await call(client, "get_run", run=runs[0]))["truncated"]
        assert (await call(client, "compare_runs", runs=runs[:9]))["truncated"]
        assert len((await call(client, "list_runs", limit=1_000))["runs"]) <= tools_module.MAX_RUNS


def test_what_is_cut_says_so() -> None:
    whole = {"a": [1, 2, {"b": "c"}]}
    assert bounded.cut_answer(dict(whole)) == {**whole, "truncated": False}
    deep: Any = "x"
    for _ in range(20):
        deep = [deep]
    for value in ("x" * 5_000, list(range(500)), {str(n): n for n in range(500)}, deep):
        assert bounded.cut_answer({"value": value})["truncated"]
    rows = bounded.cut_answer({"rows": ["y" * 1_000] * 150}, "rows")
    assert rows["truncated"] and 0 < len(rows["rows"]) < 150
