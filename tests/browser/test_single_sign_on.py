"""A person signs in at a provider of another site, in a real browser."""

from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.openid import CLIENT, SECRET, certified
from tests.support.server import free_port, running_server

pytestmark = pytest.mark.heavy

TOKEN = "an-api-token-of-some-length"
BEARER = {"authorization": f"Bearer {TOKEN}"}


def sign_in(page: Page, *, known: bool = False) -> None:
    """Sign in as alice at the provider, which asks for no password where she is `known` to it."""
    page.get_by_role("link", name="Sign in with your organization").click()
    if not known:
        page.locator("[name=login]").fill("7")
        page.locator("[name=password]").fill("any")
        page.locator("button[type=submit]").click()
        page.get_by_role("button", name="Continue").click()
    page.wait_for_selector("[data-state=live]")


def test_a_browser_comes_back_from_another_site_signed_in_where_it_wanted_to_go(
    browser: Browser, tmp_path: Path
) -> None:
    """To a browser `localhost` and `127.0.0.1` are two sites: a Strict cookie is kept back."""
    port = free_port()
    here = f"http://localhost:{port}"
    people = {"7": {"preferred_username": "alice"}}
    with (
        certified(tmp_path, people, f"{here}/oidc-callback") as issuer,
        running_server(
            tmp_path, port=port, API_TOKEN=TOKEN, PUBLIC_URL=here,
            OIDC_ISSUER=issuer, OIDC_CLIENT_ID=CLIENT, OIDC_CLIENT_SECRET=SECRET,
        ),
        httpx.Client(base_url=f"{here}/v1", headers=BEARER, timeout=60) as operator,
        browser.new_context() as context,
    ):  # fmt: skip
        context.set_default_timeout(60_000)
        page = context.new_page()
        page.goto(f"{here}/audit#here")
        sign_in(page)
        assert page.url == f"{here}/audit#here"
        (cookie,) = (each for each in context.cookies() if each["name"].startswith("llm_train_"))
        assert (cookie["sameSite"], cookie["httpOnly"]) == ("Strict", True)

        member = {"user": "alice", "role": "member"}
        (project,) = operator.get("/projects").json()["projects"]
        path = f"/projects/{project['project_id']}/members"
        operator.post(path, json=member).raise_for_status()

        # Its session ends while something is typed: alice signs in again in another tab.
        page.goto(f"{here}/experiments#typed")
        page.get_by_role("button", name="New experiment").first.click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("textbox", name="Name").fill("typed before it ended")
        for token in operator.get("/tokens").json()["tokens"]:
            operator.delete(f"/tokens/{token['token_id']}").raise_for_status()
        with context.expect_page() as opened:
            dialog.get_by_role("link", name="Sign in").click()
        sign_in(opened.value, known=True)
        assert opened.value.url == page.url
        opened.value.close()
        expect(dialog.locator(".banner")).to_have_count(0)
        dialog.locator("button[type=submit]").click()
        expect(page.get_by_text("typed before it ended").first).to_be_visible()
