"""The dashboard as a person uses it, and runs for it to show."""

from typing import Any

import httpx
from playwright.sync_api import Locator, Page

# One for all, since making a client takes longer than a request; and no connection is kept, since
# some of the servers are killed.
http = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))


class Dashboard:
    """The dashboard in one tab."""

    def __init__(self, page: Page, url: str) -> None:
        self.page, self.url = page, url.rstrip("/")

    def open(self, path: str = "") -> "Dashboard":
        """Go to an address below the root, and wait until it is live."""
        self.page.goto(f"{self.url}/{path}")
        self.live()
        return self

    def live(self) -> None:
        """Wait until the tab's WebSocket is there."""
        self.page.wait_for_selector("[data-state=live]")

    def row(self, run: str) -> Locator:
        """The row of a run in the list."""
        return self.page.locator(f"[data-run={run}]")

    def rows(self) -> int:
        """Return how many rows of runs are in the DOM."""
        return self.page.locator("[data-run]").count()

    def total(self) -> int:
        """Return how many runs the list has."""
        return int(self.page.locator("[data-total]").get_attribute("data-total") or "0")

    def chart(self, key: str) -> Locator:
        """The chart of a metric."""
        return self.page.locator(f'.chart[data-key="{key}"]')

    def value(self, key: str) -> float:
        """The smoothed value that a chart shows for its last step."""
        found = self.chart(key).locator("[data-value]").first.get_attribute("data-value")
        return float(found) if found else float("nan")

    def log(self) -> str:
        """Return what the log shows."""
        return self.page.locator("pre.log").inner_text()


class Trainer:
    """An external trainer that reports what a test tells it to, over HTTP."""

    def __init__(self, url: str, run: str, token: str) -> None:
        self.run, self._url, self._token = run, url, token
        self._batch = 0

    def report(self, **body: Any) -> None:
        """Send one report, the next batch of the one session."""
        self._batch += 1
        answer = http.post(
            f"{self._url}/v1/runs/{self.run}/reports",
            json={"session": "test", "batch": self._batch, **body},
            headers={"Authorization": f"Bearer {self._token}"},
        )
        assert answer.status_code == 200, answer.text

    def points(self, key: str, steps: list[int], values: list[Any], **body: Any) -> None:
        """Report points of one metric."""
        self.report(metrics={key: {"steps": steps, "values": values}}, **body)


def experiment(url: str, **headers: str) -> str:
    """A new experiment; its id."""
    body = {"name": "look at me", "task_type": "test", "owner": "alice"}
    answer = http.post(f"{url}/v1/experiments", json=body, headers=headers)
    return str(answer.raise_for_status().json()["experiment_id"])


def submit(url: str, experiment: str, **body: Any) -> dict[str, Any]:
    """Submit a run over REST, as curl would; the answer."""
    path = f"{url}/v1/experiments/{experiment}/runs"
    answer = http.post(path, json={"model": "tiny", **body})
    found: dict[str, Any] = answer.raise_for_status().json()
    return found


def external(url: str, experiment: str, **body: Any) -> Trainer:
    """Submit an external run; its trainer."""
    run = submit(url, experiment, **body)
    return Trainer(url, run["run_id"], run["run_token"])
