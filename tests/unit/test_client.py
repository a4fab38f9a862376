"""A command that finds no service says why: the certificate, the prefix, or nobody there."""

from pathlib import Path

import pytest

from app.cli import client
from app.errors import ServiceError, Unavailable
from tests.support.reports import ReportServer


def test_an_untrusted_certificate_is_told_with_its_remedy(secure: str) -> None:
    with pytest.raises(Unavailable, match=r"certificate is not trusted .*SSL_CERT_FILE"):
        client.call(secure, None, "GET", "/v1/experiments")


def test_a_page_that_is_not_the_services_is_told_as_such(
    secure: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a proxy with another prefix, or of whoever else listens there."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate.with_suffix(".crt")))
    with pytest.raises(Unavailable, match=r"/prefix answers 404, and not as this service does"):
        client.call(secure + "/prefix", None, "GET", "/v1/experiments")


def test_where_nobody_listens_no_service_answers() -> None:
    with pytest.raises(Unavailable, match=r"does not answer: .*refused"):
        client.call("http://127.0.0.1:9", None, "GET", "/v1/experiments")


def test_what_the_service_refuses_is_told_in_its_words(server: ReportServer) -> None:
    with pytest.raises(ServiceError, match="no such run") as caught:
        client.call(server.url, None, "GET", "/v1/experiments")
    assert not isinstance(caught.value, Unavailable)
