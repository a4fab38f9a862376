"""The dashboard under load: many runs, many points, eight tabs, a server that is killed."""

import random
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.browser import PageWork, watch
from tests.support.clock import is_soon
from tests.support.dashboard import Dashboard, experiment, external, submit
from tests.support.server import Server, running_server, wait_until
from tests.support.service import home

pytestmark = pytest.mark.heavy

RUNS = 1_000
IN_THE_DOM = 60
FRAMES = 120
FRAME_MS = 35
# Half as much again as the figure: with busy neighbours the same work takes 75 to 150 ms of a core.
CURVES_MS = 225


@pytest.fixture(scope="module")
def many(server: Server) -> str:
    """An experiment with a thousand runs."""
    found = experiment(server.url)
    for number in range(RUNS):
        submit(server.url, found, notes=f"number {number}")
    return found


def test_a_thousand_runs_are_some_dozen_rows_and_all_can_be_reached(
    page: Page, server: Server, many: str
) -> None:
    dashboard = Dashboard(page, server.url).open(f"?experiment={many}&cols=status,notes")
    page.wait_for_selector("[data-run]")
    assert dashboard.total() == RUNS
    assert dashboard.rows() < IN_THE_DOM
    first = page.get_by_text("number 0", exact=True)

    def scroll_down() -> bool:
        assert dashboard.rows() < IN_THE_DOM
        page.locator(".rows").evaluate("list => { list.scrollTop = list.scrollHeight; }")
        return first.is_visible()

    wait_until(scroll_down, "the oldest run is in sight")
    assert page.locator("body").evaluate("body => body.scrollHeight <= innerHeight + 200")


LOOKED_AT, PAGES = 4, 25
"""Runs that a page looks at below, and pages that the dashboard asks for before it asks whether to
go on."""
OF_FEW_RUNS = f"""
from app import main
from app.db import counting, matching
matching.LOOKED_AT = matching.MATCHES = counting.READ = {LOOKED_AT}
main.main()
"""


def test_a_value_that_hardly_any_of_very_many_runs_has_is_searched_for_as_long_as_somebody_wants(
    page: Page, tmp_path: Path
) -> None:
    """A page looks at 4,000 of a million runs: 250 of them were asked for where none matched."""
    with running_server(tmp_path, command=[sys.executable, "-c", OF_FEW_RUNS]) as server:
        own = experiment(server.url)
        numbers = range(2 * LOOKED_AT * PAGES - 20)
        made = [
            submit(server.url, own, hyperparams={"lr": number if number in (0, 177) else 0.5})
            for number in numbers
        ]
        oldest, young = made[0]["run_id"], made[177]["run_id"]
        asked: list[str] = []
        page.on("request", lambda each: asked.append(each.post_data or ""))
        dashboard = Dashboard(page, server.url).open(f"?experiment={own}&hk=lr&hmin=0&hmax=0.1")
        further = page.get_by_role("button", name="Search further")
        further.wait_for()
        pages = [each for each in asked if "query Runs(" in each]
        assert len(pages) == PAGES
        assert page.get_by_text("0 found so far").is_visible() and dashboard.rows() == 0
        # What comes meanwhile is shown, and neither starts the search again nor ends it.
        new = submit(server.url, own, hyperparams={"lr": 0.05})["run_id"]
        dashboard.row(new).wait_for()
        assert page.get_by_text("1 found so far").is_visible()
        further.click()
        dashboard.row(oldest).wait_for()
        expect(page.locator(".searched")).to_have_count(0)
        assert dashboard.rows() == 2
        # Those in sight are enough to rest, however many more there may be to search.
        dashboard.open(f"?experiment={own}&hk=lr&hmin=100&hmax=200")
        further.click()
        expect(page.locator(".searched")).to_have_count(0)
        assert dashboard.rows() == 1 and dashboard.row(young).is_visible()
        page.close()  # else it complains that the server is gone


def test_scrolling_a_thousand_runs_takes_little_of_a_frame(
    page: Page, server: Server, many: str
) -> None:
    """A frame that is shown within 35 ms leaves no more than that for the page's own work."""
    Dashboard(page, server.url).open(f"?experiment={many}")
    page.wait_for_selector("[data-run]")
    work = PageWork(page)
    before = work.milliseconds()
    page.locator(".rows").evaluate(
        """async (list, frames) => {
            for (let i = 0; i < frames; i++) {
                list.scrollTop += 240;
                await new Promise(requestAnimationFrame);
            }
        }""",
        FRAMES,
    )
    assert (work.milliseconds() - before) / FRAMES < FRAME_MS


def test_a_smoothed_line_of_a_hundred_thousand_skewed_points_is_their_average(
    page: Page, server: Server
) -> None:
    trainer = external(server.url, experiment(server.url))
    chance = random.Random(1)
    # One value in a hundred is a hundred times as large, somewhere in each hundred.
    values: list[float] = []
    for _ in range(1_000):
        part = [chance.uniform(0.05, 0.15) for _ in range(99)]
        part.insert(chance.randrange(100), 10.0)
        values += part
    for start in range(0, 100_000, 20_000):
        steps = list(range(start, start + 20_000))
        trainer.points("loss", steps, values[start : start + 20_000], step=steps[-1])
    truth = sum(values) / len(values)
    dashboard = Dashboard(page, server.url).open(f"runs/{trainer.run}?s=0.8")
    dashboard.chart("loss").locator("[data-value]").wait_for()
    wait_until(lambda: dashboard.value("loss") == dashboard.value("loss"), "a value is shown")
    assert dashboard.value("loss") == pytest.approx(truth, rel=0.01)


def test_eight_tabs_are_live_and_a_cancel_is_answered_at_once(
    browser: Browser, server: Server
) -> None:
    own = experiment(server.url)
    trainers = [external(server.url, own) for _ in range(8)]
    for trainer in trainers:
        trainer.points("loss", [1], [1.0], step=1, total_steps=10)
    with browser.new_context() as context:
        tabs, problems = [], []
        for trainer in trainers:
            page = context.new_page()
            problems.append(watch(page))
            tabs.append(Dashboard(page, server.url).open(f"runs/{trainer.run}"))
        sockets = [_requests(tab.page) for tab in tabs]
        for trainer in trainers:
            trainer.points("loss", [2], [0.5], step=2)
        for tab in tabs:
            expect(tab.page.get_by_text("2 of 10 steps").first).to_be_visible()
        page = tabs[-1].page
        page.get_by_role("button", name="Cancel…").click()
        began = time.monotonic()
        page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
        expect(page.locator(".bar.title .status")).to_have_text("cancelling")
        assert is_soon(time.monotonic() - began, 2)
        assert not any("text/event-stream" in each for each in sockets)
    assert not any(problems)


def _requests(page: Page) -> list[str]:
    """The kinds of what a page fetches from now on."""
    found: list[str] = []
    page.on("response", lambda answer: found.append(answer.headers.get("content-type", "")))
    return found


def test_a_server_that_is_killed_and_comes_back_doubles_no_line(
    browser: Browser, tmp_path: Path
) -> None:
    """The log, the history and the curve go on where they broke."""
    with home(tmp_path) as place, browser.new_context() as context:
        with place.serve() as service:
            run = service.submit("obedient", steps=10**6, step_seconds=0.05)
            service.stepping(run)
            log = service.data_dir / "runs" / run / "train.log"
            with log.open("a") as file:
                file.write("before the kill\n")
            page = context.new_page()
            dashboard = Dashboard(page, service.url).open(f"runs/{run}")
            wait_until(lambda: "before the kill" in dashboard.log(), "the log is shown")
            events = page.locator("[data-seq]").count()
            service.kill()
            page.wait_for_selector("[data-state=away]")
        with place.serve() as service:
            dashboard.live()
            with log.open("a") as file:
                file.write("after it\n")
            wait_until(lambda: "after it" in dashboard.log(), "the log goes on")
            lines = dashboard.log().splitlines()
            assert lines.count("before the kill") == lines.count("after it") == 1
            # At once: the list grows while it is read.
            sequence = page.locator("[data-seq]").evaluate_all(
                "all => all.map(each => Number(each.dataset.seq))"
            )
            assert len(sequence) >= events
            assert sequence == sorted(set(sequence), reverse=True)
            service.cancel(run)
            service.ended(run)
            expect(page.locator(".bar.title .status")).to_have_text("cancelled")


def test_the_first_row_shows_soon_and_ten_curves_are_drawn_soon(page: Page, server: Server) -> None:
    own = experiment(server.url)
    ids: list[Any] = []
    for number in range(10):
        trainer = external(server.url, own, hyperparams={"seed": number})
        steps = list(range(10_000))
        trainer.points("loss", steps, [1 + 1 / (1 + step) for step in steps], step=9_999)
        ids.append(trainer.run)
    dashboard = Dashboard(page, server.url).open(f"?experiment={own}")
    page.reload()
    page.wait_for_selector("[data-run]")
    first = page.locator("body").evaluate("() => performance.now()")
    assert first < 3_000  # 600 ms alone on a machine
    assert _compare(dashboard, own, ids) < CURVES_MS


def _compare(dashboard: Dashboard, experiment: str, ids: list[str]) -> float:
    """Press Compare until the curves are there; the page's own work in ms, of three times the
    least, since a busy machine only adds to it."""
    page, times = dashboard.page, []
    for _ in range(3):
        dashboard.open(f"?experiment={experiment}&pick={','.join(ids)}")
        page.wait_for_selector("[data-run] .spark polyline")
        work = PageWork(page)
        before = work.milliseconds()
        page.locator(".bar a.primary").first.evaluate("link => link.click()")
        values = dashboard.chart("loss").locator(".legend-line .value[data-value]")
        expect(values).to_have_count(len(ids))
        page.evaluate("() => new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        times.append(work.milliseconds() - before)
    return min(times)
