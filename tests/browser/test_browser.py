"""The browser tests' own instrument: it renders, reaches nothing outside, and notices a try."""

from playwright.sync_api import Browser, Page

from tests.support.browser import watch


def test_it_renders_text(page: Page) -> None:
    page.set_content("<h1>loss</h1>")
    assert page.inner_text("h1") == "loss"


def test_a_request_to_another_host_fails_and_is_noticed(browser: Browser) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        problems = watch(page)
        page.set_content(
            '<img src="https://cdn.example/a.png"><script>console.error("no")</script>'
        )
        assert "external: https://cdn.example/a.png" in problems
        assert "failed: https://cdn.example/a.png" in problems
        assert "console error: no" in problems
