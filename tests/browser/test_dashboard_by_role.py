"""The dashboard offers what the service lets somebody do, and nothing that it would refuse.

The service itself says which is which: each action of a page is tried over REST with the token of
who looks at it, and must be refused exactly where no button or link for it is shown.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from tests.support.axe import audit
from tests.support.browser import watch
from tests.support.dashboard import Dashboard, http
from tests.support.receivers import receiving
from tests.support.server import running_server, wait_until
from tests.support.tenants import API_TOKEN, Person, operator, person

pytestmark = pytest.mark.heavy

MAINTAINERS = {
    "Delete…", "Mark…", "New rule…", "Change…", "Pause", "New webhook…", "Send a test",
    "Send again",
}  # fmt: skip
DEMO = {"steps": 20, "checkpoint_every": 10}


@dataclass(frozen=True)
class World:
    """A project with people of every role, and one of everything that can be acted upon."""

    url: str
    people: dict[str, Person]
    experiment: str
    active: str
    ended: str
    released: str
    unmarked: str
    webhook: str
    of_experiment: str
    rule: str
    delivery: str

    @property
    def path(self) -> str:
        return f"/v1/experiments/{self.experiment}"

    def new_run(self) -> str:
        """A run to act upon, which a member submits."""
        return str(self.people["member"].ok("POST", f"{self.path}/runs", {"model": "m"})["run_id"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    place = tmp_path_factory.mktemp("roles")
    with (
        receiving() as receiver,
        running_server(place, API_TOKEN=API_TOKEN, WEBHOOK_NETWORKS="127.0.0.0/8") as server,
    ):

        def send(method: str, path: str, **more: Any) -> httpx.Response:
            return http.request(method, server.url + path, **more)

        yield fill(server.url, operator(send), receiver.url)


def fill(url: str, admin: Person, hook: str) -> World:
    people = {
        role: person(admin, name, "speech", role)
        for role, name in (("viewer", "vera"), ("member", "mia"), ("maintainer", "max"))
    }
    admin.ok("POST", "/v1/users", {"name": "ada", "is_admin": True})
    token = admin.ok("POST", "/v1/tokens", {"user": "ada", "scope": "admin"})["token"]
    people["admin"] = replace(admin, name="ada", token=token)
    member, maintainer = people["member"], people["maintainer"]
    body = {"name": "voices", "task_type": "t"}
    experiment = member.ok("POST", "/v1/experiments", body)["experiment_id"]
    path = f"/v1/experiments/{experiment}"
    active = member.ok("POST", f"{path}/runs", {"model": "m"})["run_id"]
    demo = {"model": "m", "recipe": "demo", "hyperparams": DEMO}
    ended = member.ok("POST", f"{path}/runs", demo)["run_id"]
    where = f"{path}/runs/{ended}/status"
    wait_until(lambda: member.ok("GET", where)["status"] == "succeeded", "it has trained")
    detail = member.ok("GET", f"{path}/detail")
    unmarked, released = [each["ckpt_path"] for each in detail["checkpoints"]][-2:]
    mark = {"run_id": ended, "ckpt_path": released, "tag_type": "release", "release_tag": "v1"}
    maintainer.ok("POST", f"{path}/checkpoints/mark", mark)
    hooks = [
        maintainer.ok("POST", "/v1/webhooks", {"url": hook, "types": ["run.deleted"]} | about)
        for about in ({"project_id": maintainer.project_id}, {"experiment_id": experiment})
    ]
    webhook, of_experiment = [each["webhook_id"] for each in hooks]
    delivery = maintainer.ok("POST", f"/v1/webhooks/{webhook}/test", {})["delivery_id"]
    messages = f"/v1/webhooks/{webhook}/deliveries"
    wait_until(
        lambda: maintainer.ok("GET", messages)["deliveries"][0]["state"] == "delivered",
        "the message arrives",
    )
    rule = maintainer.ok("POST", "/v1/alert-rules", {"kind": "run_failed", "name": "failures"})
    return World(
        url, people, experiment, active, ended, released, unmarked, webhook, of_experiment,
        rule["rule_id"], delivery,
    )  # fmt: skip


class Action(NamedTuple):
    """What a page may offer: its place, and the request that does it."""

    where: str
    name: str
    send: Callable[[Person], httpx.Response]


def actions(world: World) -> dict[str, list[Action]]:
    """Every action of the pages, by address."""
    path = world.path

    def do(method: str, path: str, body: Any = None) -> Callable[[Person], httpx.Response]:
        return lambda who: who.send(method, path, json=body)

    def of_a_run(method: str, what: str, body: Any = None) -> Callable[[Person], httpx.Response]:
        return lambda who: who.send(method, f"{path}/runs/{world.new_run()}{what}", json=body)

    def delete_run(who: Person) -> httpx.Response:
        run = world.new_run()
        world.people["member"].ok("POST", f"{path}/runs/{run}/cancel", {})
        return who.send("DELETE", f"{path}/runs/{run}")

    def delete_experiment(who: Person) -> httpx.Response:
        body = {"name": "short-lived", "task_type": "t"}
        made = world.people["member"].ok("POST", "/v1/experiments", body)
        return who.send("DELETE", f"/v1/experiments/{made['experiment_id']}")

    def delete_rule(who: Person) -> httpx.Response:
        body = {"kind": "run_failed", "project": "speech"}
        made = world.people["maintainer"].ok("POST", "/v1/alert-rules", body)
        return who.send("DELETE", f"/v1/alert-rules/{made['rule_id']}")

    def delete_hook(who: Person) -> httpx.Response:
        body = {"url": "https://example.com", "experiment_id": world.experiment}
        made = world.people["maintainer"].ok("POST", "/v1/webhooks", body)
        return who.send("DELETE", f"/v1/webhooks/{made['webhook_id']}")

    def mark(ckpt_path: str, **more: str) -> Callable[[Person], httpx.Response]:
        body = {"run_id": world.ended, "ckpt_path": ckpt_path, "tag_type": "candidate"} | more
        return do("POST", f"{path}/checkpoints/mark", body)

    submit = do("POST", f"{path}/runs", {"model": "m"})
    experiment = do("POST", "/v1/experiments", {"name": "e", "task_type": "t", "project": "speech"})
    rerun, edit = of_a_run("POST", "/rerun", {}), of_a_run("PATCH", "", {"notes": "n"})
    hook = {"url": "https://example.com", "project_id": world.people["viewer"].project_id}
    rule = {"kind": "run_failed", "project": "speech"}
    title, hooks = ".title", f"[data-webhook={world.webhook}]"
    of_experiment = f"[data-webhook={world.of_experiment}]"
    row = f"[data-rule={world.rule}]"
    messages = f"/v1/webhooks/{world.webhook}/deliveries/{world.delivery}"
    release = mark(world.released, tag_type="release", release_tag="v1")
    return {
        "": [Action(".page", "New run", submit)],
        f"runs/{world.active}": [
            Action(title, "Cancel…", of_a_run("POST", "/cancel", {})),
            Action(title, "Run again…", rerun), Action(title, "Edit…", edit),
        ],
        f"runs/{world.ended}": [
            Action(title, "Resume…", do("POST", f"{path}/runs/{world.ended}/resume", {})),
            Action(title, "Mark…", mark(world.unmarked)), Action(title, "Run again…", rerun),
            Action(title, "Edit…", edit), Action(title, "Delete…", delete_run),
            Action(f'[data-checkpoint="{world.released}"]', "Mark…", release),
            Action(f'[data-checkpoint="{world.unmarked}"]', "Mark…", mark(world.unmarked)),
            Action(f'[data-checkpoint="{world.unmarked}"]', "Resume…",
                   do("POST", f"{path}/runs/{world.ended}/resume", {"ckpt_path": world.unmarked})),
        ],
        "experiments": [Action(".page", "New experiment…", experiment)],
        f"experiments/{world.experiment}": [
            Action(title, "Edit…", do("PATCH", path, {"notes": "n"})),
            Action(title, "Delete…", delete_experiment), Action(title, "New run", submit),
        ],
        "checkpoints": [
            Action(f'[data-checkpoint="{world.released}"]', "Verify",
                   do("POST", f"{path}/checkpoints/verify", {"ckpt_path": world.released})),
        ],
        "recipes": [Action(".page", "Submit", submit), Action(".page", "New…", experiment)],
        "alerts": [
            Action(".page", "New rule…", do("POST", "/v1/alert-rules", rule)),
            Action(row, "Change…", do("PATCH", f"/v1/alert-rules/{world.rule}", {"name": "f"})),
            Action(row, "Pause", do("PATCH", f"/v1/alert-rules/{world.rule}", {"paused": False})),
            Action(row, "Delete…", delete_rule),
        ],
        "webhooks": [
            Action(".page", "New webhook…", do("POST", "/v1/webhooks", hook)),
            *(
                Action(at, name, send)
                for at, id in ((hooks, world.webhook), (of_experiment, world.of_experiment))
                for name, send in (
                    ("Send a test", do("POST", f"/v1/webhooks/{id}/test", {})),
                    ("Pause", do("PATCH", f"/v1/webhooks/{id}", {"paused": False})),
                    ("Delete…", delete_hook),
                )
            ),
            Action("[data-delivery]", "Send again", do("POST", f"{messages}/redeliver", {})),
        ],
    }  # fmt: skip


@contextmanager
def signed_in(browser: Browser, world: World, who: Person, **options: Any) -> Iterator[Page]:
    with browser.new_context(bypass_csp=True, **options) as context:
        page = context.new_page()
        page.set_default_timeout(60_000)
        problems = watch(page)
        page.goto(world.url)
        page.locator("input[type=password]").fill(who.token)
        page.keyboard.press("Enter")
        page.wait_for_selector("[data-state=live]")
        yield page
    assert not [each for each in problems if not each.endswith("401 (Unauthorized)")], problems


def look(page: Page, world: World, path: str) -> None:
    """Open a page, until it is drawn and knows who looks at it."""
    with page.expect_response(lambda it: "query Viewer" in (it.request.post_data or "")):
        Dashboard(page, world.url).open(path)
    page.wait_for_load_state("networkidle")
    if path == "webhooks":
        page.locator(f"[data-webhook={world.webhook}]").get_by_text("Messages").click()
        expect(page.locator("[data-delivery]").first).to_be_visible()


@pytest.mark.parametrize("role", ["viewer", "member", "maintainer", "admin"])
def test_a_page_offers_what_the_service_does_and_nothing_that_it_refuses(
    browser: Browser, world: World, role: str
) -> None:
    who = world.people[role]
    refused: list[str] = []
    with signed_in(browser, world, who) as page:
        for path, offered in actions(world).items():
            look(page, world, path)
            for where, name, send in offered:
                place = page.locator(where)
                shown = place.get_by_role("button", name=name, exact=True).or_(
                    place.get_by_role("link", name=name, exact=True)
                )
                answer = send(who)
                assert answer.status_code < 300 or answer.status_code == 403, answer.text
                if answer.status_code == 403:
                    refused.append(name)
                    expect(shown, f"{path}: {name}").to_have_count(0)
                else:
                    expect(shown.first, f"{path}: {name}").to_be_enabled()
            assert audit(page) == [], path
        page.locator(".health summary").click()
        expect(page.get_by_role("link", name="Alerts").last).to_be_visible()
        may_audit = who.send("GET", "/v1/audit").status_code == 200
        expect(page.get_by_role("link", name="Audit")).to_have_count(int(may_audit))
        if may_audit:
            look_at_times(page, world)
    names = {action.name for offered in actions(world).values() for action in offered}
    assert set(refused) == {"viewer": names, "member": MAINTAINERS}.get(role, set())


def look_at_times(page: Page, world: World) -> None:
    """The audit before and since a time, which is the reader's and in the address UTC."""
    look(page, world, "audit")
    entries = page.locator("[data-entry]")
    expect(entries.first).to_be_visible()
    page.get_by_label("Since").fill("2999-01-01T08:00")
    expect(page.get_by_text("No entries match.")).to_be_visible()
    assert "since=2999-01-01T" in page.url and "Z" in page.url
    page.reload()
    expect(page.get_by_label("Since")).to_have_value("2999-01-01T08:00")
    expect(page.get_by_text("No entries match.")).to_be_visible()
    page.get_by_label("Since").fill("")
    page.get_by_label("Until").fill("2999-01-01T08:00")
    expect(entries.first).to_be_visible()
    assert audit(page) == []


def test_a_new_role_shows_at_the_next_load_in_chinese_and_for_keys_as_well(
    browser: Browser, world: World
) -> None:
    viewer, maintainer = world.people["viewer"], world.people["maintainer"]
    newcomer = person(world.people["admin"], "nina", "speech", "viewer")
    note = "您只能查看；更改由所属项目的成员进行。"
    with signed_in(browser, world, newcomer, locale="zh-CN") as page:
        look(page, world, f"runs/{world.active}")
        expect(page.get_by_role("note").filter(has_text=note)).to_be_visible()
        page.keyboard.press("c")
        page.keyboard.press("?")  # the dialog of which comes after that of `c` would
        expect(page.get_by_role("dialog")).to_have_attribute("aria-label", "快捷键")
        members = f"/v1/projects/{viewer.project_id}/members"
        maintainer.ok("POST", members, {"user": "nina", "role": "member"})
        look(page, world, f"runs/{world.active}")
        expect(page.get_by_text(note)).to_have_count(0)
        expect(page.get_by_text("发布和删除由所属项目的维护者进行。")).to_be_visible()
        page.keyboard.press("c")
        expect(page.get_by_role("dialog").get_by_role("button", name="取消任务")).to_be_visible()


def test_who_is_in_several_projects_says_in_which_an_experiment_belongs(
    browser: Browser, world: World
) -> None:
    admin = world.people["admin"]
    both = person(admin, "bea", "music", "member")
    members = f"/v1/projects/{world.people['viewer'].project_id}/members"
    admin.ok("POST", members, {"user": "bea", "role": "viewer"})
    with signed_in(browser, world, both) as page:
        look(page, world, "experiments")
        page.get_by_role("button", name="New experiment…").click()
        dialog = page.get_by_role("dialog")
        choices = dialog.get_by_label("Project").locator("option")
        assert choices.all_inner_texts() == ["music"]  # where she may
        dialog.get_by_label("Name").fill("of music")
        dialog.get_by_role("button", name="Create").click()
        page.wait_for_url("**/experiments/exp_*")
        look(page, world, "recipes")
        expect(page.get_by_label("Experiment").locator("option")).to_have_text(["of music"])
