"""Every page of the dashboard: nothing serious for axe, in both themes, on a phone, in Chinese."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.axe import audit
from tests.support.browser import watch
from tests.support.dashboard import Dashboard, experiment, external, submit
from tests.support.server import Server, wait_until

pytestmark = pytest.mark.heavy

PHONE = {"width": 390, "height": 844}


MACHINE = (
    "system/gpu0/utilization_percent", "system/gpu1/utilization_percent", "system/memory_mb",
    "system/disk_read_mb_s", "system/disk_write_mb_s", "system/of_mine",
)  # fmt: skip


@dataclass(frozen=True)
class Story:
    """Runs in every state that a page may have to show."""

    experiment: str
    parent: str
    child: str
    external: str
    failed: str


@pytest.fixture(scope="module")
def story(server: Server) -> Iterator[Story]:
    url = server.url
    own = experiment(url)

    def status(run: str) -> Any:
        return httpx.get(f"{url}/v1/experiments/{own}/runs/{run}/status", timeout=30).json()

    def ended(run: str) -> Any:
        final = ("succeeded", "failed", "cancelled")
        return wait_until(lambda: (s := status(run))["status"] in final and s, "it ends")

    hyperparams = {"steps": 60, "checkpoint_every": 20, "learning_rate": 0.008}
    parent = submit(url, own, recipe="demo", hyperparams=hyperparams, notes="a note")["run_id"]
    failed = submit(url, own, recipe="demo", hyperparams={"steps": "many"})["run_id"]
    ended(parent)
    ended(failed)
    resume = f"{url}/v1/experiments/{own}/runs/{parent}/resume"
    body = {"override_hyperparams": {"learning_rate": 0.002, "steps": 90}}
    child = httpx.post(resume, json=body, timeout=30).json()["run_id"]
    ended(child)
    trainer = external(url, own, hyperparams={"learning_rate": 1, "seed": 2})
    metrics = {
        key: {"steps": list(range(50)), "values": [1 / (1 + n) for n in range(50)]}
        for key in ("loss", "val/loss", "val/accuracy", *MACHINE)
    }
    trainer.report(metrics=metrics, step=49, total_steps=100)
    checkpoints = httpx.get(f"{url}/v1/experiments/{own}/detail", timeout=30).json()["checkpoints"]
    ready = next(each for each in checkpoints if each["state"] == "ready")
    mark = {"run_id": ready["run_id"], "ckpt_path": ready["ckpt_path"], "tag_type": "release",
            "release_tag": "v1", "metrics": {"val_loss": 1.5}}  # fmt: skip
    httpx.post(f"{url}/v1/experiments/{own}/checkpoints/mark", json=mark).raise_for_status()
    yield Story(own, parent, child, trainer.run, failed)


def addresses(story: Story) -> dict[str, str]:
    return {
        "runs": "?cols=status,progress,spark,model,h:learning_rate,m:loss",
        "nothing found": "?q=nothing+is+like+this",
        "child": f"runs/{story.child}",
        "external": f"runs/{story.external}?log=1&o=1&x=time",
        "failed": f"runs/{story.failed}",
        "compare": f"compare?runs={story.parent},{story.child},{story.external}",
        "grouped": f"compare?runs={story.parent},{story.child},{story.external}&by=learning_rate",
        "compare nothing": "compare",
        "experiments": "experiments",
        "experiment": f"experiments/{story.experiment}",
        "checkpoints": "checkpoints",
        "recipes": "recipes",
        "usage": "usage",
        "usage of runs": "usage?by=run",
        "webhooks": "webhooks",
        "alerts": "alerts",
        "audit": "audit",
        "no such run": "runs/run_0",
    }


@contextmanager
def told(server: Server) -> Iterator[None]:
    """A webhook and an alert rule, for as long as pages are looked at."""
    hook = {"url": f"{server.url}/nobody", "types": ["run.failed", "run.stalled"]}
    rule = {"kind": "metric_threshold", "metric": "train/loss", "direction": "above", "value": 9}
    made = [
        httpx.post(f"{server.url}/v1/{name}", json=body, timeout=30).raise_for_status().json()
        for name, body in (("webhooks", hook), ("alert-rules", rule))
    ]
    try:
        yield
    finally:
        for path in (f"webhooks/{made[0]['webhook_id']}", f"alert-rules/{made[1]['rule_id']}"):
            httpx.delete(f"{server.url}/v1/{path}", timeout=30).raise_for_status()


def test_axe_finds_nothing_serious_on_any_page_in_either_theme(
    browser: Browser, server: Server, story: Story
) -> None:
    complaints = {}
    # The page's own policy would forbid a test's script.
    with told(server), browser.new_context(bypass_csp=True, color_scheme="light") as context:
        page = context.new_page()

        def check(name: str) -> None:
            complaints[name] = audit(page)
            page.emulate_media(color_scheme="dark")  # which changes colours alone
            complaints[f"{name}, dark"] = audit(page, "color-contrast")
            page.emulate_media(color_scheme="light")

        for name, path in addresses(story).items():
            Dashboard(page, server.url).open(path)
            settled(page)
            check(name)
        Dashboard(page, server.url).open(f"runs/{story.child}")
        for button in ("Resume…", "Mark…", "Run again…", "Delete…"):
            page.locator(".bar.title").get_by_role("button", name=button).click()
            check(button)
            page.keyboard.press("Escape")
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        check("keys")
        Dashboard(page, server.url).open(f"runs/{story.external}")
        page.locator("[data-machine] > summary").click()
        check("machine")
    assert not any(complaints.values()), {k: v for k, v in complaints.items() if v}


def test_axe_notices_what_is_hard_to_read(browser: Browser) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.set_content('<html lang="en"><title>t</title><main><h1 style="color: #ddd">grey</h1>')
        assert "color-contrast" in audit(page)[0]
        assert "color-contrast" in audit(page, "color-contrast")[0]


def settled(page: Page) -> None:
    """Wait until a page shows what it has."""
    expect(page.locator(".loading")).to_have_count(0)


def test_a_phone_shows_every_page_without_scrolling_sideways(
    browser: Browser, server: Server, story: Story
) -> None:
    phone = browser.new_context(viewport=PHONE, is_mobile=True, has_touch=True)  # type: ignore[arg-type]
    with told(server), phone as context:
        page = context.new_page()
        problems = watch(page)
        for name, path in addresses(story).items():
            Dashboard(page, server.url).open(path)
            settled(page)
            # Not with innerWidth: a phone makes that as wide as the page.
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"], name
            current = page.locator("header nav [aria-current]")
            if current.count():  # scrolled to, where the names do not fit
                expect(current).to_be_in_viewport(ratio=1)
        for path in ("alerts", "webhooks"):  # what can be done is reached by a thumb alone
            Dashboard(page, server.url).open(path)
            expect(page.get_by_role("button", name="Delete…")).to_be_in_viewport(ratio=1)
        Dashboard(page, server.url).open(addresses(story)["compare"])
        names = page.locator(".diff tbody th")
        names.first.wait_for()
        assert names.evaluate_all(
            "all => all.every(name => !name.offsetWidth || name.offsetWidth > 90)"
        )
        assert not problems


def test_long_names_leave_room_for_the_rest(browser: Browser, server: Server) -> None:
    """A name of many words widens no page, and pushes no column out of sight."""
    name = "a name that somebody gave without thinking of tables " * 3
    body = {"name": name[:120], "task_type": "sft"}
    made = httpx.post(f"{server.url}/v1/experiments", json=body, timeout=30).raise_for_status()
    own = made.json()["experiment_id"]
    run = submit(server.url, own, name=name[:100])["run_id"]
    phone = browser.new_context(viewport=PHONE, is_mobile=True, has_touch=True)  # type: ignore[arg-type]
    with phone as context:
        page = context.new_page()
        problems = watch(page)
        for path in ("recipes", "experiments", f"experiments/{own}", f"runs/{run}"):
            Dashboard(page, server.url).open(path)
            settled(page)
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"], path
        dashboard = Dashboard(page, server.url).open(f"?experiment={own}")
        for _ in range(2):
            expect(dashboard.row(run).locator(".status")).to_be_in_viewport(ratio=1)
            page.set_viewport_size({"width": 1300, "height": 800})
        assert not problems


def test_a_curve_without_times_says_so_on_an_axis_of_time(page: Page, server: Server) -> None:
    """Drawn at the beginning, it would look as if all had happened at once."""
    trainer = external(server.url, experiment(server.url))
    trainer.points("timeless", [1, 2, 3], [3.0, 2.0, 1.0])
    timed = {"steps": [1, 2, 3], "values": [3.0, 2.0, 1.0], "wall_times": [10.0, 20.0, 3610.0]}
    trainer.report(metrics={"timed": timed}, step=3)
    dashboard = Dashboard(page, server.url).open(f"runs/{trainer.run}?x=time&s=0")
    expect(dashboard.chart("timeless").get_by_text("no times were reported")).to_be_visible()
    expect(dashboard.chart("timeless").locator("[data-value]")).to_have_count(0)
    expect(dashboard.chart("timed").locator(".legend-x")).to_have_text("1 h")
    page.get_by_role("button", name="Step", exact=True).click()
    expect(dashboard.chart("timeless").locator("[data-value]").first).to_have_attribute(
        "data-value", "1"
    )


def test_a_log_is_searched_and_shows_progress_as_a_terminal_does(
    page: Page, server: Server, story: Story
) -> None:
    log = server.data_dir / "runs" / story.failed / "train.log"
    with log.open("a") as file:
        file.write("\nsaved at step 1\n 10%\r 20%\r100% is done\nSaved at step 2\n")
    dashboard = Dashboard(page, server.url).open(f"runs/{story.failed}")
    wait_until(lambda: "100% is done" in dashboard.log(), "the log is shown")
    assert "20%" not in dashboard.log()
    page.get_by_label("Find in the log").fill("saved AT")
    expect(page.locator("pre.log mark")).to_have_text(["saved at", "Saved at"])
    assert dashboard.log().split() == ["saved", "at", "step", "1", "Saved", "at", "step", "2"]
    page.get_by_label("Find in the log").fill("nothing is like this")
    expect(page.locator("pre.log")).to_have_text("No lines match.")


def test_runs_are_grouped_by_a_hyperparameter_and_drawn_as_the_address_says(
    page: Page, server: Server
) -> None:
    own = experiment(server.url)
    runs = []
    for rate, value in ((1, 1.0), (1, 3.0), (2, 5.0)):
        trainer = external(server.url, own, hyperparams={"learning_rate": rate})
        trainer.points("loss", [1, 2, 3], [value, value, -value], step=3)
        trainer.points("tokens", [1, 2, 3], [100.0, 200.0, 400.0])
        runs.append(trainer.run)
    dashboard = Dashboard(page, server.url).open(f"compare?runs={','.join(runs)}&s=0")
    chart = dashboard.chart("loss")
    expect(chart.locator(".legend-line")).to_have_count(3)
    page.get_by_label("Group by").select_option("learning_rate")
    lines = chart.locator(".legend-line")
    expect(lines).to_contain_text(["learning_rate 1 (2) -2", "learning_rate 2 (1) -5"])
    page.get_by_label("Group by").select_option("nothing")
    page.get_by_role("button", name="Log y").click()
    expect(chart.get_by_text("3 not on a log scale")).to_be_visible()
    page.get_by_label("A metric as x axis").select_option("tokens")
    expect(chart.locator(".legend-x")).to_have_text("tokens 400")
    page.reload()  # the address has it all
    expect(chart.locator(".legend-x")).to_have_text("tokens 400")
    expect(chart.get_by_text("3 not on a log scale")).to_be_visible()


def test_a_chinese_browser_gets_chinese_pages(
    browser: Browser, server: Server, story: Story
) -> None:
    with browser.new_context(locale="zh-CN") as context:
        page = context.new_page()
        problems = watch(page)
        Dashboard(page, server.url).open(f"runs/{story.child}")
        expect(page.get_by_role("button", name="恢复…").first).to_be_visible()
        assert page.locator("html").get_attribute("lang") == "zh"
        for path in addresses(story).values():
            Dashboard(page, server.url).open(path)
            settled(page)
        assert not problems


def test_a_chinese_browser_gets_the_services_own_sentences_in_chinese(
    browser: Browser, server: Server, story: Story
) -> None:
    resources = {"gpu_type": "H100", "count": 64}
    waiting = submit(server.url, story.experiment, recipe="demo", resources=resources)["run_id"]
    with browser.new_context(locale="zh-CN") as context:
        page = context.new_page()
        problems = watch(page)
        dashboard = Dashboard(page, server.url).open(f"runs/{story.failed}")
        why = page.locator("[data-reason=exit_code]")
        expect(why).to_contain_text("退出码为 2。")
        expect(why).to_contain_text("many")  # its trainer's own words
        expect(page.locator("[data-seq]").filter(has_text="run.failed")).to_contain_text("退出码")
        dashboard.open(f"runs/{waiting}")
        why = page.locator("[data-reason=waiting_for_resources]")
        expect(why).to_contain_text("需要 64 × H100；本机有")
        page.get_by_role("button", name="取消…").click()
        page.get_by_role("dialog").get_by_role("button", name="取消任务").click()
        expect(page.locator("[data-reason=cancel_requested]")).to_contain_text("排队时被取消。")
        expect(page.locator("[data-checkpoint]").first).to_contain_text("任务没有")

        dashboard.open(f"runs/{story.child}")
        page.locator(".bar.title").get_by_role("button", name="标记…").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("发布标签").fill("v1")
        dialog.get_by_role("button", name="标记", exact=True).click()
        expect(dialog.get_by_role("alert")).to_contain_text("发布标签 “v1” 已用于 /ckpts/")
        assert not problems


def test_a_child_shows_its_receipts_its_lineage_and_where_it_was_resumed(
    page: Page, server: Server, story: Story
) -> None:
    Dashboard(page, server.url).open(f"runs/{story.child}")
    receipt = page.locator("[data-receipt=learning_rate]")
    expect(receipt).to_contain_text("applied")
    lineage = page.get_by_role("region", name="Lineage")
    expect(lineage.get_by_role("link", name=story.parent[-6:])).to_be_visible()
    expect(lineage.locator(".here")).to_contain_text("from step 60")
    expect(page.locator("[data-checkpoint]").first).to_contain_text("ready")


def test_an_override_without_a_receipt_says_whether_one_may_come(
    page: Page, server: Server, story: Story
) -> None:
    runs = f"{server.url}/v1/experiments/{story.experiment}/runs"
    body = {
        "ckpt_path": f"/ckpts/{story.experiment}/{story.external}/by-hand",
        "override_hyperparams": {"seed": 3},
    }
    resumed = httpx.post(f"{runs}/{story.external}/resume", json=body, timeout=30)
    child = resumed.raise_for_status().json()["run_id"]
    Dashboard(page, server.url).open(f"runs/{child}")
    receipt = page.locator("[data-receipt=seed]")
    expect(receipt).to_contain_text("not reported yet")
    httpx.post(f"{runs}/{child}/cancel", timeout=30).raise_for_status()
    expect(receipt).to_contain_text("not reported by the trainer")


def test_a_failed_run_says_why(page: Page, server: Server, story: Story) -> None:
    Dashboard(page, server.url).open(f"runs/{story.failed}")
    expect(page.locator("[data-reason]")).to_contain_text("exit code")
    assert page.locator("pre.log").inner_text().strip()


def test_only_what_differs_is_compared(page: Page, server: Server, story: Story) -> None:
    dashboard = Dashboard(page, server.url)
    dashboard.open(f"compare?runs={story.parent},{story.child}")
    expect(page.locator("[data-param=learning_rate]")).to_contain_text("0.002")
    expect(page.locator("[data-param=checkpoint_every]")).to_have_count(0)
    page.get_by_label("show identical values too").check()
    expect(page.locator("[data-param=checkpoint_every]")).to_be_visible()
    assert "same=1" in page.url
    expect(dashboard.chart("loss").locator(".legend-line")).to_have_count(2)
    dashboard.open(f"compare?runs={story.parent},{story.external}")
    # A chart names the runs that reported its metric; one alone is as wide as two.
    expect(dashboard.chart("val/loss").locator(".legend-line")).to_have_count(1)
    dashboard.open(f"compare?runs={story.parent},{story.child}&keys=tokens")
    chart = page.locator(".charts .chart")
    expect(chart).to_have_count(1)
    whole = page.locator(".charts").evaluate("place => place.clientWidth")
    assert chart.evaluate("chart => chart.offsetWidth") == whole


def test_a_run_is_submitted_resumed_and_released_by_clicking(
    page: Page, server: Server, story: Story
) -> None:
    dashboard = Dashboard(page, server.url).open(f"recipes?experiment={story.experiment}")
    page.get_by_role("button", name="+ Add").click()
    page.get_by_label("Name of a hyperparameter").fill("steps")
    page.get_by_label("Value of steps").fill("40")
    page.get_by_role("button", name="Submit").click()
    page.wait_for_url("**/runs/run_*")
    title = page.locator(".bar.title")
    expect(title.locator(".status")).to_have_text("succeeded")

    title.get_by_role("button", name="Resume…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("steps", exact=True).fill("50")
    expect(dialog.get_by_text("steps 40 → 50")).to_be_visible()
    first = page.url
    dialog.get_by_role("button", name="Resume", exact=True).click()
    page.wait_for_url(lambda url: url != first)
    expect(title.locator(".status")).to_have_text("succeeded")
    expect(page.locator("[data-receipt=steps]")).to_contain_text("applied")

    title.get_by_role("button", name="Mark…").click()
    dialog.get_by_label("Tag", exact=True).fill("release")
    dialog.get_by_label("Release tag").fill(f"v{time.time_ns()}")
    dialog.get_by_role("button", name="Mark", exact=True).click()
    expect(page.locator(".tag.release").first).to_be_visible()
    dashboard.open("checkpoints?kind=release")
    expect(page.locator("[data-checkpoint]").first.get_by_text("release v")).to_be_visible()


def test_a_release_tag_that_is_taken_is_refused_with_the_services_sentence(
    page: Page, server: Server, story: Story
) -> None:
    Dashboard(page, server.url).open(f"runs/{story.child}")
    page.locator(".bar.title").get_by_role("button", name="Mark…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Release tag").fill("v1")
    dialog.get_by_role("button", name="Mark", exact=True).click()
    expect(dialog.get_by_role("alert")).to_contain_text("v1")


def test_a_run_gets_a_name_and_is_put_away(page: Page, server: Server, story: Story) -> None:
    dashboard = Dashboard(page, server.url).open(f"runs/{story.failed}")
    page.get_by_role("button", name="Edit…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name", exact=True).fill("my first mistake")
    dialog.get_by_label("Tags").fill("wrong, kept")
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="my first mistake")).to_be_visible()
    dashboard.open("?q=mistake&cols=status,tags")
    expect(dashboard.row(story.failed)).to_contain_text("my first mistake")
    expect(dashboard.row(story.failed)).to_contain_text("kept")
    dashboard.open(f"runs/{story.failed}")
    page.get_by_role("button", name="Edit…").click()
    dialog.get_by_label("Archived").check()
    dialog.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="my first mistake")).to_be_visible()
    expect(dialog).to_have_count(0)
    dashboard.open("?q=mistake")
    expect(page.get_by_text("No runs match.")).to_be_visible()
    dashboard.open("?q=mistake&archived=1")
    dashboard.row(story.failed).wait_for()


def test_what_a_run_does_to_its_machine_is_shown_together(
    page: Page, server: Server, story: Story
) -> None:
    dashboard = Dashboard(page, server.url).open(f"runs/{story.external}")
    machine = page.locator("[data-machine]")
    expect(machine.locator("summary .fact").first).to_have_text("GPU utilization, %0")
    machine.locator("summary h3").click()
    gpus = dashboard.chart("GPU utilization, %")
    expect(gpus.locator(".legend-line")).to_have_text(["GPU 0 0.02", "GPU 1 0.02"])
    # A chart is drawn when it comes into sight.
    machine.get_by_role("heading", name="Disk, MB/s").scroll_into_view_if_needed()
    expect(dashboard.chart("Disk, MB/s").locator(".legend-line")).to_have_count(2)
    machine.get_by_role("heading", name="system/of_mine").scroll_into_view_if_needed()
    expect(dashboard.chart("system/of_mine")).to_be_visible()
    expect(page.locator(".chart")).to_have_count(7)


def test_lists_of_experiments_and_checkpoints_are_live(
    page: Page, server: Server, story: Story
) -> None:
    dashboard = Dashboard(page, server.url).open("experiments")
    known = page.locator(f"[data-experiment={story.experiment}]")
    known.wait_for()
    new = experiment(server.url)
    row = page.locator(f"[data-experiment={new}]")
    row.wait_for()
    expect(row.get_by_text("none", exact=True)).to_be_visible()
    trainer = external(server.url, new)
    expect(row.get_by_role("link", name="1 queued")).to_be_visible()
    trainer.points("loss", [1], [1.0], step=1)
    expect(row.get_by_role("link", name="1 running")).to_be_visible()

    dashboard.open(f"checkpoints?experiment={story.experiment}&kind=candidate")
    expect(page.get_by_text("No checkpoint is marked.")).to_be_visible()
    url = f"{server.url}/v1/experiments/{story.experiment}"
    of_parent = [
        each for each in httpx.get(f"{url}/detail", timeout=30).json()["checkpoints"]
        if each["run_id"] == story.parent and each["state"] == "ready" and not each["tag_type"]
    ]  # fmt: skip
    mark = {"run_id": story.parent, "ckpt_path": of_parent[0]["ckpt_path"],
            "tag_type": "candidate"}  # fmt: skip
    httpx.post(f"{url}/checkpoints/mark", json=mark, timeout=30).raise_for_status()
    expect(page.locator(f"[data-checkpoint='{mark['ckpt_path']}']")).to_be_visible()


def test_usage_is_summed_by_month_experiment_and_run(
    page: Page, server: Server, story: Story
) -> None:
    dashboard = Dashboard(page, server.url).open("usage")
    (account,) = httpx.get(f"{server.url}/v1/usage", timeout=30).json()["usage"]
    row = page.locator(f"[data-group='{account['group']}']")
    expect(row.locator("td").first).to_have_text(f"{account['attempts']:,}")
    page.get_by_role("button", name="By experiment").click()
    own = page.locator(f"[data-group={story.experiment}]")
    expect(own.get_by_role("link", name="look at me")).to_be_visible()
    dashboard.open(f"usage?by=run&experiment={story.experiment}")
    expect(page.locator(f"[data-group={story.parent}] td").first).to_have_text("1")
    page.locator(f"[data-group={story.parent}]").get_by_role("link").click()
    page.wait_for_url(f"**/runs/{story.parent}")


def test_an_empty_audit_says_who_is_not_on_record(page: Page, server: Server) -> None:
    dashboard = Dashboard(page, server.url).open("audit")
    expect(page.get_by_text("No entries yet.")).to_be_visible()
    expect(page.get_by_text("the local user's and are not recorded")).to_be_visible()
    dashboard.open("audit?actor=alice")
    expect(page.get_by_text("No entries match.")).to_be_visible()


def test_a_form_keeps_what_was_chosen(page: Page, server: Server, story: Story) -> None:
    """Drawing it again gives no select its first value back."""
    dashboard = Dashboard(page, server.url).open(f"recipes?experiment={story.experiment}&recipe=-")
    priority = page.get_by_label("Priority")
    expect(priority).to_have_value("NORMAL")
    priority.select_option("LOW")
    page.get_by_role("button", name="+ Add").click()
    expect(priority).to_have_value("LOW")
    expect(page.locator("[data-launcher=local]")).to_be_visible()

    dashboard.open(f"runs/{external(server.url, story.experiment).run}")
    page.get_by_role("button", name="Edit…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_label("Priority")).to_have_value("NORMAL")

    dashboard.open(f"runs/{story.child}")
    page.locator(".bar.title").get_by_role("button", name="Resume…").click()
    source = dialog.get_by_label("From")
    newest = source.input_value()
    source.select_option(index=1)
    older = source.input_value()
    assert older != newest
    dialog.get_by_label("steps", exact=True).fill("95")
    expect(source).to_have_value(older)


def test_the_keyboard_alone_goes_everywhere(page: Page, server: Server, story: Story) -> None:
    Dashboard(page, server.url).open()
    page.wait_for_selector("[data-run]")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("g")
    page.keyboard.press("e")
    page.wait_for_url("**/experiments")
    page.keyboard.press("g")
    page.keyboard.press("c")
    page.wait_for_url("**/checkpoints")
    page.keyboard.press("?")
    dialog = page.get_by_role("dialog", name="Keys")
    expect(dialog).to_contain_text("this list")
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)

    trainer = external(server.url, story.experiment)
    trainer.points("loss", [1], [1.0], step=1)
    Dashboard(page, server.url).open(f"runs/{trainer.run}")
    page.get_by_role("heading", name="tiny").wait_for()
    page.keyboard.press("g")
    page.keyboard.press("c")  # which cancels, without the g before it
    page.wait_for_url("**/checkpoints")
    page.go_back()
    page.get_by_role("heading", name="tiny").wait_for()
    page.keyboard.press("c")
    cancel = page.get_by_role("dialog", name="Cancel this run?")
    expect(cancel).to_be_visible()
    focused = page.evaluate("() => document.activeElement.closest('dialog') !== null")
    assert focused, "the dialog has the focus, and Tab stays in it"
    page.keyboard.press("Escape")
    expect(cancel).to_have_count(0)
    expect(page.locator(".bar.title .status")).to_have_text("running")


def test_what_is_deleted_elsewhere_leaves_the_list(
    page: Page, server: Server, story: Story
) -> None:
    own = experiment(server.url)
    trainers = [external(server.url, own) for _ in range(3)]
    for trainer in trainers:
        trainer.report(step=1, finished=True)
    dashboard = Dashboard(page, server.url).open(f"?experiment={own}")
    expect(page.locator("[data-run]")).to_have_count(3)
    path = f"{server.url}/v1/experiments/{own}/runs/{trainers[1].run}"
    httpx.delete(path, timeout=30).raise_for_status()
    expect(dashboard.row(trainers[1].run)).to_have_count(0)
    expect(page.locator("[data-run]")).to_have_count(2)
    expect(page.locator("[data-total]")).to_have_attribute("data-total", "2")


def test_webhooks_are_made_tested_paused_and_deleted(
    page: Page, server: Server, story: Story
) -> None:
    dashboard = Dashboard(page, server.url).open()
    page.locator(".health summary").click()
    page.get_by_role("link", name="Webhooks").click()
    page.wait_for_url("**/webhooks")
    page.get_by_role("button", name="New webhook…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Address").fill(f"{server.url}/nobody")
    dialog.get_by_label("Name").fill("the chat")
    dialog.get_by_label("run.failed").check()
    dialog.get_by_role("button", name="Create").click()
    expect(dialog.locator("pre")).to_contain_text("whsec_")
    dialog.get_by_role("button", name="Close").click()
    row = page.locator("[data-webhook]")
    expect(row).to_contain_text("the chat")
    expect(row).to_contain_text("run.failed")

    row.get_by_role("button", name="Send a test").click()
    # Beside it are runs of other tests whose trainers fell silent a minute ago.
    message = page.locator("[data-delivery]").filter(has_text="webhook.test")
    # An address of this machine may not be told: the reason is shown.
    expect(message).to_contain_text("no public address")
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("paused")
    row.get_by_role("button", name="Go on").click()
    expect(row.get_by_role("button", name="Pause")).to_be_visible()
    row.get_by_role("button", name="Delete…").click()
    dialog.get_by_role("button", name="Delete", exact=True).click()
    expect(row).to_have_count(0)
    assert httpx.get(f"{server.url}/v1/webhooks", timeout=30).json()["webhooks"] == []
    dashboard.open("webhooks")
    expect(page.get_by_text("No webhooks yet.")).to_be_visible()


def test_runs_and_experiments_are_told_apart_by_their_project(
    page: Page, server: Server, story: Story
) -> None:
    made = httpx.post(f"{server.url}/v1/projects", json={"name": "vision"}, timeout=30)
    project = made.raise_for_status().json()["project_id"]
    body = {"name": "of another team", "task_type": "test", "project": "vision"}
    own = httpx.post(f"{server.url}/v1/experiments", json=body, timeout=30).json()["experiment_id"]
    run = external(server.url, own).run
    dashboard = Dashboard(page, server.url).open("?cols=status,project")
    expect(dashboard.row(run).get_by_role("link", name="vision")).to_be_visible()
    page.get_by_text("Filter", exact=True).click()
    page.get_by_label("Project").select_option("vision")
    expect(page.locator("[data-run]")).to_have_count(1)
    assert f"project={project}" in page.url
    page.get_by_role("button", name="Remove the filter Project").click()
    expect(dashboard.row(story.child)).to_be_visible()
    dashboard.open("experiments")
    page.locator(f"[data-experiment={own}]").get_by_role("link", name="vision").click()
    expect(page.locator("[data-experiment]")).to_have_count(1)


def test_a_run_is_deleted_once_its_name_is_typed(page: Page, server: Server, story: Story) -> None:
    trainer = external(server.url, story.experiment, name="in vain")
    trainer.report(step=1, finished=True)
    dashboard = Dashboard(page, server.url).open(f"runs/{trainer.run}")
    page.get_by_role("button", name="Delete…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_text("cannot be restored")).to_be_visible()
    name = dialog.get_by_label("Name")
    name.fill("another")
    dialog.get_by_role("button", name="Delete for good").click()
    expect(dialog.get_by_role("alert")).to_have_text("The name does not match.")
    name.fill("in vain")
    dialog.get_by_role("button", name="Delete for good").click()
    page.wait_for_url(f"**/experiments/{story.experiment}")
    dashboard.open(f"runs/{trainer.run}")
    expect(page.get_by_text("There is no such run.")).to_be_visible()

    dashboard.open(f"runs/{story.parent}")
    page.get_by_role("button", name="Delete…").click()
    name.fill(story.parent[-6:])
    dialog.get_by_role("button", name="Delete for good").click()
    alert = dialog.get_by_role("alert")  # its child was resumed from it
    expect(alert).not_to_be_empty()
