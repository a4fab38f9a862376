"""The dashboard in a real browser that is cut off from the internet: it is live, and steers.

The `page` fixture fails a test if the page asked another host for anything, wrote an error or a
warning (a violation of its Content-Security-Policy is one) into its console, or a request failed.
"""

import time
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.clock import is_soon
from tests.support.dashboard import Dashboard, experiment, external, http, submit
from tests.support.server import Server, running_server


def test_a_run_that_curl_submits_shows_within_two_seconds(page: Page, server: Server) -> None:
    dashboard = Dashboard(page, server.url).open()
    url = server.url
    submit(url, experiment(url), recipe="demo", hyperparams={"steps": 30})  # GraphQL is loaded
    page.wait_for_selector("[data-run]")
    run = submit(url, experiment(url), recipe="demo", hyperparams={"steps": 30})["run_id"]
    began = time.monotonic()
    dashboard.row(run).wait_for()
    assert is_soon(time.monotonic() - began, 2)
    page.wait_for_selector(f"[data-run={run}][data-status=SUCCEEDED]")
    assert dashboard.total() == 2
    expect(dashboard.row(run).locator("polyline")).to_be_attached()
    expect(page.locator(".chip.succeeded .count")).to_have_text("2")


def test_a_curve_in_a_list_that_was_refused_is_asked_for_again(page: Page, server: Server) -> None:
    url, refused = server.url, list[str]()
    trainer = external(url, experiment(url))
    trainer.points("loss", [1, 2, 3], [3.0, 2.5, 2.0], step=3)
    trainer.report(finished=True)

    def refuse_once(route: Route) -> None:
        if refused or "query Sparks" not in (route.request.post_data or ""):
            return route.fallback()
        refused.append("Sparks")
        route.fulfill(json={"data": None, "errors": [{"message": "Later."}]})

    page.route("**/graphql", refuse_once)
    dashboard = Dashboard(page, url).open()
    expect(dashboard.row(trainer.run).locator("polyline")).to_be_attached()
    assert refused


def test_curves_to_compare_are_asked_for_as_compare_is_pressed_and_once(
    page: Page, server: Server
) -> None:
    """Where they are asked for once their page is drawn, somebody waits for both, one by one."""
    page.add_init_script("""
        window.asked = [];
        const send = window.fetch;
        window.fetch = (url, options) => {
            const name = /^\\s*query (\\w+)/.exec(JSON.parse(options?.body ?? "{}").query ?? "");
            if (name) window.asked.push([name[1], location.pathname]);
            return send(url, options);
        };
    """)
    own, runs = experiment(server.url), []
    for value in (1.0, 2.0):
        trainer = external(server.url, own)
        trainer.points("loss", [1, 2], [value, value + 1], step=2)
        runs.append(trainer.run)
    dashboard = Dashboard(page, server.url).open(f"?experiment={own}&pick={','.join(runs)}")
    page.wait_for_selector("[data-run] .spark polyline")
    page.get_by_role("link", name="Compare 2").click()
    expect(dashboard.chart("loss").locator("[data-value]")).to_have_count(2)
    asked = page.evaluate("window.asked.filter(([name]) => /^(Bands|Compared)$/.test(name))")
    assert sorted(asked) == [["Bands", "/"], ["Compared", "/"]]


def test_one_run_grows_before_ones_eyes_and_is_cancelled(page: Page, server: Server) -> None:
    url = server.url
    trainer = external(url, experiment(url), hyperparams={"learning_rate": 0.003})
    trainer.points("loss", [1, 2, 3], [3.0, "NaN", 2.0], step=3, total_steps=20)
    dashboard = Dashboard(page, url).open(f"runs/{trainer.run}?s=0")
    value = dashboard.chart("loss").locator("[data-value]")
    expect(value).to_have_attribute("data-value", "2")
    special = dashboard.chart("loss").locator("[data-special]")
    expect(special).to_have_text("1 × NaN")
    trainer.points("loss", [4], [1.5], step=4)
    expect(value).to_have_attribute("data-value", "1.5")
    expect(page.get_by_text("4 of 20 steps").first).to_be_visible()
    trainer.points("loss", [5, 6], ["Infinity", "-Infinity"], step=6)
    expect(special).to_have_text("1 × NaN, 1 × ∞, 1 × −∞")
    expect(dashboard.chart("loss").locator("[data-is]")).to_have_text("−∞")
    page.reload()  # as the service tells it, so it was told live
    expect(special).to_have_text("1 × NaN, 1 × ∞, 1 × −∞")

    page.get_by_role("button", name="Cancel…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("saves a checkpoint first")).to_be_visible()
    dialog.get_by_role("button", name="Cancel the run").click()
    expect(page.locator(".bar.title .status")).to_have_text("cancelling")
    trainer.report(finished=False)
    expect(page.locator("[data-reason=cancel_requested]")).to_be_visible()


def test_a_list_says_which_metric_is_no_number_and_sorts_by_what_it_is(
    page: Page, server: Server
) -> None:
    own = experiment(server.url)
    for value in (2.5, "NaN", "Infinity", "-Infinity"):
        external(server.url, own).points("loss", [1], [value], step=1)
    dashboard = Dashboard(page, server.url)
    dashboard.open(f"?experiment={own}&cols=status,m:loss&sort=-metric:loss")
    shown = page.locator("[data-run] .c-m")
    expect(shown).to_have_text(["∞", "2.5", "−∞", "NaN"])
    page.get_by_role("columnheader", name="loss").get_by_role("button").click()
    expect(shown).to_have_text(["−∞", "2.5", "∞", "NaN"])


@pytest.mark.heavy
def test_a_cluster_that_cannot_be_asked_says_why(browser: Browser, tmp_path: Path) -> None:
    recipes = tmp_path / "recipes.toml"
    recipes.write_text('[launchers.cluster]\nkind = "slurm"\n')
    with (
        running_server(tmp_path, RECIPES=str(recipes), PUBLIC_URL="http://127.0.0.1:9") as server,
        browser.new_context() as context,
    ):
        page = context.new_page()
        Dashboard(page, server.url).open("recipes")
        row = page.locator("[data-launcher=cluster]")
        query = "{ capacity { launchers { name trouble } } }"
        expect(row.get_by_role("note")).to_be_visible()
        answer = http.post(f"{server.url}/graphql", json={"query": query}).json()["data"]
        told = {each["name"]: each["trouble"] for each in answer["capacity"]["launchers"]}
        expect(row.get_by_role("note")).to_have_text(told["cluster"])
        expect(page.locator("[data-launcher=local]").get_by_role("note")).to_have_count(0)


def test_a_browser_without_a_locale_draws_curves_too(page: Page, server: Server) -> None:
    page.add_init_script(
        'Object.defineProperty(Navigator.prototype, "language", { get: () => "en-US@posix" });'
    )
    trainer = external(server.url, experiment(server.url))
    trainer.points("loss", [1, 2, 3], [3.0, 2.0, 1.0], step=3)
    dashboard = Dashboard(page, server.url).open(f"runs/{trainer.run}")
    expect(dashboard.chart("loss").locator("canvas")).to_be_visible()


def test_the_keyboard_finds_selects_and_opens(page: Page, server: Server) -> None:
    url = server.url
    own = experiment(url)
    runs = [external(url, own, notes=f"number {n}").run for n in range(3)]
    dashboard = Dashboard(page, url).open(f"?experiment={own}")
    expect(page.locator("[data-run]")).to_have_count(3)
    page.keyboard.press("/")
    page.keyboard.type("number 1")
    expect(page.locator("[data-run]")).to_have_count(1)
    assert "q=number+1" in page.url
    page.keyboard.press("Escape")
    page.reload()  # what it shows is in its address
    dashboard.row(runs[1]).wait_for()
    page.keyboard.press("j")
    page.keyboard.press("x")
    expect(dashboard.row(runs[1]).get_by_role("checkbox")).to_be_checked()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/runs/{runs[1]}")
    page.go_back()
    dashboard.row(runs[1]).wait_for()
