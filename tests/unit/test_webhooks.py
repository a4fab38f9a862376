"""Messages can be verified by any receiver, and private addresses cannot be reached."""

import json
import re
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
import standardwebhooks
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.domain import webhooks
from app.domain.webhooks import WebhookRequest, is_reachable


@given(st.binary(max_size=200), st.text("abc_0", min_size=1, max_size=30))
def test_the_reference_library_verifies_every_message_and_no_changed_one(
    body: bytes, message_id: str
) -> None:
    secret = webhooks.signing_secret("s" * 32, "whk_1")
    payload = json.dumps({"type": "x", "data": body.hex()}).encode()
    at = int(datetime.now(UTC).timestamp())
    headers = {
        "webhook-id": message_id,
        "webhook-timestamp": str(at),
        "webhook-signature": webhooks.sign(secret, message_id, at, payload),
    }
    receiver = standardwebhooks.Webhook(secret)
    assert receiver.verify(payload, headers) == json.loads(payload)
    for wrong in (
        {**headers, "webhook-id": f"{message_id}x"},
        {**headers, "webhook-timestamp": str(at + 1)},
    ):
        with pytest.raises(standardwebhooks.WebhookVerificationError):
            receiver.verify(payload, wrong)
    with pytest.raises(standardwebhooks.WebhookVerificationError):
        receiver.verify(payload + b" ", headers)


def test_each_webhook_and_each_service_has_a_secret_of_its_own() -> None:
    secrets = {webhooks.signing_secret(s * 32, w) for s in "ab" for w in ("whk_1", "whk_2")}
    assert len(secrets) == 4
    assert all(re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret) for secret in secrets)


PRIVATE = [
    "127.0.0.1",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "255.255.255.255",
    "224.0.0.1",
    "240.0.0.1",
    "192.0.0.1",
    "198.18.0.1",
    "::1",
    "::",
    "fe80::1",
    "fc00::1",
    "ff02::1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "64:ff9b:1::1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "2001:db8::1",
]


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_reached_only_where_the_operator_allows_it(address: str) -> None:
    parsed = ip_address(address)
    assert not is_reachable(parsed, [])
    assert not is_reachable(parsed, [ip_network("203.0.113.0/24"), ip_network("2001:db9::/32")])
    inner = parsed.ipv4_mapped if isinstance(parsed, IPv6Address) else None
    assert is_reachable(parsed, [ip_network(inner or parsed)])


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_a_public_address_is_reached(address: str) -> None:
    assert is_reachable(ip_address(address), [])


@given(st.ip_addresses(v=4))
def test_an_address_is_treated_the_same_when_it_is_mapped_into_ipv6(address: IPv4Address) -> None:
    mapped = IPv6Address(f"::ffff:{address}")
    assert is_reachable(mapped, []) == is_reachable(address, [])


BAD_URLS = [
    "", "x", "ftp://a.example/", "file:///etc/passwd", "https://", "https:///x", "http://[::1",
    "//x", "https://user:password@a.example/", "https://user@a.example/", "https://a.example/ x",
    "https://a.example/\r\nHost: b", "https://a.example:99999/", "https://a.example:0/",
    "https://a.example:x/", "javascript:alert(1)", "https://a.example/" + "x" * 2_000, "https://ä.example/",
    "http://" + "a" * 64 + ".example/",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
def test_a_url_that_cannot_be_called_is_refused(url: str) -> None:
    with pytest.raises(ValidationError):
        WebhookRequest(url=url)


def test_attempts_end_after_days_and_never_come_faster() -> None:
    pauses = [webhooks.pause_after(attempts) for attempts in range(1, 20)]
    known = [pause for pause in pauses if pause is not None]
    assert known == sorted(known) and sum(known) > 36 * 3600
    assert pauses[len(known) :] == [None] * (len(pauses) - len(known))


def test_slacks_shape_makes_no_link_and_no_mention_of_a_runs_words() -> None:
    data = {
        "run_id": "run_1",
        "experiment": "<!channel>\r\n> x",
        "detail": "<http://evil|a> & *b*\r\nc",
    }
    text = webhooks.slack(webhooks.message("run.failed", "now", data))["text"]
    assert "run_1" in text and "failed" in text
    assert "<" not in text and "\n> " in text and text.count("\n") == 1 and "\r" not in text
