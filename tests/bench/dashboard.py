"""The rows of the bench about the dashboard, in a real Chromium without a window."""

from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page

from tests.bench.fixture import Workbench, call, new_run
from tests.bench.report import Figure, Target, figure
from tests.support.browser import running_browser

CURVES = 10
POINTS = 10_000
FRAMES = 120

# When what is looked for was first there, by the page's own clock.
SEEN = """([selector, count]) => new Promise((done) => {
    const look = () => {
        if (document.querySelectorAll(selector).length < count) return requestAnimationFrame(look);
        // Two frames on it has been painted.
        requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())));
    };
    look();
})"""
SCROLL = """async ([list, frames]) => {
    const place = document.querySelector(list), times = [];
    let before = await new Promise(requestAnimationFrame);
    for (let i = 0; i < frames; i++) {
        place.scrollTop += 240;
        const now = await new Promise(requestAnimationFrame);
        times.push(now - before);
        before = now;
    }
    return times.sort((a, b) => a - b)[Math.floor(0.95 * frames)];
}"""


@contextmanager
def fresh(browser: Browser) -> Iterator[Page]:
    """A page of somebody who has not been here before: nothing is cached."""
    with browser.new_context(viewport={"width": 1400, "height": 900}) as context:
        yield context.new_page()


def curves(bench: Workbench) -> list[str]:
    """Runs with one long curve each."""
    steps = list(range(POINTS))
    made = []
    for number in range(CURVES):
        run_id, token = new_run(bench.ours, bench.experiments["work"])
        values = [1 + number / 10 + 1 / (1 + step) for step in steps]
        body = {
            "attempt": 1, "batch": 1, "step": steps[-1],
            "metrics": {"loss": {"steps": steps, "values": values}},
        }  # fmt: skip
        path = f"/v1/runs/{run_id}/reports"
        call(bench.ours, "POST", path, body, authorization=f"Bearer {token}")
        made.append(run_id)
    return made


def dashboard(bench: Workbench) -> list[Figure]:
    """The first row of the list, a thousand runs scrolled, ten curves side by side."""
    url, many = bench.ours.url, bench.experiments["1k"]
    runs = curves(bench)
    first, frames, drawn = [], [], []
    with running_browser() as browser:
        for repetition in range(bench.repetitions + 1):
            with fresh(browser) as page:
                page.goto(f"{url}/?experiment={many}", wait_until="commit")
                row = page.evaluate(SEEN, ["[data-run]", 1])
                page.wait_for_selector("[data-state=live]")
                frame = page.evaluate(SCROLL, [".rows", FRAMES])
                # A link within the page, as somebody presses it: modules are loaded by then.
                page.goto(f"{url}/?pick={','.join(runs)}")
                page.wait_for_selector("[data-run]")
                before = page.evaluate("() => performance.now()")
                page.evaluate("() => document.querySelector('.bar a.primary').click()")
                after = page.evaluate(SEEN, [".legend-line .value[data-value]", CURVES])
            if repetition:  # the first one loads GraphQL
                first.append(row / 1_000)
                frames.append(frame)
                drawn.append(after - before)
    work = "dashboard"
    return [
        figure(work, "dashboard: first row", "s", first, (), Target("at most", 0.6, "ours")),
        figure(
            work, "1,000 runs scrolled, p95 frame", "ms", frames, (), Target("at most", 35, "ours")
        ),
        figure(
            work, "ten curves of 10 k points", "ms", drawn, (), Target("at most", 150, "ours")
        ),
    ]  # fmt: skip
