"""GraphiQL at /graphql in a real browser that is cut off from the internet."""

import json
from typing import Any

import pytest
from playwright.sync_api import Page

from tests.support.server import Server, wait_until

EDITOR, RESULT = ".graphiql-query-editor .CodeMirror", ".result-window .CodeMirror"
READ = "editor => editor.CodeMirror.getValue()"
WRITE = "(editor, text) => editor.CodeMirror.setValue(text)"
# GraphiQL looks at the text a moment after it was typed, and remembers what it found.
OPERATION_SEEN = "name => localStorage.getItem('graphiql:operationName') === name"


class GraphiQL:
    """The page as a person uses it."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        page.goto(f"{server.url}/graphql")
        page.wait_for_selector(RESULT)

    def start(self, example: str, **fill_in: str) -> None:
        """Open an example's tab, replace its placeholders (`exp_…`) and press play."""
        self.page.get_by_role("tab", name=example).click()
        text = self.page.eval_on_selector(EDITOR, READ)
        for placeholder, value in fill_in.items():
            gap = f'"{placeholder}…"'
            assert gap in text
            text = text.replace(gap, json.dumps(value))
        self.page.eval_on_selector(EDITOR, WRITE, text)
        self.page.wait_for_function(OPERATION_SEEN, arg=example)
        self.page.eval_on_selector(RESULT, WRITE, "")
        self.page.get_by_role("button", name="Execute query").click()

    def answer(self, field: str) -> dict[str, Any]:
        """The answer's `data.{field}`, once there is one."""

        def shown() -> Any:
            text = self.page.eval_on_selector(RESULT, READ)
            return json.loads(text) if text.startswith("{") else None

        answer = wait_until(shown, f"GraphiQL shows an answer with {field}")
        assert "errors" not in answer, answer
        found: dict[str, Any] = answer["data"][field]
        assert not found.get("userErrors"), found
        return found

    def run(self, example: str, **fill_in: str) -> dict[str, Any]:
        self.start(example, **fill_in)
        return self.answer(example[0].lower() + example[1:])


@pytest.mark.heavy
def test_the_example_tabs_lead_a_newcomer_through_the_service(page: Page, server: Server) -> None:
    graphiql = GraphiQL(page, server)

    experiment = graphiql.run("CreateExperiment")["experiment"]["id"]
    run = graphiql.run("CreateRun", exp_=experiment)["run"]["id"]

    graphiql.start("WatchRun", run_=run)
    wait_until(lambda: graphiql.answer("run")["step"] > 0, "the subscription shows a step")
    page.get_by_role("button", name="Stop query").click()

    cancelled = graphiql.run("CancelRun", run_=run)
    path = cancelled["checkpoint"]["ckptPath"]
    assert path.startswith(f"/ckpts/{experiment}/{run}/")
    child = graphiql.run("ResumeRun", run_=run)["run"]
    assert child["hyperparams"]["learning_rate"] == 0.001
    marked = graphiql.run("MarkCheckpoint", run_=run, **{"/ckpts/": path})["checkpoint"]
    assert (marked["ckptPath"], marked["tagType"]) == (path, "candidate")

    graphiql.start("Browse")
    (found,) = graphiql.answer("experiments")["nodes"]
    runs = {run["id"]: run for run in found["runs"]["nodes"]}
    assert found["id"] == experiment
    assert set(runs) == {run, child["id"]}
    assert path in {ckpt["ckptPath"] for ckpt in runs[run]["checkpoints"]["nodes"]}


def test_the_explorer_and_the_schemas_documentation_open(page: Page, server: Server) -> None:
    GraphiQL(page, server)
    page.get_by_role("button", name="Show GraphiQL Explorer").click()
    page.get_by_text("createExperiment", exact=True).first.wait_for()
    page.get_by_role("button", name="Show Documentation Explorer").click()
    page.get_by_text("Root Types").wait_for()
