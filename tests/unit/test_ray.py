"""What the dashboard of Ray answers, and what a job is made of."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.domain.evidence import Cause
from app.domain.recipes import LauncherTable, RecipeError
from app.domain.resources import Resources
from app.launchers import make_launcher
from app.launchers.base import (
    HttpMailboxAddress,
    Job,
    JobState,
    Key,
    LauncherContext,
    LauncherError,
    Submission,
    Unreachable,
)
from app.launchers.ray import client, job
from app.launchers.ray.launcher import RayLauncher
from tests.support.server import free_port

RUN = "run_0cc4q1x3h7p2n4s6v8y0c1e3gj"
KEY = Key(RUN, 2)
NODE = {
    "node_id": "6f5c", "node_ip": "192.0.2.2", "is_head_node": True, "state": "ALIVE",
    "resources_total": {
        "node:192.0.2.2": 1.0, "memory": 4e9, "accelerator_type:A100": 1.0, "GPU": 2.0, "CPU": 8.0,
    },
}  # fmt: skip
ENTRY: dict[str, Any] = {
    "type": "SUBMISSION", "submission_id": KEY.name, "status": "RUNNING", "message": "Running.",
    "error_type": None, "end_time": None, "metadata": {}, "driver_exit_code": None,
    "driver_agent_http_address": "http://192.0.2.2:52365",
}  # fmt: skip


def make_job(url: str = "https://train.example.com/a'b", **resources: Any) -> Job:
    return Job(KEY, Resources(**resources), None, HttpMailboxAddress(url, "ac_2_code"), None)


class Head:
    """A head that answers what a test says: status and body, by path; it notes what it is sent."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.seen: list[tuple[str, str, bytes]] = []
        head = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                head.seen.append((self.command, self.path, self.rfile.read(length)))
                path = f"{self.command} {self.path.partition('?')[0]}"
                status, content = head.answers.get(path, (200, b"{}"))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_PUT = do_DELETE = do_GET

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def answer(self, path: str, body: Any, status: int = 200) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[path] = status, content


@pytest.fixture
def head() -> Iterator[Head]:
    head = Head()
    thread = threading.Thread(target=head.server.serve_forever, args=(0.02,))
    thread.start()
    head.answer("GET /api/v0/nodes", {"data": {"result": {"result": [NODE]}}})
    yield head
    head.server.shutdown()
    head.server.server_close()
    thread.join()


def make(head: Head, **options: Any) -> RayLauncher:
    options = {"address": head.url, "call_seconds": 2, **options}
    made = make_launcher(LauncherTable("ray", "ray", options), LauncherContext(Path("nowhere"), {}))
    assert isinstance(made, RayLauncher)
    return made


def test_a_job_says_what_the_run_needs_and_nothing_of_a_token(head: Head) -> None:
    launcher = make(head, gpu_types={"NVIDIA A100": "A100"}, python="/opt/py thon")
    launcher.offer()
    asked = make_job(count=2, gpu_type="nvidia a100", cpus=1.5, memory_gb=2)
    assert launcher.submit(asked) == Submission(KEY.name)
    sent = {f"{method} {path}": content for method, path, content in head.seen}
    body = json.loads(sent["POST /api/jobs/"])
    assert (body["submission_id"], body["entrypoint_num_gpus"]) == (KEY.name, 2)
    assert (body["entrypoint_num_cpus"], body["entrypoint_memory"]) == (1.5, 2_000_000_000)
    assert body["entrypoint_resources"] == {"accelerator_type:A100": 0.001}
    assert "'/opt/py thon' -I -S" in body["entrypoint"]
    assert "'https://train.example.com/a'\"'\"'b'" in body["entrypoint"]
    assert body["runtime_env"]["working_dir"] == f"gcs://{job.package()[0]}"
    assert body["runtime_env"]["env_vars"][job.CLAIM_CODE] == "ac_2_code"


def test_the_agent_is_uploaded_where_ray_has_it_not(head: Head) -> None:
    name, content = job.package()
    path = f"/api/packages/gcs/{name}"
    head.answer(f"GET {path}", b"Package does not exist", 404)
    make(head).submit(make_job())
    assert ("PUT", path, content) in head.seen


@pytest.mark.parametrize(
    ("status", "text", "expected"),
    [
        (500, b"Traceback\nValueError: Job x already exists. Try another.", Submission(KEY.name)),
        (500, b"No available agent to submit job, please try again later.", Submission(None, True)),
        (302, b"", Submission(None, True)),
        (401, b"Unauthorized", Submission(None, True)),
    ],
)
def test_a_submission_of_which_nobody_knows_is_a_doubt(
    head: Head, status: int, text: bytes, expected: Submission
) -> None:
    head.answer("POST /api/jobs/", text, status)
    if status == 302:  # a login page, say: it is not followed
        with pytest.raises(LauncherError):
            make(head).submit(make_job())
        assert "/elsewhere" not in [path for _, path, _ in head.seen]
        return
    assert make(head).submit(make_job()) == expected


def test_a_refusal_is_an_error_in_rays_words(head: Head) -> None:
    head.answer("POST /api/jobs/", b"Traceback\nTypeError: entrypoint_num_cpus must be", 400)
    with pytest.raises(LauncherError, match="TypeError: entrypoint_num_cpus must be"):
        make(head).submit(make_job())


@pytest.mark.parametrize(
    ("entry", "state", "cause", "words"),
    [
        ({"status": "PENDING", "message": "No room.\n"}, JobState.QUEUED, None, "No room"),
        ({}, JobState.RUNNING, None, "Running"),
        ({"status": "STOPPED"}, JobState.ENDED, Cause.STOPPED_ELSEWHERE, "somebody else"),
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, JobState.ENDED, None, "exit code 0"),
        (
            {"status": "FAILED", "error_type": "JOB_SUPERVISOR_ACTOR_DIED"}, JobState.ENDED,
            Cause.NODE_FAILED, "failed: 192.0.2.2",
        ),
        (
            {"status": "FAILED", "driver_exit_code": 127, "message": "logs:\nsh: py9: not found",
             "error_type": "JOB_ENTRYPOINT_COMMAND_ERROR"}, JobState.ENDED, None, "py9: not found",
        ),
        ({"status": "DREAMING"}, JobState.UNKNOWN, None, ""),
        ({"message": 7, "metadata": [], "end_time": "never"}, JobState.RUNNING, None, ""),
    ],
)  # fmt: skip
def test_what_ray_says_of_a_job_is_understood(
    head: Head, entry: dict[str, Any], state: JobState, cause: Cause | None, words: str
) -> None:
    driver = {"type": "DRIVER", "submission_id": None, "status": "RUNNING"}
    head.answer("GET /api/jobs/", [driver, {**ENTRY, **entry}])
    other = Key(RUN, 3)
    seen = make(head).look([KEY, other])
    assert (seen[KEY].state, seen[KEY].cause) == (state, cause)
    assert words in seen[KEY].reason_text
    assert seen[other].state is JobState.ABSENT


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, b""), (200, b"<html>"), (200, b"{}"), (200, b"[" * 100_000),
        (200, b'{"data": {"result": {"result": [7]}}}'), (401, b"[]"), (403, b"[]"), (404, b"[]"),
        (500, b"[]"),
    ],
)  # fmt: skip
def test_what_is_no_answer_of_ray_is_no_news(head: Head, status: int, content: bytes) -> None:
    head.answer("GET /api/jobs/", content, status)
    head.answer("GET /api/v0/nodes", content, status)
    launcher = make(head)
    for ask in (lambda: launcher.look([KEY]), launcher.strays, launcher.offer):
        with pytest.raises(Unreachable):
            ask()


def test_a_head_that_is_away_is_no_news() -> None:
    context, options = (
        LauncherContext(Path("x"), {}),
        {"address": f"http://127.0.0.1:{free_port()}"},
    )
    launcher = make_launcher(LauncherTable("ray", "ray", options), context)
    with pytest.raises(Unreachable, match="does not answer"):
        launcher.look([KEY])
    assert launcher.submit(make_job()) == Submission(None, doubt=True)


def test_ray_forgets_what_ended_long_ago_of_this_service_alone(head: Head) -> None:
    launcher = make(head)
    launcher.submit(make_job("http://ours:8000"))
    ended = {**ENTRY, "status": "SUCCEEDED", "end_time": 1000}
    head.answer("GET /api/jobs/", [
        {**ended, "submission_id": f"{RUN}.1", "metadata": {job.SERVICE: "http://ours:8000"}},
        {**ended, "submission_id": f"{RUN}.3", "metadata": {job.SERVICE: "http://theirs:8000"}},
        {**ENTRY, "submission_id": f"{RUN}.4"}, {**ENTRY, "submission_id": "somebody's own"},
    ])  # fmt: skip
    assert launcher.strays() == [Key(RUN, 4)]
    deleted = [path for method, path, _ in head.seen if method == "DELETE"]
    assert deleted == [f"/api/jobs/{RUN}.1"]


def test_what_no_node_has_is_said(head: Head) -> None:
    launcher = make(head)
    launcher.offer()
    for resources, words in (
        ({"nodes": 2}, "Needs 2 nodes; a job of Ray has one."),
        ({"count": 3}, "Needs 3 GPUs on one node; Ray has 2."),
        ({"gpu_type": "T4"}, "Needs GPUs of type T4; Ray has: A100."),
        ({"memory_gb": 5.0}, "Needs 5 GB of memory on one node; Ray has 4."),
    ):
        shortage = launcher.check(Resources(**resources))
        assert shortage is not None and shortage.detail == words
    assert launcher.check(Resources(cpus=8.0, count=2)) is None
    grows = make(head, autoscales=True)
    assert grows.offer() is None and grows.check(Resources(cpus=800.0)) is None


def test_the_token_is_read_for_each_request(head: Head, tmp_path: Path) -> None:
    file = tmp_path / "token"
    asks = client.RayClient(head.url, file, 2.0)
    with pytest.raises(Unreachable, match="token of Ray cannot be read"):
        asks.nodes()
    file.write_text("abc\n")
    assert asks.nodes()[0].gpu_type == "A100"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "address: must be the URL"), ({"address": "ray://head:10001"}, "address: must be"),
        ({"address": 7}, "address: must be str"), ({"max_pending": 0}, "max_pending"),
        ({"gpu_types": {"a": 1}}, "gpu_types"), ({"autoscales": 1}, "autoscales"),
        ({"token": "abc"}, "unknown option 'token'; known are address, token_file, "),
    ],
)  # fmt: skip
def test_a_wrong_option_is_named(options: dict[str, Any], words: str) -> None:
    valid = {"address": "http://head:8265"} if "address" not in options and options else {}
    with pytest.raises(RecipeError, match=words):
        make_launcher(
            LauncherTable("mine", "ray", {**valid, **options}), LauncherContext(Path("x"), {})
        )
