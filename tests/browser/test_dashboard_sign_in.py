"""Signing in: directly, under a prefix of nginx, behind jupyter-server-proxy; and who may not."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from app.server.failed_sign_ins import MOST
from tests.support.browser import watch
from tests.support.clock import slowness
from tests.support.commands import llm_train
from tests.support.dashboard import Dashboard
from tests.support.proxies import jupyter, nginx
from tests.support.server import PATIENCE_SECONDS, Server, free_port, running_server

pytestmark = pytest.mark.heavy

TOKEN = "an-api-token-of-some-length"
BEARER = {"authorization": f"Bearer {TOKEN}"}
EXPECTED = ("401 (Unauthorized)",)
"""What the console says of a navigation without a session; it is what the service answered."""


@contextmanager
def tab(browser: Browser, url: str) -> Iterator[tuple[Page, list[str]]]:
    """A tab of a new profile at an address, and what went wrong in it."""
    with browser.new_context(ignore_https_errors=True) as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        problems = watch(page)
        page.goto(url)
        yield page, problems
    unexpected = [each for each in problems if not each.endswith(EXPECTED)]
    assert not unexpected, unexpected


def sign_in(page: Page, token: str = TOKEN) -> None:
    page.get_by_label("API token").fill(token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("[data-state=live]")


def sessions(page: Page) -> list[Any]:
    """The cookies of services of ours; Jupyter has some of its own."""
    return [each for each in page.context.cookies() if each["name"].startswith("llm_train_")]


def the_whole_story(browser: Browser, address: str, server: Server) -> None:
    """Sign in at an address below the root, look around, change something, sign out."""
    body = {"name": "signed in", "task_type": "test"}
    made = httpx.post(f"{server.url}/v1/experiments", json=body, headers=BEARER).json()
    path = f"/experiments/{made['experiment_id']}"
    with tab(browser, address + path) as (page, _):
        sign_in(page)
        assert page.url == address + path  # no redirect went astray
        expect(page.get_by_role("heading", name="signed in")).to_be_visible()
        page.get_by_role("link", name="New run").first.click()
        page.get_by_role("textbox", name="Model").fill("tiny")
        page.locator("[data-recipe='-']").click()
        page.get_by_role("textbox", name="Model").fill("tiny")
        page.get_by_role("button", name="Submit").click()
        expect(page.get_by_role("dialog").get_by_text("LLM_TRAIN_RUN_TOKEN")).to_be_visible()
        page.get_by_role("button", name="Close").click()
        page.wait_for_url("**/runs/run_*")
        page.reload()
        page.wait_for_selector("[data-state=live]")
        (cookie,) = sessions(page)
        assert cookie["httpOnly"]
        assert cookie["sameSite"] == "Strict"
        assert cookie["secure"] == address.startswith("https:")
        # The folder of the address as the browser knows it, a proxy's prefix included.
        assert cookie["path"] == (urlsplit(address).path or "/")
        page.locator(".health summary").click()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_label("API token")).to_be_visible()
        assert not sessions(page)


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("closed"), API_TOKEN=TOKEN) as server:
        yield server


def test_directly(browser: Browser, closed: Server) -> None:
    the_whole_story(browser, closed.url, closed)


def test_behind_an_nginx_that_strips_a_prefix(
    browser: Browser, closed: Server, tmp_path: Path
) -> None:
    with nginx(tmp_path / "nginx", closed.url) as address:
        the_whole_story(browser, address, closed)


def test_behind_an_nginx_with_tls(browser: Browser, closed: Server, tmp_path: Path) -> None:
    with nginx(tmp_path / "nginx", closed.url, tls=True) as address:
        the_whole_story(browser, address, closed)


def test_behind_an_nginx_that_keeps_the_prefix(browser: Browser, tmp_path: Path) -> None:
    with (
        running_server(tmp_path, API_TOKEN=TOKEN, ROOT_PATH="/train") as server,
        nginx(tmp_path / "nginx", server.url, strips=False) as address,
    ):
        the_whole_story(browser, address, server)
        with tab(browser, address) as (page, _):  # the prefix itself, without a slash
            sign_in(page)
            page.get_by_role("link", name="Experiments").click()
            expect(page.get_by_role("link", name="signed in")).to_be_visible()
            page.reload()
            page.wait_for_selector("[data-state=live]")


def test_behind_jupyter_server_proxy(browser: Browser, closed: Server, tmp_path: Path) -> None:
    port = urlsplit(closed.url).port
    assert port is not None
    with jupyter(tmp_path / "jupyter", port) as address:
        the_whole_story(browser, address, closed)


def test_a_proxy_that_hides_the_host_is_told_apart_from_a_wrong_token(
    browser: Browser, closed: Server, tmp_path: Path
) -> None:
    with (
        nginx(tmp_path / "nginx", closed.url, host="") as address,
        browser.new_context() as context,
    ):
        page = context.new_page()
        page.goto(f"{address}/")
        page.get_by_label("API token").fill(TOKEN)
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("LLM_TRAIN_ALLOWED_HOSTS")


def test_a_wrong_token_says_so_and_a_link_signs_in_once(browser: Browser, closed: Server) -> None:
    with tab(browser, closed.url) as (page, problems):
        page.get_by_label("API token").fill("not the token at all")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("neither a token of a user")
        problems.clear()
    printed = llm_train("open", API_URL=closed.url, API_TOKEN=TOKEN)
    link = printed.out.strip()
    assert link.startswith(f"{closed.url}/#code=")
    assert TOKEN not in link
    with tab(browser, link) as (page, _):
        page.wait_for_selector("[data-state=live]")
        assert page.url == f"{closed.url}/"
    with tab(browser, link) as (page, _):
        expect(page.get_by_role("alert")).to_contain_text("used before")


def test_a_refused_sign_in_is_told_in_the_language_of_the_browser(
    browser: Browser, tmp_path: Path
) -> None:
    with (
        running_server(tmp_path, API_TOKEN=TOKEN) as closed,
        nginx(tmp_path / "nginx", closed.url, host="") as hidden,
        browser.new_context(locale="zh-CN") as context,
    ):

        def told(address: str) -> Locator:
            page = context.new_page()
            page.goto(f"{address}/")
            page.get_by_label("API 令牌").fill("not the token at all")
            page.get_by_role("button", name="登录").click()
            return page.get_by_role("alert")

        expect(told(closed.url)).to_contain_text("令牌或登录码无效")
        expect(told(hidden)).to_contain_text("来源（Origin 或 Host）不被允许")
        for _ in range(MOST):
            wrong = {"token": "not the token at all"}
            httpx.post(f"{closed.url}/session", json=wrong, headers={"origin": closed.url})
        expect(told(closed.url)).to_contain_text("错误的令牌过多")
        busy = {"code": "busy", "detail": "Too many requests are waiting; try again in a second."}
        context.route("**/session", lambda route: route.fulfill(status=429, json=busy))
        expect(told(closed.url)).to_have_text("服务繁忙；请稍后再试。")


def expiring_token(server: Server, seconds: float) -> str:
    """Return the token of a new administrator, which ends after so many seconds."""
    user = {"name": "expires", "is_admin": True}
    with httpx.Client(base_url=f"{server.url}/v1", headers=BEARER, timeout=60) as operator:
        operator.post("/users", json=user).raise_for_status()
        end = datetime.now(UTC) + timedelta(seconds=seconds)
        body = {"user": "expires", "scope": "admin", "expires_at": end.isoformat()}
        return str(operator.post("/tokens", json=body).raise_for_status().json()["token"])


def test_when_the_service_lets_a_session_expire_the_page_says_so_and_continues(
    browser: Browser, closed: Server
) -> None:
    """The browser still has its cookie, and sends it."""
    body = {"name": "for its run", "task_type": "test"}
    made = httpx.post(f"{closed.url}/v1/experiments", json=body, headers=BEARER, timeout=60)
    made.raise_for_status()
    lifetime = 12 * slowness()
    with tab(browser, f"{closed.url}/recipes") as (page, problems):
        sign_in(page, expiring_token(closed, lifetime))
        page.locator("[data-recipe='-']").click()
        page.get_by_role("textbox", name="Model").fill("typed before it expired")
        ended = page.get_by_text("Your session has ended.")
        # Nothing is clicked: its WebSocket is closed.
        ended.wait_for(timeout=(lifetime + PATIENCE_SECONDS) * 1_000)
        assert sessions(page), "the cookie stays"
        with page.context.expect_page() as opened:
            page.locator(".banner").get_by_role("link", name="Sign in").click()
        sign_in(opened.value)
        opened.value.close()
        expect(ended).to_have_count(0)
        page.wait_for_selector("[data-state=live]")
        page.get_by_role("button", name="Submit").click()
        page.get_by_role("button", name="Close").click()
        page.wait_for_url("**/runs/run_*")
        expect(page.get_by_text("typed before it expired").first).to_be_visible()
        problems.clear()


def test_administrators_see_who_did_what(browser: Browser, closed: Server) -> None:
    body = {"name": "on record", "task_type": "test"}
    made = httpx.post(f"{closed.url}/v1/experiments", json=body, headers=BEARER, timeout=30).json()
    wrong = {"authorization": "Bearer not-the-token-at-all"}
    assert httpx.get(f"{closed.url}/v1/runs", headers=wrong, timeout=30).status_code == 401
    with tab(browser, closed.url) as (page, _):
        sign_in(page)
        page.locator(".health summary").click()
        page.get_by_role("link", name="Audit").click()
        page.wait_for_url("**/audit")
        about = page.locator("tr", has=page.locator(f"a[title={made['experiment_id']}]"))
        expect(about).to_contain_text("API token")
        page.get_by_role("button", name="Refused").click()
        expect(page.locator("[data-entry=sign_in]").first).to_contain_text("127.0.0.1")
        expect(about).to_have_count(0)
        page.get_by_role("button", name="All", exact=True).click()
        none = page.get_by_text("No entries match.")
        for name, other, own in (
            ("Action", "delete_run", "create_experiment"), ("Actor", "nobody", ""),
            ("Since", "2999-01-01T00:00", "2026-01-01T00:00"),
            ("Until", "2026-01-01T00:00", "2999-01-01T00:00"),
        ):  # fmt: skip
            page.get_by_label(name, exact=True).fill(other)
            expect(none).to_be_visible()
            page.get_by_label(name, exact=True).fill(own)
            expect(about).to_have_count(1)
        page.get_by_label("Id of the target").fill(made["experiment_id"])
        expect(page.locator("[data-entry]")).to_have_count(1)
        about.get_by_role("link").click()
        events = page.locator("[data-seq='1']")
        expect(events).to_contain_text("by API token")


def test_when_the_session_has_ended_the_page_says_so_and_loses_nothing(
    browser: Browser, closed: Server
) -> None:
    with tab(browser, f"{closed.url}/recipes") as (page, problems):
        sign_in(page)
        page.locator("[data-recipe='-']").click()
        page.get_by_role("textbox", name="Model").fill("typed before it ended")
        page.context.clear_cookies()
        page.get_by_role("button", name="Submit").click()
        page.get_by_text("Your session has ended.").wait_for()
        with page.context.expect_page() as opened:
            page.locator(".banner").get_by_role("link", name="Sign in").click()
        other = opened.value
        assert other.url == page.url
        sign_in(other)
        other.close()
        expect(page.locator(".banner")).to_have_count(0)
        page.wait_for_selector("[data-state=live]")
        expect(page.get_by_role("textbox", name="Model")).to_have_value("typed before it ended")
        page.get_by_role("button", name="Submit").click()
        page.get_by_role("button", name="Close").click()
        page.wait_for_url("**/runs/run_*")
        expect(page.get_by_text("typed before it ended").first).to_be_visible()
        problems.clear()


def test_in_a_dialog_too_one_signs_in_again_and_loses_nothing(
    browser: Browser, closed: Server
) -> None:
    user = {"name": "ends", "is_admin": True}
    httpx.post(f"{closed.url}/v1/users", json=user, headers=BEARER).raise_for_status()
    made = httpx.post(
        f"{closed.url}/v1/tokens", json={"user": "ends", "scope": "admin"}, headers=BEARER
    ).json()
    with tab(browser, f"{closed.url}/experiments") as (page, problems):
        sign_in(page, made["token"])
        page.get_by_role("button", name="New experiment").first.click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_role("textbox", name="Name").fill("in a dialog")
        revoked = f"{closed.url}/v1/tokens/{made['token_id']}"
        httpx.delete(revoked, headers=BEARER).raise_for_status()  # which ends its websocket as well
        expect(dialog.get_by_text("Your session has ended.")).to_be_visible()
        with page.context.expect_page() as opened:
            dialog.get_by_role("link", name="Sign in").click()
        sign_in(opened.value)
        opened.value.close()
        expect(dialog.locator(".banner")).to_have_count(0)
        dialog.locator("button[type=submit]").click()
        expect(page.get_by_text("in a dialog").first).to_be_visible()
        problems.clear()


def test_another_origin_gets_nothing_with_the_cookie(browser: Browser, closed: Server) -> None:
    """A page of another port is the same site, so a browser sends it the cookie."""
    with running_server_of_a_page() as elsewhere, browser.new_context() as context:
        page = context.new_page()
        page.goto(closed.url)
        sign_in(page)
        evil = context.new_page()
        evil.goto(elsewhere)
        result = evil.evaluate(
            """async (url) => {
                const post = await fetch(url + "/v1/experiments", {
                    method: "POST", credentials: "include", mode: "no-cors",
                    headers: {"Content-Type": "text/plain"},
                    body: '{"name": "evil", "task_type": "x"}',
                }).then(() => "sent", () => "refused");
                const socket = await new Promise((done) => {
                    const opened = new WebSocket(url.replace("http", "ws") + "/graphql",
                                                 "graphql-transport-ws");
                    opened.onopen = () => done("open");
                    opened.onerror = () => done("refused");
                });
                const read = await fetch(url + "/v1/experiments", {credentials: "include"})
                    .then((answer) => answer.text(), () => "refused");
                return { post, socket, read };
            }""",
            closed.url,
        )
        assert result["socket"] == "refused"
        assert result["read"] == "refused"
        names = httpx.get(f"{closed.url}/v1/experiments", headers=BEARER).text
        assert "evil" not in names


@contextmanager
def running_server_of_a_page() -> Iterator[str]:
    """An empty page on another port of this machine."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>elsewhere</title>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", free_port()), Page) as server:
        threading.Thread(target=server.serve_forever, args=[0.05], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_dashboards_of_two_services_do_not_sign_each_other_out(
    browser: Browser, closed: Server, tmp_path: Path
) -> None:
    with (
        running_server(tmp_path, API_TOKEN=TOKEN) as other,
        tab(browser, closed.url) as (page, _),
    ):
        sign_in(page)
        page.goto(other.url)  # another port of the same host, so the same cookies
        sign_in(page)
        Dashboard(page, closed.url).open()
        Dashboard(page, other.url).open()
        assert len(sessions(page)) == 2
