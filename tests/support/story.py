"""Experiments whose trainers are played by the test: what it sends over REST, and what it sees."""

from typing import Any, Protocol

import httpx

Json = dict[str, Any]


class Sends(Protocol):
    """One request; `tests/api` has it in `Api.send`."""

    def __call__(self, method: str, path: str, **more: Any) -> httpx.Response: ...


class Story:
    """One experiment."""

    def __init__(self, send: Sends, **fields: Any) -> None:
        self.send = send
        body = {"name": "story", "task_type": "test"} | fields
        self.id = str(self.ok("POST", "/v1/experiments", json=body)["experiment_id"])
        self.path = f"/v1/experiments/{self.id}"

    def ok(self, method: str, path: str, **more: Any) -> Json:
        answer = self.send(method, path, **more)
        assert answer.status_code < 300, answer.text
        found: Json = answer.json()
        return found

    def submit(self, **body: Any) -> "Trainer":
        """An external run."""
        return Trainer(self, self.ok("POST", f"{self.path}/runs", json={"model": "m", **body}))

    def get(self, path: str = "", **params: Any) -> Json:
        """GET below the experiment."""
        return self.ok("GET", self.path + path, params=params)

    def events(self, run_id: str) -> list[Json]:
        found: list[Json] = self.get("/events", run_id=run_id, limit=1000)["events"]
        return found


class Trainer:
    """An external run and who reports on it."""

    def __init__(self, story: Story, run: Json) -> None:
        self.story, self.run, self.id = story, run, str(run["run_id"])
        self.path = f"{story.path}/runs/{self.id}"

    def send(self, **report: Any) -> httpx.Response:
        """One report, whatever becomes of it."""
        headers = {"Authorization": f"Bearer {self.run['run_token']}"}
        path = f"/v1/runs/{self.id}/reports"
        return self.story.send("POST", path, json=report, headers=headers)

    def report(self, **report: Any) -> Json:
        """One report, which is taken in."""
        answer = self.send(**report)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def log(
        self, steps: range, values: list[float] | None = None, key: str = "loss", **more: Any
    ) -> Json:
        """Points of one key; the values are the steps when none are given."""
        column = {"steps": list(steps), "values": list(values or map(float, steps))}
        return self.report(metrics={key: column}, **more)

    def refused(self, **report: Any) -> tuple[int, str]:
        """Status and code of a report that is not taken in."""
        answer = self.send(**report)
        return answer.status_code, str(answer.json()["code"])

    def resume(self, **body: Any) -> "Trainer":
        return Trainer(self.story, self.story.ok("POST", f"{self.path}/resume", json=body))

    def status(self) -> Json:
        return self.story.ok("GET", f"{self.path}/status")

    def series(self, **params: Any) -> list[Json]:
        """The curves of the run."""
        found: list[Json] = self.story.ok("GET", f"{self.path}/metrics", params=params)["series"]
        return found

    def steps(self, **params: Any) -> list[int]:
        """The steps of the curve of `loss`."""
        (found,) = self.series(keys="loss", **params)
        steps: list[int] = found["steps"]
        return steps
