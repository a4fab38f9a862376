"""Alerts by e-mail to a real SMTP server: again after a refusal, and never in the way."""

import time
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from app.domain import webhooks
from app.domain.mail import SmtpServer, compose
from app.notifications.mail import Mail, send
from tests.support.clock import is_soon
from tests.support.receivers import Post
from tests.support.server import free_port, wait_until
from tests.support.service import Service, home


@pytest.fixture
def post() -> Iterator[Post]:
    found = Post()
    found.controller.start()
    yield found
    found.controller.stop()


def add(service: Service, **more: Any) -> str:
    hook = {"url": "mailto:a@example.com,b@example.com", **more}
    return str(service.post("/webhooks", hook, 201)["webhook_id"])


def newest(service: Service, webhook: str) -> Any:
    return service.get(f"/webhooks/{webhook}/deliveries")["deliveries"][0]


def test_a_failed_run_is_told_by_mail_and_a_refusal_is_tried_again(
    tmp_path: Path, post: Post
) -> None:
    post.box.answer = "451 greylisted"
    settings = {"SMTP_URL": post.url(), "MAIL_FROM": "llm@example.com"}
    with home(tmp_path) as place, place.serve(**settings) as service:
        webhook = add(service, types=["run.failed"])
        run = service.submit("crashes", steps=5)
        service.ended(run)
        refused = wait_until(lambda: newest(service, webhook)["last_error"], "it was refused")
        assert refused == "451 greylisted" and post.box.received == []
        post.box.answer = None
        wait_until(lambda: newest(service, webhook)["state"] == "delivered", "again")
        ((to, message),) = post.box.received
        assert to == ["a@example.com", "b@example.com"]
        assert (message["From"], message["Subject"]) == ("llm@example.com", "Run failed: durable")
        assert newest(service, webhook)["delivery_id"] in message["Message-ID"]
        assert f"run_id: {run}" in message.get_content()
        assert "reason: exit_code" in message.get_content()
        assert set(post.logins) == {(b"me", b"p@ss")}


def test_a_release_is_told_and_a_mail_server_that_hangs_holds_up_nothing(
    tmp_path: Path, post: Post
) -> None:
    post.box.hang = 3
    with home(tmp_path) as place, place.serve(SMTP_URL=post.url()) as service:
        webhook = add(service, types=["checkpoint.released"])
        run = service.submit("finishes", steps=6)
        service.ended(run)
        path = next(iter(service.checkpoints(run).values()))["ckpt_path"]
        mark = {"run_id": run, "ckpt_path": path, "tag_type": "release", "release_tag": "v1"}
        marks = f"/experiments/{service.experiment}/checkpoints/mark"
        service.post(marks, mark, 200)
        service.post(marks, mark | {"metrics": {"loss": 1}}, 200)  # the same release again
        for _ in range(50):
            service.post(f"/webhooks/{webhook}/test", None, 202)
        began = time.monotonic()
        assert service.ended(service.submit("finishes", steps=2))["status"] == "succeeded"
        assert is_soon(time.monotonic() - began, 10)
        wait_until(lambda: post.box.received, "the first one arrives")
        subjects = [message["Subject"] for _, message in post.box.received]
        assert "Checkpoint released: durable" in subjects
        service.http.delete(f"{service.url}/v1/webhooks/{webhook}")


def test_without_a_mail_server_the_message_says_so(tmp_path: Path) -> None:
    with home(tmp_path) as place, place.serve() as service:
        webhook = add(service)
        service.post(f"/webhooks/{webhook}/test", None, 202)
        error = wait_until(lambda: newest(service, webhook)["last_error"], "it was tried")
        assert "LLM_TRAIN_SMTP_URL" in error


def test_a_wrong_password_and_a_server_that_is_away_are_errors(post: Post) -> None:
    mail = Mail("dlv_1", "llm@example.com", ["a@example.com"], "Run failed: ä", "text\n")
    assert send(mail, SmtpServer.parse(post.url())).error is None
    ((_, message),) = post.box.received
    assert isinstance(message, Message) and message["Subject"] == "Run failed: ä"
    refused = send(mail, SmtpServer.parse(post.url("wrong")))
    assert refused.status == 535 and refused.error is not None
    away = send(mail, SmtpServer.parse(f"smtp://127.0.0.1:{free_port()}"))
    assert (away.status, away.error) == (None, "Connection refused")


def test_a_mail_that_reached_nobody_is_no_delivery(tmp_path: Path, post: Post) -> None:
    everybody = {"a@example.com", "b@example.com"}
    post.box.unknown = set(everybody)
    with home(tmp_path) as place, place.serve(SMTP_URL=post.url()) as service:
        webhook = add(service)
        service.post(f"/webhooks/{webhook}/test", None, 202)
        refused = wait_until(
            lambda: (d := newest(service, webhook))["attempts"] and d, "it was tried"
        )
        assert refused["state"] == "pending" and post.box.received == []
        for address in everybody:
            assert f"{address}: 550 nobody of this name" in refused["last_error"]
        # One of two has it: a second attempt would send it there again.
        post.box.unknown = {"b@example.com"}
        wait_until(lambda: newest(service, webhook)["state"] == "delivered", "it arrives")
        ((to, _),) = post.box.received
        assert to == ["a@example.com"]


@pytest.mark.parametrize(
    ("name", "subject"),
    [
        ("语音识别 🎉" + "长" * 150, "Run failed: 语音识别 🎉" + "长" * 150),
        ("x\r\nBcc: all@example.com", "Run failed: x  Bcc: all@example.com"),
        ("=?utf-8?q?=0d=0aBcc:_all=40example.com?=",
         "Run failed: = ?utf-8?q?=0d=0aBcc:_all=40example.com?="),
        ("<!channel> & \u202egpj\x1b[31m", "Run failed: <!channel> &  gpj [31m"),
    ],
)  # fmt: skip
def test_no_name_makes_a_header_of_its_own(post: Post, name: str, subject: str) -> None:
    data = {"experiment": name, "detail": f"{name}\r\n.\r\nMAIL FROM:<x@example.com>"}
    composed = compose(webhooks.message("run.failed", "now", data))
    mail = Mail("dlv_1", "llm@example.com", ["a@example.com"], *composed)
    assert send(mail, SmtpServer.parse(post.url())).error is None
    ((to, arrived),) = post.box.received
    assert to == ["a@example.com"] and arrived["Subject"] == subject
    assert arrived.keys() == [
        "Subject", "From", "To", "Message-ID", "Auto-Submitted", "Content-Type",
        "Content-Transfer-Encoding", "MIME-Version",
    ]  # fmt: skip
    assert arrived.get_content_type() == "text/plain"
    assert len(arrived.get_content().splitlines()) == 6
