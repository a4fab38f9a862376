"""The dashboard of somebody who is in one project of two: what it shows, and no foreign name."""

import csv
import io
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, WebSocket, expect

from tests.support.browser import watch
from tests.support.dashboard import Dashboard, Trainer, http
from tests.support.server import running_server, wait_until
from tests.support.tenants import API_TOKEN, Person, Tenants, two_tenants

pytestmark = pytest.mark.heavy

GPUS = 36_000
"""So many that a second of them is ten GPU-hours."""
KINDS = ("used", "wasted", "saved", "waited")


@dataclass(frozen=True)
class World:
    """A service with two tenants, each of whom has a run that ended well and one that failed."""

    url: str
    tenants: Tenants
    experiment: str
    runs: list[str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running_server(tmp_path_factory.mktemp("world"), API_TOKEN=API_TOKEN) as server:

        def send(method: str, path: str, **more: Any) -> httpx.Response:
            return http.request(method, server.url + path, **more)

        tenants = two_tenants(send)
        work(server.url, tenants.alice, "amber-work")
        experiment, runs = work(server.url, tenants.bob, "=1+1")
        yield World(server.url, tenants, experiment, runs)


def work(url: str, person: Person, name: str) -> tuple[str, list[str]]:
    """A person's experiment with two external runs, each of a second and a bit."""
    body: dict[str, Any] = {"name": name, "task_type": "test"}
    experiment = str(person.ok("POST", "/v1/experiments", body)["experiment_id"])
    runs: list[str] = []
    ends: tuple[dict[str, Any], ...] = ({"step": 4, "finished": True}, {"failed": "it exploded"})
    for end in ends:
        body = {"model": "tiny", "name": f"{name} {len(runs)}", "resources": {"count": GPUS}}
        run = person.ok("POST", f"/v1/experiments/{experiment}/runs", body)
        trainer, began = Trainer(url, run["run_id"], run["run_token"]), time.monotonic()
        trainer.points("loss", [1, 2], [2.0, 1.0], step=2, total_steps=4)
        wait_until(partial(lambda then: time.monotonic() > then + 1.1, began), "a second is over")
        trainer.report(**end)
        runs.append(run["run_id"])
    return experiment, runs


@contextmanager
def signed_in(browser: Browser, world: World, person: Person) -> Iterator[tuple[Page, list[str]]]:
    """A tab in which a person has signed in, and every text that it gets of the service."""
    told: list[str] = []

    def answer(route: Route) -> None:
        response = route.fetch()
        told.append(response.text())
        route.fulfill(response=response)

    def listen(socket: WebSocket) -> None:
        socket.on("framereceived", lambda frame: told.append(str(frame)))

    with browser.new_context(accept_downloads=True) as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        problems = watch(page)
        context.route("**/graphql", answer)
        page.on("websocket", listen)
        page.goto(world.url)
        page.get_by_label("API token").fill(person.token)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_selector("[data-state=live]")
        yield page, told
    assert not [each for each in problems if not each.endswith("401 (Unauthorized)")], problems


def cells(row: dict[str, Any]) -> list[str]:
    """Return what the page shows of one sum."""
    seconds = [f"{math.floor(row[f'{kind}_seconds'] + 0.5)} s" for kind in KINDS]
    hours = [f"{round(row[f'gpu_hours_{kind}'], 2):.4g}" for kind in KINDS]
    return [str(row["attempts"]), *seconds, *hours, f"{math.floor(100 * row['goodput'] + 0.5)} %"]


def test_the_usage_page_of_a_user_its_table_in_csv_and_rest_say_the_same(
    browser: Browser, world: World
) -> None:
    bob = world.tenants.bob
    with signed_in(browser, world, bob) as (page, _):
        page.get_by_role("link", name="Usage").click()
        for by, label, groups in (
            ("month", "By month", None), ("project", "By project", [bob.project_id]),
            ("experiment", "By experiment", [world.experiment]), ("run", "By run", world.runs),
        ):  # fmt: skip
            page.get_by_role("button", name=label).click()
            rows = bob.ok("GET", f"/v1/usage?by={by}")["usage"]
            assert groups is None or sorted(row["group"] for row in rows) == sorted(groups)
            shown = page.locator("tbody tr[data-group]")
            expect(page.locator(f"[data-group='{rows[0]['group']}']")).to_be_visible()
            expect(shown).to_have_count(len(rows))
            for row in rows:
                line = page.locator(f"[data-group='{row['group']}']")
                assert [cell.strip() for cell in line.locator("td").all_inner_texts()] == cells(row)
                expect(line.locator("th")).to_have_text(row["name"] or row["group"])
            with page.expect_download() as download:
                page.get_by_role("link", name="CSV").click()
            text = Path(download.value.path()).read_text(encoding="utf-8")
            for line_of_csv, row in zip(csv.DictReader(io.StringIO(text)), rows, strict=True):
                name = row.pop("name")
                assert line_of_csv.pop("name") == (
                    f"'{name}" if by in "experiment run" else name or ""
                )
                assert line_of_csv.pop("group") == row.pop("group")
                assert {key: float(value) for key, value in line_of_csv.items()} == row
    (failed,) = (row for row in rows if row["goodput"] == 0)
    assert failed["wasted_seconds"] == failed["used_seconds"] > 1


def test_no_page_of_a_user_holds_a_foreign_name_nor_is_told_one(
    browser: Browser, world: World
) -> None:
    tenants, made = world.tenants, world.tenants.made
    with signed_in(browser, world, tenants.bob) as (page, told):
        dashboard = Dashboard(page, world.url)

        def leaks() -> list[str]:
            texts = [page.locator("body").inner_text(), page.title(), *told]
            return [text[:300] for text in texts if any(one in text for one in tenants.secrets)]

        for path in (
            "", "experiments", "compare", "checkpoints", "recipes", "usage", "usage?by=project",
            "usage?by=experiment", "usage?by=run", "alerts", "webhooks", "audit", "?q=amber",
            f"experiments/{world.experiment}", f"runs/{world.runs[0]}",
        ):  # fmt: skip
            dashboard.open(path)
            page.wait_for_load_state("networkidle")
            assert not leaks(), path
        assert any(world.runs[0] in text for text in told), "what it is told is listened to"
        expect(page.get_by_role("heading", name="=1+1 0")).to_be_visible()
        for path in (
            f"experiments/{made['experiment_id']}", f"runs/{made['run_id']}",
            f"usage?by=run&experiment={made['experiment_id']}",
            f"compare?runs={made['run_id']},{world.runs[0]}",
        ):  # fmt: skip
            told.clear()
            dashboard.open(path)
            page.wait_for_load_state("networkidle")
            texts = [page.locator("body").inner_text(), page.title(), *told]
            assert not [text[:300] for text in texts if "amber" in text], path
        dashboard.open("audit")
        expect(
            page.get_by_text("Only an administrator of the service may do this.")
        ).to_be_visible()
