"""E-mail: which addresses, by which server, and what a message says."""

import re
from ipaddress import ip_address
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from app.domain.text import on_one_line

MAILTO = "mailto:"
MAX_RECIPIENTS = 10
_ADDRESS = re.compile(
    r"(?!.*=\?)[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*"
)
_ENCODED = "=?"
"""Begins an encoded word of RFC 2047, which may decode to the end of a header and another one."""
_MAX_VALUE = 2_000


class SmtpServer(NamedTuple):
    """The server that takes the mail: `smtp://user:password@host:587`, or `smtps://…`."""

    host: str
    port: int
    is_tls: bool
    user: str | None
    password: str | None

    @classmethod
    def parse(cls, url: str) -> "SmtpServer":
        """Return the server of a URL. Raises ValueError, which does not show the password."""
        wrong = ValueError("must be a URL like smtp://user:password@mail.example.com:587")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise wrong from None
        if parts.scheme not in ("smtp", "smtps") or not parts.hostname or parts.path.strip("/"):
            raise wrong
        is_tls = parts.scheme == "smtps"
        user, password = parts.username, parts.password
        return cls(
            parts.hostname,
            port or (465 if is_tls else 587),
            is_tls,
            unquote(user) if user else None,
            unquote(password) if password else None,
        )

    @property
    def is_local(self) -> bool:
        """Return True if nobody else is on the way to it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def is_address(text: str) -> bool:
    """Return True for an address like `team@example.com`."""
    return _ADDRESS.fullmatch(text) is not None


def parse_recipients(url: str) -> list[str]:
    """Return the addresses of `mailto:a@example.com,b@example.com`. Raises ValueError."""
    addresses = [unquote(part) for part in url.removeprefix(MAILTO).split(",")]
    if len(addresses) > MAX_RECIPIENTS or not all(map(is_address, addresses)):
        raise ValueError(
            f"must be mailto: and 1 to {MAX_RECIPIENTS} addresses, like mailto:team@example.com"
        )
    return addresses


def compose(message: dict[str, Any]) -> tuple[str, str]:
    """Return the subject and the text of a webhook's message."""
    data: dict[str, Any] = message["data"]
    kind, _, what = message["type"].partition(".")
    name = data.get("experiment")
    subject = f"{kind.capitalize()} {what.replace('_', ' ')}" + (f": {name}" if name else "")
    lines = [f"{key}: {_plain(value)}" for key, value in data.items() if value is not None]
    text = "\n".join([_plain(data.get("detail") or subject), "", *lines, "", message["timestamp"]])
    return _plain(subject)[:200].replace(_ENCODED, "= ?"), text + "\n"


def _plain(value: object) -> str:
    return on_one_line(str(value))[:_MAX_VALUE]
