"""/docs in a real browser that is cut off from the internet."""

import pytest
from playwright.sync_api import Page

from tests.support.server import Server


@pytest.mark.heavy
def test_try_it_out_creates_an_experiment(page: Page, server: Server) -> None:
    page.goto(f"{server.url}/docs")
    operation = page.locator(".opblock-post", has_text="/v1/experiments").first
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Try it out").click()
    body = '{"name": "from the docs page", "task_type": "pretrain"}'
    operation.locator("textarea.body-param__text").fill(body)
    operation.get_by_role("button", name="Execute").click()

    answer = operation.locator(".live-responses-table")
    answer.get_by_text("201").first.wait_for()
    assert '"name": "from the docs page"' in answer.inner_text()
