"""The mailbox of an agent without the service's files: claimed once, fenced, and nothing twice."""

import asyncio
import hashlib
import json
import secrets
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from app.db.sql import Tx
from app.domain.ids import new_id
from app.domain.tokens import attempt_token, claim_code
from app.services import attempts, launches, runs
from app.storage import data_dir
from tests.api.conftest import Api, running
from tests.api.problem import problem
from tests.support.database import Databases
from tests.support.server import wait_until

Json = dict[str, Any]


@pytest.fixture(scope="module")
def api(databases: Databases, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The app, whose supervisor only leads: what it does to an attempt is played by the test."""
    url = databases.migrated()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("app.supervisor.STEPS", ())
        with running(tmp_path_factory.mktemp("api"), database_url=url) as api:
            yield api
    databases.drop(url)


class Remote:
    """A run whose first attempt was submitted to a cluster, and its agents."""

    def __init__(self, api: Api) -> None:
        self.api = api
        experiment = api.post("/v1/experiments", {"name": "remote", "task_type": "test"})
        self.experiment = experiment["experiment_id"]
        body = {"model": "m", "recipe": "demo"}
        self.run = api.post(f"/v1/experiments/{self.experiment}/runs", body)["run_id"]
        self.url = f"/v1/runs/{self.run}/attempts"
        self.token = ""
        self.launch()

    def write(self, use_case: Any, *args: Any, **more: Any) -> Any:
        work = self.api.app.state.db.write(use_case, *args, **more)
        return asyncio.run_coroutine_threadsafe(work, self.api.loop).result(10)

    def launch(self, resume_path: str | None = None) -> None:
        """The supervisor submits the run's next attempt."""

        place = data_dir.get_name(self.api.settings.data_dir)

        def submit(tx: Tx) -> int:
            run = launches.claim(tx, runs.get(tx, self.run), [], None, None, place)
            assert run is not None
            code = claim_code(self.api.app.state.secret, run.id, run.attempt)
            attempts.create(tx, run, code, {"files": "http", "steps": 7}, resume_path)
            return int(run.attempt)

        self.attempt = self.write(submit)
        self.code = claim_code(self.api.app.state.secret, self.run, self.attempt)

    def send(
        self,
        verb: str,
        body: Any = None,
        token: str | None = None,
        method: str = "POST",
        **more: Any,
    ) -> httpx.Response:
        headers = {"Authorization": f"Bearer {self.token if token is None else token}"}
        content = {"content": body} if isinstance(body, bytes) else {"json": body or {}}
        if isinstance(body, bytes):
            kind = "json" if verb.endswith("/commit") else "octet-stream"
            headers["Content-Type"] = f"application/{kind}"
        if method == "GET":
            content = {}
        path = f"{self.url}/{more.pop('attempt', self.attempt)}/{verb}"
        return self.api.send(method, path, headers=headers, **content, **more)

    def ok(self, *args: Any, **more: Any) -> Json:
        answer = self.send(*args, **more)
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    def claim(self, agent: str = "") -> Json:
        """An agent claims the attempt, and keeps the token."""
        found = self.ok("claim", {"agent": agent or secrets.token_hex(16)}, self.code)
        self.token = found["token"]
        return found

    def status(self) -> Json:
        path = f"/v1/experiments/{self.experiment}/runs/{self.run}"
        found: Json = self.api.send("GET", f"{path}/status").json()
        return found

    def cancel(self) -> None:
        self.api.post(f"/v1/experiments/{self.experiment}/runs/{self.run}/cancel", {})

    def log_text(self) -> str:
        path = f"/v1/experiments/{self.experiment}/runs/{self.run}/logs"
        return self.api.send("GET", path).text

    def save(self, name: str, files: dict[str, bytes], step: int = 5) -> bytes:
        """Send the files of a checkpoint; return its manifest."""
        for path, content in files.items():
            sent = self.ok(f"checkpoints/{name}/files/{path}", content, method="PUT")
            assert sent == {"path": path, "size": len(content)}
        listed = [
            {"path": path, "size": len(files[path]), "sha256": sha256(files[path])}
            for path in sorted(files)
        ]
        document = {
            "format": 1,
            "step": step,
            "files": listed,
            "created_at": "2026-01-01T00:00:00Z",
        }
        return json.dumps(document).encode()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def remote(api: Api) -> Remote:
    return Remote(api)


def test_a_claim_says_how_to_start_the_trainer(remote: Remote) -> None:
    claimed = remote.claim()
    assert claimed["config"]["argv"] == ["{python}", "-m", "app.recipes.demo"]
    env = claimed["config"]["env"]
    assert env["LLM_TRAIN_RUN_ID"] == remote.run and env["LLM_TRAIN_RUN_TOKEN"] == remote.token
    assert "PATH" not in env and "HOME" not in env, "these are the other machine's own"
    assert claimed["spec"] == {"files": "http", "steps": 7} and claimed["log_offset"] == 0


def test_of_two_agents_one_gets_the_attempt(remote: Remote) -> None:
    bodies = [{"agent": secrets.token_hex(16)} for _ in range(8)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda body: remote.send("claim", body, remote.code), bodies))
    won = [answer for answer in answers if answer.status_code == 200]
    lost = [problem(answer, "attempt_claimed") for answer in answers if answer not in won]
    assert (len(won), len(lost)) == (1, 7)


def test_an_agent_that_lost_the_answer_claims_again_and_gets_the_same(remote: Remote) -> None:
    first = remote.claim("an-agent-that-asks-twice")
    assert remote.claim("an-agent-that-asks-twice") == first


def test_a_claim_without_the_code_is_refused(remote: Remote) -> None:
    other = Remote(remote.api)
    body = {"agent": secrets.token_hex(16)}
    for wrong in ("", "ac_1_nonsense", other.code, remote.code[:-1], attempt_token(
        remote.api.app.state.secret, remote.run, 1)):  # fmt: skip
        problem(remote.send("claim", body, wrong), "unauthorized")
    assert remote.claim()


def test_a_run_that_waits_in_the_queue_of_an_engine_starts_with_the_claim(api: Api) -> None:
    remote = Remote(api)
    remote.write(launches.requeue, remote.run, 1, "Waits in the engine's queue.")
    assert remote.status()["status"] == "queued"
    remote.claim()
    assert remote.status()["status"] == "starting"


def test_an_attempt_that_was_stopped_before_it_began_cannot_be_claimed(remote: Remote) -> None:
    remote.write(attempts.request_stop, remote.run, 1)
    problem(remote.send("claim", {"agent": "a" * 16}, remote.code), "stale_attempt")
    attempt = remote.write(attempts.get, remote.run, 1)
    record = attempts.get_exit(attempt)
    assert record is not None and record.never_ran and record.detail == attempts.NEVER_BEGAN


def test_a_pulse_brings_the_order_to_stop_and_to_kill(remote: Remote) -> None:
    remote.claim()
    assert remote.ok("pulse", {"ran_seconds": 1.5}) == {"order": "go"}
    remote.cancel()
    assert remote.ok("pulse") == {"order": "stop"}
    remote.write(attempts.request_stop, remote.run, 1, kill=True)
    assert remote.ok("pulse") == {"order": "kill"}


def test_the_pulses_of_many_agents_are_recorded_each_for_its_own_attempt(api: Api) -> None:
    remotes = [Remote(api) for _ in range(3)]
    for remote in remotes:
        remote.claim()
    before = [remote.write(attempts.get, remote.run, 1).pulse_at for remote in remotes]
    for number, remote in enumerate(remotes):
        remote.ok("pulse", {"ran_seconds": 10.0 + number})
    over = Remote(api)
    over.claim()
    over.ok("pulse", {"ran_seconds": 5.0})
    over.ok("exit", {"exit_code": 0})

    def recorded() -> bool:
        now = [remote.write(attempts.get, remote.run, 1) for remote in remotes]
        return all(one.pulse_at > at for one, at in zip(now, before, strict=True))

    wait_until(recorded, "the pulses are on record")
    ran = [remote.write(attempts.get, remote.run, 1).ran_seconds for remote in remotes]
    assert ran == [10.0, 11.0, 12.0]
    assert over.write(attempts.get, over.run, 1).ran_seconds != 5.0, "its end was first"


def test_a_pulse_that_waits_is_answered_as_soon_as_there_is_something_to_do(remote: Remote) -> None:
    remote.claim()
    answers: list[Json] = []
    waiting = threading.Thread(
        target=lambda: answers.append(remote.ok("pulse", params={"wait": 20}))
    )
    waiting.start()
    remote.cancel()
    waiting.join(60)  # one that waited its 20 s in vain would be told to go on
    assert answers == [{"order": "stop"}]


def test_a_report_with_the_token_of_the_attempt_counts_for_that_attempt_only(
    remote: Remote,
) -> None:
    remote.claim()
    headers = {"Authorization": f"Bearer {remote.token}"}
    url = f"/v1/runs/{remote.run}/reports"
    good = remote.api.send("POST", url, json={"attempt": 1, "step": 3}, headers=headers)
    assert good.status_code == 200 and remote.status()["step"] == 3
    later = remote.api.send("POST", url, json={"attempt": 2, "step": 4}, headers=headers)
    problem(later, "unauthorized")
    other = Remote(remote.api)
    elsewhere = f"/v1/runs/{other.run}/reports"
    problem(
        remote.api.send("POST", elsewhere, json={"attempt": 1, "step": 4}, headers=headers),
        "unauthorized",
    )  # fmt: skip


def test_output_is_added_where_it_belongs_and_never_twice(remote: Remote) -> None:
    remote.claim()
    assert remote.ok("log", b"one\n", params={"offset": 0}) == {"offset": 4}
    assert remote.ok("log", b"one\n", params={"offset": 0}) == {"offset": 4}, "sent again"
    assert remote.ok("log", b"e\ntwo\n", params={"offset": 2}) == {"offset": 8}, "half of it new"
    gap = remote.send("log", b"four\n", params={"offset": 12})
    assert problem(gap, "log_offset")["offset"] == 8
    too_much = remote.send("log", b"x" * (1024 * 1024 + 1), params={"offset": 8})
    problem(too_much, "body_too_large")
    assert remote.log_text() == "one\ntwo\n"


def test_the_output_of_the_next_attempt_follows_and_nothing_of_the_last_one_counts_any_more(
    remote: Remote,
) -> None:
    remote.claim()
    remote.ok("log", b"first\n", params={"offset": 0})
    old = remote.token
    remote.write(launches.requeue, remote.run, 1, "Tried again.")
    remote.launch()
    assert remote.claim()["log_offset"] == 0
    assert remote.ok("log", b"second\n", params={"offset": 0}) == {"offset": 7}
    late = remote.send("log", b"late\n", old, params={"offset": 6}, attempt=1)
    problem(late, "stale_attempt")
    for verb, content, method in VERBS[1:]:  # a pulse is told so, below
        problem(remote.send(verb, content, old, method, attempt=1), "stale_attempt")
    body = {"attempt": 1, "step": 99}
    url, headers = f"/v1/runs/{remote.run}/reports", {"Authorization": f"Bearer {old}"}
    problem(remote.api.send("POST", url, json=body, headers=headers), "stale_attempt")
    assert remote.log_text() == "first\nsecond\n"
    assert remote.ok("pulse", None, old, attempt=1) == {"order": "over"}
    ended = remote.ok("exit", {"exit_code": 0})
    assert ended["record"]["log_start"] == len("first\n")


def test_the_first_exit_record_stays(remote: Remote) -> None:
    remote.claim()
    first = remote.ok("exit", {"format": 1, "exit_code": 3, "detail": "Its end."})
    assert remote.ok("exit", {"exit_code": 0}) == first
    assert first["record"]["exit_code"] == 3
    assert remote.ok("pulse") == {"order": "over"}
    problem(remote.send("log", b"x", params={"offset": 0}), "stale_attempt")


VERBS = [
    ("pulse", {}, "POST"), ("log?offset=0", b"x", "POST"), ("exit", {"exit_code": 0}, "POST"),
    ("checkpoints/a/files/x", b"x", "PUT"), ("checkpoints/a/commit", b"{}", "POST"),
    ("resume/manifest.json", None, "GET"),
]  # fmt: skip


@pytest.mark.parametrize(("verb", "body", "method"), VERBS)
def test_nothing_is_done_without_the_token_of_the_attempt(
    remote: Remote, verb: str, body: Any, method: str
) -> None:
    remote.claim()
    wait_until(lambda: remote.api.app.state.pulses.is_idle, "earlier pulses are on record")
    before = remote.api.digest()
    for token in ("", "rt_nonsense", remote.code, remote.token[:-1], "at_1_" + "A" * 43,
                  attempt_token(remote.api.app.state.secret, remote.run, 2)):  # fmt: skip
        problem(remote.send(verb, body, token, method), "unauthorized")
    elsewhere = f"/v1/runs/{new_id('run')}/attempts/1/{verb}"
    headers = {"Authorization": f"Bearer {remote.token}"}
    answer = remote.api.send(method, elsewhere, headers=headers)
    problem(answer, "unauthorized")
    assert remote.api.digest() == before


def test_a_checkpoint_is_there_when_it_is_committed_and_not_before(remote: Remote) -> None:
    remote.claim()
    manifest = remote.save("step-000005", {"model.bin": b"abc" * 1000, "optim/state.bin": b""})
    directory = remote.api.settings.data_dir / "ckpts" / remote.experiment / remote.run
    assert not (directory / "step-000005").exists()
    path = f"/ckpts/{remote.experiment}/{remote.run}/step-000005"
    committed = {"ckpt_path": path, "name": "step-000005"}
    assert remote.ok("checkpoints/step-000005/commit", manifest) == committed
    assert remote.ok("checkpoints/step-000005/commit", manifest) == committed, "a lost answer"
    assert (directory / "step-000005/optim/state.bin").read_bytes() == b""
    assert (directory / "step-000005/manifest.json").read_bytes() == manifest
    (known,) = remote.api.send("GET", f"/v1/experiments/{remote.experiment}/detail").json()[
        "checkpoints"
    ]
    assert (known["state"], known["step"], known["size_bytes"]) == ("pending", 5, 3000)
    assert known["ckpt_path"] == path, "it becomes ready when it has been read"


def test_a_file_may_be_larger_than_any_other_body(remote: Remote) -> None:
    remote.claim()
    large = b"x" * (remote.api.settings.max_body_bytes + 1)
    manifest = remote.save("large", {"model.bin": large})
    assert remote.ok("checkpoints/large/commit", manifest)["name"] == "large"
    problem(remote.send("exit", large), "body_too_large")


def test_another_checkpoint_of_the_same_name_gets_the_next_one(remote: Remote) -> None:
    remote.claim()
    first = remote.save("best", {"model.bin": b"one"})
    remote.ok("checkpoints/best/commit", first)
    second = remote.save("best", {"model.bin": b"two"}, step=6)
    assert remote.ok("checkpoints/best/commit", second)["name"] == "best.2"
    assert remote.ok("checkpoints/best/commit", second)["name"] == "best.2", "a lost answer"
    assert remote.ok("checkpoints/best/commit", first)["name"] == "best"


def test_a_commit_names_the_files_that_are_missing(remote: Remote) -> None:
    remote.claim()
    manifest = remote.save("step-1", {"a": b"a", "b": b"bb"})
    remote.save("step-2", {"a": b"a"})
    refused = remote.send("checkpoints/step-2/commit", manifest)
    assert problem(refused, "conflict")["files"] == ["b"]
    problem(remote.send("checkpoints/step-3/commit", manifest), "conflict")
    problem(remote.send("checkpoints/step-1/commit", b'{"format": 1}'), "invalid_input")
    assert remote.ok("checkpoints/step-1/commit", manifest)


@pytest.mark.parametrize(
    "path",
    ["..%2f..%2fescape", "a%2f..%2f..%2fescape", "%2fetc%2fpasswd", "manifest.json", "a%2f%2fb",
     "a%00b", "x%2f" * 70 + "deep"],
)  # fmt: skip
def test_a_file_cannot_leave_its_checkpoint(remote: Remote, path: str) -> None:
    remote.claim()
    answer = remote.send(f"checkpoints/step-1/files/{path}", b"evil", method="PUT")
    assert answer.status_code in (404, 422), answer.text
    data_dir = remote.api.settings.data_dir
    assert not [each for each in data_dir.rglob("*") if each.is_file() and b"evil" in (
        each.read_bytes())]  # fmt: skip


def test_what_waits_to_be_committed_is_bounded(
    remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.claim()
    monkeypatch.setattr(remote.api.app.state.uploads, "_most", 100)
    manifest = remote.save("step-1", {"a": b"x" * 90})
    refused = remote.send("checkpoints/step-2/files/a", b"x" * 11, method="PUT")
    problem(refused, "run_limit")
    remote.ok("checkpoints/step-1/commit", manifest)
    remote.save("step-2", {"a": b"x" * 11})


def test_the_agent_downloads_the_checkpoint_that_its_attempt_starts_from(remote: Remote) -> None:
    remote.claim()
    manifest = remote.save("step-000005", {"model.bin": b"abc" * 700_000})
    path = remote.ok("checkpoints/step-000005/commit", manifest)["ckpt_path"]
    problem(remote.send("resume/manifest.json", method="GET"), "not_found")
    remote.write(launches.requeue, remote.run, 1, "Tried again.")
    remote.launch(resume_path=path)
    remote.claim()
    assert remote.send("resume/manifest.json", method="GET").content == manifest
    assert remote.send("resume/model.bin", method="GET").content == b"abc" * 700_000
    problem(remote.send("resume/nothing", method="GET"), "not_found")
    problem(remote.send("resume/..%2f..%2fx", method="GET"), "invalid_input")


def test_an_agent_that_its_cluster_stops_tells_the_agents_of_its_other_nodes(
    remote: Remote,
) -> None:
    """A node's agent only asks: a pulse of it says nothing of the agent that claimed."""
    remote.claim()
    before = remote.write(attempts.get, remote.run, 1)
    assert remote.ok("pulse", {"node": 2, "ran_seconds": 9}) == {"order": "go"}
    assert remote.write(attempts.get, remote.run, 1) == before
    assert remote.ok("pulse", {"ran_seconds": 9, "stopping": True}) == {"order": "stop"}
    assert remote.ok("pulse", {"node": 2}) == {"order": "stop"}
