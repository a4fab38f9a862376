"""A trainer's uploads and downloads by signed URLs: nothing is taken that is not what was saved.

Against a bucket of a few lines, with the answers of a service; tests/clusters has real ones.
"""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from llm_train import transfers
from llm_train.checkpoint import begin, commit, load, verify
from llm_train.connection import Response


class FakeBucket:
    """Takes and gives objects; `refuse` is how many requests it answers with 403 first."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.refuse = 0
        self.asked: list[str] = []
        bucket = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                bucket.asked.append(f"PUT {self.path}")
                if bucket.refuse:
                    bucket.refuse -= 1
                    return self._answer(403)
                assert self.headers["Content-MD5"]
                bucket.objects[self.path.partition("?")[0]] = content
                self._answer(200)

            def do_GET(self) -> None:
                bucket.asked.append(f"GET {self.path}")
                content = bucket.objects.get(self.path.partition("?")[0])
                self._answer(404 if content is None else 200, content or b"")

            def _answer(self, status: int, content: bytes = b"") -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBucket]:
    monkeypatch.setattr(transfers, "PAUSE_SECONDS", (0.02, 0.02))
    bucket = FakeBucket()
    yield bucket
    bucket.close()


class Scripted(transfers.Service):
    """Answers from a script; what is missing of `directory` in `bucket` is planned as a service
    would, in pieces of 4 bytes."""

    bucket: FakeBucket
    directory: Path
    failures: list[Response]
    asked: list[str]

    def ask(self, path: str, body: bytes | None = None) -> Response:
        self.asked.append(path)
        if self.failures:
            return self.failures.pop(0)
        if path.endswith("/commit"):
            return Response(200, {"name": self.directory.name})
        manifest = load(self.directory)
        pieces = [
            {"file": file.path, "offset": at, "size": min(4, file.size - at),
             "url": f"{self.bucket.url}/{file.path}/{at}?signature=x"}
            for file in manifest.files for at in range(0, file.size or 1, 4)
        ]  # fmt: skip
        if path == "/resume":
            content = (self.directory / "manifest.json").read_text()
            return Response(
                200, {"sha256": manifest.sha256, "manifest": content, "downloads": pieces}
            )
        missing = [
            piece for piece in pieces
            if f"/{piece['file']}/{piece['offset']}" not in self.bucket.objects
        ]  # fmt: skip
        return Response(200, {"uploads": missing})


@pytest.fixture
def service(bucket: FakeBucket, tmp_path: Path) -> Scripted:
    temporary = begin(tmp_path / "own", "step-1")
    (temporary / "a").mkdir()
    (temporary / "a/weights.bin").write_bytes(b"0123456789")
    (temporary / "empty").touch()
    (temporary / "last").symlink_to("a/weights.bin")
    directory, _ = commit(temporary, "step-1", 1)
    made = Scripted("", "run_1", "", {})
    made.bucket, made.directory, made.failures, made.asked = bucket, directory, [], []
    return made


def upload(service: Scripted) -> tuple[bool, list[dict[str, Any]]]:
    declared: list[dict[str, Any]] = []
    uploader = transfers.Uploader(service, declared.append)
    uploader.add(service.directory, {"name": "step-1"})
    return uploader.wait(60.0), declared


def test_an_upload_arrives_whole_and_only_once(service: Scripted) -> None:
    assert upload(service) == (True, [])
    assert service.bucket.objects == {
        "/a/weights.bin/0": b"0123", "/a/weights.bin/4": b"4567", "/a/weights.bin/8": b"89",
        "/empty/0": b"",
    }  # fmt: skip
    assert service.asked == ["/checkpoints/step-1/uploads"] * 2 + ["/checkpoints/step-1/commit"]
    upload(service)
    assert len(service.bucket.asked) == 4, "what has arrived is not sent again"


def test_expired_urls_are_asked_for_again(service: Scripted) -> None:
    service.bucket.refuse = 3
    assert upload(service)[0]
    assert len(service.bucket.objects) == 4 and len(service.bucket.asked) == 7


def test_a_service_that_is_away_is_waited_for(service: Scripted) -> None:
    service.failures = [Response(0, {}, trouble="away"), Response(503, {"code": "unavailable"})]
    assert upload(service)[0]
    assert len(service.bucket.objects) == 4


def test_what_is_away_too_long_leaves_the_copy_here(service: Scripted) -> None:
    service.failures = [Response(0, {}, trouble="away")] * 1000
    uploader = transfers.Uploader(service, lambda news: None)
    uploader.add(service.directory, {})
    assert not uploader.wait(0.2)
    assert verify(service.directory)
    service.failures.clear()
    assert uploader.wait(60.0), "it goes on when there is an answer"


def test_a_refused_checkpoint_stays_here_and_the_next_one_is_sent(
    service: Scripted, capfd: pytest.CaptureFixture[str]
) -> None:
    service.failures = [Response(409, {"code": "stale_attempt", "detail": "It is over."})]
    assert upload(service)[0]
    assert "It is over" in capfd.readouterr().err
    assert upload(service)[0] and len(service.bucket.objects) == 4


def test_a_storage_without_urls_gets_a_report_instead(service: Scripted) -> None:
    service.failures = [Response(200, {"uploads": None})]
    assert upload(service) == (True, [{"name": "step-1"}])


def test_a_download_is_whole_verified_and_kept(service: Scripted, tmp_path: Path) -> None:
    upload(service)
    found = transfers.fetch(service, tmp_path / "cache", 1.0)
    assert found.name == load(service.directory).sha256
    assert verify(found) == verify(service.directory)
    asked = len(service.bucket.asked)
    assert transfers.fetch(service, tmp_path / "cache", 1.0) == found
    assert len(service.bucket.asked) == asked, "it is downloaded once"


def test_several_processes_download_once(service: Scripted, tmp_path: Path) -> None:
    upload(service)
    sent, found = len(service.bucket.asked), list[Path]()
    threads = [
        threading.Thread(
            target=lambda: found.append(transfers.fetch(service, tmp_path / "cache", 5.0))
        )
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and len(set(found)) == 1
    assert len(service.bucket.asked) == sent + 4


def test_a_flipped_byte_is_not_loaded(service: Scripted, tmp_path: Path) -> None:
    upload(service)
    service.bucket.objects["/a/weights.bin/4"] = b"45X7"
    with pytest.raises(ConnectionError, match="not what was saved"):
        transfers.fetch(service, tmp_path / "cache", 0.1)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


def test_another_manifest_than_the_named_one_is_refused(service: Scripted, tmp_path: Path) -> None:
    upload(service)
    answer = service.ask("/resume")
    answer.body["sha256"] = hashlib.sha256(b"another").hexdigest()
    service.failures = [answer]
    with pytest.raises(FileNotFoundError, match="another manifest"):
        transfers.fetch(service, tmp_path / "cache", 1.0)


def test_a_checkpoint_that_cannot_be_had_is_no_start_from_nothing(
    service: Scripted, tmp_path: Path
) -> None:
    service.failures = [Response(404, {"code": "not_found", "detail": "None."})]
    with pytest.raises(FileNotFoundError, match="cannot be had"):
        transfers.fetch(service, tmp_path / "cache", 1.0)
    service.failures = [Response(0, {}, trouble="away")] * 100
    with pytest.raises(ConnectionError, match="away"):
        transfers.fetch(service, tmp_path / "cache", 0.1)
