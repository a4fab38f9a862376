"""E-mail: addresses, servers, and texts in which a run's words are no headers."""

import pytest
from pydantic import ValidationError

from app.domain import mail, webhooks
from app.domain.mail import SmtpServer
from app.domain.webhooks import WebhookRequest
from app.settings import Settings

BAD = [
    "mailto:", "mailto:x", "mailto:a@b c", "mailto:a@b\r\nBcc: c@d", "mailto:a@b%0d%0aBcc:c@d",
    "mailto:a@example.com?bcc=b@example.com", "mailto:" + ",".join(["a@b"] * 11), "mailto:<a@b>",
    "mailto:a@b,", "mailto:ä@example.com", "mailto:a@" + "x" * 2_000,
    "mailto:=?utf-8?q?=0d=0aBcc=3ax?=@example.com",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD)
def test_what_is_no_list_of_addresses_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        WebhookRequest(url=url)


def test_addresses_are_taken_as_they_are() -> None:
    url = "mailto:a.b+c@example.com,d@localhost"
    assert WebhookRequest(url=url).url == url
    assert mail.parse_recipients(url) == ["a.b+c@example.com", "d@localhost"]


@pytest.mark.parametrize(
    "url", ["", "mail.example.com", "http://a", "smtp://", "smtp://a:x", "smtp://a/b"]
)
def test_a_server_that_is_none_is_refused_and_no_password_is_shown(url: str) -> None:
    with pytest.raises(ValueError, match="must be a URL like"):
        SmtpServer.parse(url)
    with pytest.raises(ValidationError) as refused:
        Settings(smtp_url="smtp://me:hidden@")
    assert "hidden" not in refused.value.errors()[0]["msg"]


def test_a_server_is_parsed() -> None:
    assert SmtpServer.parse("smtps://m%40e:p%3A@mail.example.com") == (
        "mail.example.com", 465, True, "m@e", "p:",
    )  # fmt: skip
    assert SmtpServer.parse("smtp://[::1]") == ("::1", 587, False, None, None)
    assert SmtpServer.parse("smtp://localhost:25").is_local
    assert not SmtpServer.parse("smtp://mail.example.com").is_local


def test_a_runs_words_make_no_header_and_no_line_of_their_own() -> None:
    data = {"experiment": "x\r\nBcc: all@example.com", "detail": "a\nb\x1b[31m", "run_id": "run_1"}
    subject, text = mail.compose(webhooks.message("run.failed", "now", data))
    assert subject == "Run failed: x  Bcc: all@example.com"
    assert text.splitlines()[0] == "a b [31m"
    assert "run_id: run_1" in text.splitlines()
