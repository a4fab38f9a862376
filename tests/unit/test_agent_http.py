"""The agent's mailbox over HTTP against a service that answers late, not at all, or not itself."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from app.agent import bundle, http, transfer
from app.agent.client import TIMEOUT_SECONDS, Client, Refused, Unreachable
from app.agent.http import HttpMailbox, Output
from app.agent.main import PULSE_SECONDS
from app.agent.transfer import DownloadError, download
from app.services.pulses import GATHER_SECONDS
from app.supervisor import TICK_SECONDS
from app.supervisor.job_status import AGENT_SILENT_SECONDS

RUN = "run_" + "0" * 26
CLAIMED = {
    "token": "at_1_token", "log_offset": 0, "spec": {"experiment_id": "exp", "resume": None},
    "config": {"argv": ["{python}", "-c", "print('hi')"], "env": {"A": "b"}, "cwd": None,
               "nonce": "n", "stop_signal": 15, "grace_seconds": 1, "max_log_bytes": 1 << 20,
               "failpoints": {}},
}  # fmt: skip

Answer = tuple[int, Any]


class Peer:
    """Answers what `script` says, in order, then the same again; records what it was asked.

    An answer is a status and a JSON value or bytes; status 0 cuts the connection.
    """

    def __init__(self) -> None:
        self.script: list[Answer] = []
        self.asked: list[tuple[str, str, bytes, str]] = []
        self.headers: dict[str, str] = {}
        peer = self

        class Handler(BaseHTTPRequestHandler):
            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                token = self.headers.get("Authorization", "")
                peer.asked.append((self.command, self.path, body, token))
                last = len(peer.script) == 1
                status, value = peer.script[0] if last else peer.script.pop(0)
                if status == 0:
                    self.connection.close()
                    return
                content = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                for name, text in peer.headers.items():
                    self.send_header(name, text)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = answer

            def log_message(self, *_: Any) -> None:
                return

            def handle(self) -> None:
                try:
                    super().handle()
                except (OSError, ValueError):
                    return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def peer() -> Iterator[Peer]:
    peer = Peer()
    yield peer
    peer.close()


Open = Callable[[], HttpMailbox]


@pytest.fixture
def mailbox(peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HttpMailbox:
    for name in ("UPLOAD_SECONDS", "PULSE_SECONDS"):
        monkeypatch.setattr(http, name, 3600.0)
    return HttpMailbox(peer.url, RUN, 1, "ac_1_code", str(tmp_path / "own"))


def problem(status: int, code: str, **more: Any) -> Answer:
    return status, {"code": code, "detail": "No.", **more}


def test_a_lost_answer_to_the_claim_is_asked_for_again_by_the_same_agent(
    peer: Peer, mailbox: HttpMailbox
) -> None:
    peer.script = [(0, b""), (200, b"<html>a proxy's page"), (503, {}), (200, CLAIMED)]
    config = mailbox.claim()
    assert config is not None and config["argv"][0] == sys.executable
    assert config["env"]["A"] == "b" and config["env"]["LLM_TRAIN_RUN_DIR"] == mailbox.run_dir
    agents = {json.loads(body)["agent"] for _, _, body, _ in peer.asked}
    assert len(peer.asked) == 4 and len(agents) == 1
    assert {token for *_, token in peer.asked} == {"Bearer ac_1_code"}


@pytest.mark.parametrize("refusal", [problem(409, "attempt_claimed"), problem(401, "unauthorized")])
def test_an_agent_whose_claim_is_refused_starts_nothing(
    peer: Peer, mailbox: HttpMailbox, refusal: Answer
) -> None:
    peer.script = [refusal]
    assert mailbox.claim() is None


def test_only_the_word_of_the_service_ends_a_trainer(peer: Peer, mailbox: HttpMailbox) -> None:
    peer.script = [(404, b"a proxy's page"), problem(401, "unauthorized"), problem(500, "bug")]
    for _ in range(3):
        with pytest.raises(Unreachable):
            mailbox.pulse(1.0)
    peer.script = [problem(404, "not_found")]
    assert mailbox.pulse(1.0) == "over"


def test_a_pulse_that_is_lost_and_a_late_one_after_it_are_no_silence(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lost without a word: the agent must give it up early enough for the next to be heard."""
    cycle = http.WAIT_SECONDS + PULSE_SECONDS
    lost = http.WAIT_SECONDS + http.LATE_SECONDS + PULSE_SECONDS
    assert cycle + lost + GATHER_SECONDS + 2 * TICK_SECONDS < AGENT_SILENT_SECONDS
    monkeypatch.setattr(http, "UPLOAD_SECONDS", 3600.0)
    monkeypatch.setattr(http, "WAIT_SECONDS", 0.1)
    monkeypatch.setattr(http, "LATE_SECONDS", 0.1)
    peer.script = [(200, CLAIMED)]
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        mailbox = HttpMailbox(peer.url, RUN, 1, "ac_1_code", str(tmp_path / "own"))
        assert mailbox.claim() is not None
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        mailbox._client = Client(url, "")
        began = time.monotonic()
        with pytest.raises(Unreachable):
            mailbox.pulse(1.0)
        assert time.monotonic() - began < TIMEOUT_SECONDS / 2


def test_a_stop_reaches_trainers_that_look_for_a_file(peer: Peer, mailbox: HttpMailbox) -> None:
    peer.script = [(200, {"order": "stop"})]
    assert mailbox.pulse(1.0) == "stop"
    assert (Path(mailbox.run_dir) / "attempt-1/stop.json").exists()


def test_a_token_follows_no_redirect(peer: Peer) -> None:
    peer.script, peer.headers = [(302, {})], {"Location": f"{peer.url}/elsewhere"}
    with pytest.raises(Unreachable):
        Client(peer.url, "").post("/x", {})
    assert [path for _, path, *_ in peer.asked] == ["/x"]


def test_a_proxy_is_used_but_for_this_machine(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", peer.url)
    peer.script = [(200, {"a": 1})]
    assert Client("http://service.test:8000/prefix", "/v1").post("/x", {}) == {"a": 1}
    assert Client(peer.url, "/v1").post("/y", {}) == {"a": 1}
    paths = [path for _, path, *_ in peer.asked]
    assert paths == ["http://service.test:8000/prefix/v1/x", "/v1/y"]


def sent(peer: Peer) -> list[tuple[str, bytes]]:
    return [(path.partition("offset=")[2], body) for _, path, body, _ in peer.asked]


def test_output_goes_on_where_the_service_says(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "output").write_bytes(b"0123456789")
    output = Output(Client(peer.url, ""), "", str(tmp_path / "output"))
    peer.script = [problem(409, "log_offset", offset=4), (200, {"offset": 10})]
    output.send()
    assert sent(peer) == [("0", b"0123456789"), ("4", b"456789")]


def test_output_that_the_service_has_lost_is_sent_again(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "output").write_bytes(b"0123456789")
    output = Output(Client(peer.url, ""), "", str(tmp_path / "output"))
    peer.script = [(200, {"offset": 10})]
    output.send()
    with (tmp_path / "output").open("ab") as file:
        file.write(b"ab")
    peer.script = [problem(409, "log_offset", offset=6), (200, {"offset": 12})]
    output.send()
    assert sent(peer)[1:] == [("10", b"ab"), ("6", b"6789ab")]


def test_of_output_that_waits_too_long_the_middle_is_dropped_and_named(
    peer: Peer, tmp_path: Path
) -> None:
    (tmp_path / "output").write_bytes(b"x" * 950 + b"y" * 50)
    output = Output(Client(peer.url, ""), "", str(tmp_path / "output"))
    output.limit = 100
    said = b"\n[950 bytes of output were dropped here: the service was away]\n"
    length = len(said)
    peer.script = [problem(409, "log_offset", offset=length), (200, {"offset": length + 50})]
    output.send()
    assert sent(peer) == [("0", said), (str(length), b"y" * 50)]


def manifest(path: str, content: bytes, links: list[Any] | None = None) -> bytes:
    digest = hashlib.sha256(content).hexdigest()
    listed = [{"path": path, "size": len(content), "sha256": digest}]
    return json.dumps({"format": 1, "files": listed, "links": links or []}).encode()


def test_a_download_that_is_cut_off_is_fetched_again(peer: Peer, tmp_path: Path) -> None:
    peer.script = [(200, manifest("a/b", b"good")), (200, b"goo"), (0, b""), (200, b"good")]
    download(Client(peer.url, ""), "/resume", str(tmp_path / "d"))
    assert (tmp_path / "d/a/b").read_bytes() == b"good"


@pytest.mark.parametrize(
    "content",
    [
        manifest("../escape", b"x"), manifest("/etc/x", b"x"), manifest("a//b", b"x"), b"[]", b"{",
        manifest("a", b"x", [{"path": "l", "target": "../../x"}]),
        manifest("a", b"x", [{"path": "../l", "target": "a"}]),
    ],
)  # fmt: skip
def test_a_hostile_manifest_writes_nothing_elsewhere(
    peer: Peer, tmp_path: Path, content: bytes
) -> None:
    peer.script = [(200, content), (200, b"x")]
    with pytest.raises(DownloadError):
        download(Client(peer.url, ""), "/resume", str(tmp_path / "d/e"))
    assert [each for each in tmp_path.rglob("*") if not each.is_relative_to(tmp_path / "d")] == []
    assert not (tmp_path / "d/escape").exists() and not (tmp_path / "d/l").exists()


def test_a_file_that_was_sent_is_not_sent_again(peer: Peer, tmp_path: Path) -> None:
    saved = tmp_path / "step-1"
    saved.mkdir()
    (saved / "a").write_bytes(b"x")
    (saved / "manifest.json").write_bytes(manifest("a", b"x"))
    uploads = transfer.Uploads(Client(peer.url, ""), "", str(tmp_path))
    peer.script = [(200, {}), (503, {})]
    with pytest.raises(Unreachable):
        uploads.run()
    peer.script = [(200, {"name": "step-1"})]
    uploads.run()
    uploads.run()
    assert [(method, path) for method, path, *_ in peer.asked] == [
        ("PUT", "/checkpoints/step-1/files/a"),
        ("POST", "/checkpoints/step-1/commit"),
        ("POST", "/checkpoints/step-1/commit"),
    ]


def test_what_the_trainer_uploads_itself_is_sent_only_if_it_has_not_arrived(
    peer: Peer, tmp_path: Path
) -> None:
    for name in ("step-1", "step-2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a").write_bytes(b"x")
        (tmp_path / name / "manifest.json").write_bytes(manifest("a", b"x"))
        os.utime(tmp_path / name / "manifest.json", ns=(int(name[-1]), int(name[-1])))
    uploads = transfer.Uploads(Client(peer.url, ""), "", str(tmp_path))
    uploads.is_shared_work = True
    missing = (409, {"code": "conflict", "detail": "1 file is missing", "files": ["a"]})
    peer.script = [(200, {"name": "step-1"}), missing, (200, {}), (200, {"name": "step-2"})]
    uploads.run()
    assert [(method, path) for method, path, *_ in peer.asked] == [
        ("POST", "/checkpoints/step-1/commit"),
        ("POST", "/checkpoints/step-2/commit"),
        ("PUT", "/checkpoints/step-2/files/a"),
        ("POST", "/checkpoints/step-2/commit"),
    ]


def test_an_upload_of_an_attempt_that_is_over_ends(peer: Peer, tmp_path: Path) -> None:
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1/manifest.json").write_bytes(manifest("a", b"x"))
    (tmp_path / "step-1/a").write_bytes(b"x")
    peer.script = [problem(409, "stale_attempt")]
    with pytest.raises(Refused):
        transfer.Uploads(Client(peer.url, ""), "", str(tmp_path)).run()


def test_the_agent_is_one_file_that_runs_where_nothing_is_installed(
    peer: Peer, tmp_path: Path
) -> None:
    (tmp_path / "agent.zip").write_bytes(bundle.make())
    peer.script = [
        (200, CLAIMED), (200, {"order": "go"}), (200, {"offset": 3}), (200, {"record": {}}),
    ]  # fmt: skip
    command = [sys.executable, "-I", "-S", "agent.zip", "http", peer.url, RUN, "1", "own"]
    done = subprocess.run(
        command, cwd=tmp_path, input=b"ac_1_code\n", capture_output=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, b"")
    verbs = [path.rpartition("/")[2].partition("?")[0] for _, path, *_ in peer.asked]
    assert verbs == ["claim", "pulse", "log", "exit"]
    assert json.loads(peer.asked[-1][2])["exit_code"] == 0 and peer.asked[2][2] == b"hi\n"
