"""Alert rules and webhooks in the dashboard, and who may change them; ranges that choose runs."""

from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.dashboard import Dashboard, experiment, external
from tests.support.server import Server, running_server
from tests.support.tenants import API_TOKEN, operator, person

pytestmark = pytest.mark.heavy


def rules(server: Server) -> Any:
    return httpx.get(f"{server.url}/v1/alert-rules", timeout=30).json()["rules"]


def test_a_rule_is_made_fires_changes_pauses_and_is_deleted(page: Page, server: Server) -> None:
    dashboard = Dashboard(page, server.url).open()
    page.locator(".health summary").click()
    page.get_by_role("link", name="Alerts").click()
    page.wait_for_url("**/alerts")
    expect(page.get_by_text("No rules yet.")).to_be_visible()
    page.get_by_role("button", name="New rule…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("textbox", name="Metric")).to_have_count(0)
    dialog.get_by_label("Condition").select_option("METRIC_THRESHOLD")
    dialog.get_by_label("Name").fill("too high")
    dialog.get_by_role("textbox", name="Metric").fill("loss")
    dialog.get_by_label("The bound").fill("3")
    dialog.get_by_label("Points in a row").fill("2")
    dialog.get_by_role("button", name="Create").click()
    row = page.locator("[data-rule]")
    expect(row).to_contain_text("too high")
    expect(row).to_contain_text("loss > 3 for 2 points in a row")

    trainer = external(server.url, experiment(server.url))
    trainer.points("loss", [1, 2, 3], [1.0, 4.0, 5.0], step=3)
    alert = page.locator("[data-alert=firing]")  # without loading the page again
    expect(alert).to_contain_text("too high")
    expect(alert.get_by_role("link", name=trainer.run[-6:])).to_be_visible()
    trainer.points("loss", [4, 5], [1.0, 1.0], step=5)
    expect(page.locator("[data-alert=recovered]")).to_be_visible()
    page.get_by_role("button", name="Firing").click()
    expect(page.get_by_text("Nothing is firing.")).to_be_visible()
    assert page.url.endswith("/alerts?firing=1")

    row.get_by_role("button", name="Change…").click()
    dialog.get_by_label("The bound").fill("0.5")
    dialog.get_by_role("button", name="Save").click()
    expect(row).to_contain_text("loss > 0.5")
    row.get_by_role("button", name="Pause").click()
    expect(row).to_contain_text("paused")
    assert rules(server)[0]["paused_at"] is not None
    row.get_by_role("button", name="Go on").click()
    expect(row.get_by_role("button", name="Pause")).to_be_visible()
    row.get_by_role("button", name="Delete…").click()
    dialog.get_by_role("button", name="Delete", exact=True).click()
    expect(row).to_have_count(0)
    assert rules(server) == []
    dashboard.open("alerts")
    expect(page.get_by_text("No rules yet.")).to_be_visible()


def test_what_a_rule_lacks_is_said_in_its_form(page: Page, server: Server) -> None:
    Dashboard(page, server.url).open("alerts")
    page.get_by_role("button", name="New rule…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Condition").select_option("METRIC_SPIKE")
    dialog.get_by_role("textbox", name="Metric").fill("loss")
    dialog.get_by_label("Times its usual spread").fill("-1")
    dialog.get_by_role("button", name="Create").click()
    expect(dialog.get_by_role("alert")).to_contain_text("above 0")
    assert rules(server) == []


def test_buttons_are_those_of_ones_role(browser: Browser, tmp_path: Path) -> None:
    with running_server(tmp_path, API_TOKEN=API_TOKEN) as server:

        def send(method: str, path: str, **more: Any) -> httpx.Response:
            return httpx.request(method, server.url + path, timeout=30, **more)

        admin = operator(send)
        viewer = person(admin, "vera", "speech", "viewer")
        maintainer = person(admin, "max", "speech", "maintainer")
        maintainer.ok("POST", "/v1/alert-rules", {"kind": "run_failed", "name": "failures"})
        hook = {"url": "https://hooks.example.com", "name": "chat"}
        maintainer.ok("POST", "/v1/webhooks", hook | {"project_id": maintainer.project_id})
        for user, is_maintainer in ((viewer, False), (maintainer, True)):
            with browser.new_context() as context:
                page = context.new_page()
                page.goto(f"{server.url}/alerts")
                page.get_by_label("API token").fill(user.token)
                page.get_by_role("button", name="Sign in").click()
                page.wait_for_selector("[data-state=live]")
                told = page.get_by_text("Maintainers of a project")
                for path, new, row in (
                    ("alerts", "New rule…", "[data-rule]"),
                    ("webhooks", "New webhook…", "[data-webhook]"),
                ):
                    Dashboard(page, server.url).open(path)
                    expect(page.locator(row)).to_have_count(1)
                    # What one's role is comes a moment after the page.
                    expect(told).to_have_count(0 if is_maintainer else 1)
                    expect(page.get_by_role("button", name=new)).to_have_count(int(is_maintainer))
                    expect(page.locator(row).get_by_role("button", name="Pause")).to_have_count(
                        int(is_maintainer)
                    )


def test_ranges_of_a_metric_and_a_hyperparameter_choose_runs(page: Page, server: Server) -> None:
    own = experiment(server.url)
    trainers = [external(server.url, own, hyperparams={"lr": n / 10}) for n in range(1, 4)]
    for number, trainer in enumerate(trainers, 1):
        trainer.points("loss", [1], [float(number)], step=1)
    dashboard = Dashboard(page, server.url).open(f"?experiment={own}")
    runs = page.locator("[data-run]")
    expect(runs).to_have_count(3)
    page.get_by_text("Filter", exact=True).click()
    page.get_by_label("Last value of a metric: name").fill("loss")
    page.get_by_label("Last value of a metric: from").fill("2")
    expect(runs).to_have_count(2)
    page.get_by_label("Hyperparameter: name").fill("lr")
    page.get_by_label("Hyperparameter: to").fill("0.2")
    expect(runs).to_have_count(1)
    expect(dashboard.row(trainers[1].run)).to_be_visible()
    page.reload()  # what is chosen is in the address
    expect(runs).to_have_count(1)
    page.get_by_role("button", name="Remove the filter loss ≥ 2").click()
    expect(runs).to_have_count(2)
    page.get_by_role("button", name="Remove the filter lr ≤ 0.2").click()
    expect(runs).to_have_count(3)
