"""The rows of the bench about the dashboard, in a real Chromium without a window.

Times on the clock are those of a quiet machine only. So beside them stand the processor time of
the page's main thread and of the service, which neighbours change little, and what the machine
gave a page that needs a whole core: with much less than 1 the times on the clock say nothing.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page

from tests.bench.fixture import Workbench, call, new_run
from tests.bench.report import Figure, Target, figure
from tests.support.browser import PageWork, running_browser

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
# A third of a second of work; how long it took by the clock.
SPIN = """() => {
    const began = performance.now();
    for (let i = 0, x = 0; i < 6e7; i++) x = (x + i * 7) % 1000003;
    return performance.now() - began;
}"""
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
        run_id, token = new_run(bench.ours, bench.experiments["trained"])
        values = [1 + number / 10 + 1 / (1 + step) for step in steps]
        body = {
            "attempt": 1, "batch": 1, "step": steps[-1],
            "metrics": {"loss": {"steps": steps, "values": values}},
        }  # fmt: skip
        path = f"/v1/runs/{run_id}/reports"
        call(bench.ours, "POST", path, body, authorization=f"Bearer {token}")
        made.append(run_id)
    return made


def service_ms(pid: int) -> float:
    """Return the processor time of a process until now."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return 1_000 * (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def dashboard(bench: Workbench) -> list[Figure]:
    """The first row of the list, a thousand runs scrolled, ten curves side by side."""
    url, many, pid = bench.ours.url, bench.experiments["1k"], bench.ours.pid
    runs = curves(bench)
    found: dict[str, list[float]] = {}
    with running_browser() as browser:
        for repetition in range(bench.repetitions + 1):
            with fresh(browser) as page:
                page.goto(f"{url}/?experiment={many}", wait_until="commit")
                row = page.evaluate(SEEN, ["[data-run]", 1])
                page.wait_for_selector("[data-state=live]")
                work = PageWork(page)
                at = work.milliseconds()
                spun = page.evaluate(SPIN)
                share = (work.milliseconds() - at) / spun
                at = work.milliseconds()
                frame = page.evaluate(SCROLL, [".rows", FRAMES])
                frame_work = (work.milliseconds() - at) / FRAMES
                # A link within the page, as somebody presses it: modules are loaded by then.
                page.goto(f"{url}/?pick={','.join(runs)}")
                page.wait_for_selector("[data-run]")
                page.wait_for_load_state("networkidle")
                at, service = work.milliseconds(), service_ms(pid)
                before = page.evaluate("() => performance.now()")
                page.evaluate("() => document.querySelector('.bar a.primary').click()")
                after = page.evaluate(SEEN, [".legend-line .value[data-value]", CURVES])
                drawing = work.milliseconds() - at + service_ms(pid) - service
            if repetition:  # the first one loads GraphQL
                measured = row / 1_000, frame, frame_work, after - before, drawing, share
                for name, value in zip(NAMES, measured, strict=True):
                    found.setdefault(name, []).append(value)
    return [
        figure("dashboard", name, unit, found[name], (), target)
        for name, (unit, target) in NAMES.items()
    ]


NAMES: dict[str, tuple[str, Target | None]] = {
    "dashboard: first row": ("s", Target("at most", 0.6, "ours")),
    "1,000 runs scrolled, p95 frame": ("ms", Target("at most", 35, "ours")),
    "1,000 runs scrolled, CPU of the page a frame": ("ms", Target("at most", 35, "ours")),
    "ten curves of 10 k points": ("ms", Target("at most", 150, "ours")),
    "ten curves of 10 k points, CPU of page and service": ("ms", Target("at most", 150, "ours")),
    "share of a core that the page had": ("", None),
}
"""Unit and target of each figure, in the order in which they are measured."""
