"""A person signs in at a provider of another site, in a real browser."""

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.openid import CLIENT, SECRET, certified
from tests.support.server import free_port, running_server

pytestmark = pytest.mark.heavy


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
            tmp_path, port=port, API_TOKEN="an-api-token-of-some-length", PUBLIC_URL=here,
            OIDC_ISSUER=issuer, OIDC_CLIENT_ID=CLIENT, OIDC_CLIENT_SECRET=SECRET,
        ),
        browser.new_context() as context,
    ):  # fmt: skip
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{here}/audit#here")
        page.get_by_role("link", name="Sign in with your organization").click()
        page.locator("[name=login]").fill("7")
        page.locator("[name=password]").fill("any")
        page.locator("button[type=submit]").click()
        page.get_by_role("button", name="Continue").click()
        page.wait_for_selector("[data-state=live]")
        assert page.url == f"{here}/audit#here"
        (cookie,) = (each for each in context.cookies() if each["name"].startswith("llm_train_"))
        assert (cookie["sameSite"], cookie["httpOnly"]) == ("Strict", True)
