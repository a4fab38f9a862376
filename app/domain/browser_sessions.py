"""Sessions of browsers: what a browser brings instead of the API token.

    cookie()       llm_train_<instance>=<expiry>-<subject>[-own].<signature>, set at a sign-in
    get_subject()  who has signed in, by a Cookie header
    code()         good for one sign-in within a minute; travels in the fragment of a link

The subject is the id of a user's token, with which the session ends; empty where
LLM_TRAIN_API_TOKEN was shown. Nothing is stored: the signature is an HMAC, so every server with the
same secret accepts it. Its key is derived from the API token as well, so another token ends every
session.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

from app.domain.tokens import secrets_match

SESSION_SECONDS = 7 * 24 * 3600
CODE_SECONDS = 60
_OWN = "-own"


class BrowserSessions:
    """Signs and verifies the cookies and the sign-in codes of one service."""

    def __init__(self, secret: str, api_token: str, clock: Callable[[], float] = time.time) -> None:
        self._key = hashlib.sha256(f"browser session:{secret}:{api_token}".encode()).digest()
        self._clock = clock
        # Browsers send the cookies of a host to all of its ports: two services on one machine
        # would sign each other out if their cookies had the same name.
        self.name = f"llm_train_{self._sign('name')[:8]}"

    def make_cookie(self, subject: str = "", *, owns: bool = False, secure: bool) -> str:
        """Return the Set-Cookie header of a new session.

        Args:
            owns: the token was made for this session, and ends with it.

        It has no Path: a browser then takes the folder of the address as the browser knows it, a
        proxy's prefix included.
        """
        about = f"{int(self._clock()) + SESSION_SECONDS}-{subject}{_OWN if owns else ''}"
        value = f"{self.name}={about}.{self._sign(f'session:{about}')}"
        return f"{value}; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict{_end(secure)}"

    def make_expired_cookie(self, *, secure: bool) -> str:
        """Return the Set-Cookie header that ends the session of a browser."""
        return f"{self.name}=; Max-Age=0; HttpOnly; SameSite=Strict{_end(secure)}"

    def get_subject(self, cookies: str) -> str | None:
        """Return the subject of the session in a Cookie header; None without a valid one."""
        value = self._find(cookies)
        return None if value is None else _part(value, 1)

    def get_own_token(self, cookies: str) -> str | None:
        """Return the id of the token that was made for the session in a Cookie header, or None."""
        value = self._find(cookies)
        return _part(value, 1) if value is not None and f"-{_part(value, 2)}" == _OWN else None

    def _find(self, cookies: str) -> str | None:
        for cookie in cookies.split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == self.name and self._holds("session", value):
                return value
        return None

    def code(self, subject: str = "") -> str:
        """Return a new code for one sign-in within `CODE_SECONDS`."""
        about = f"{int(self._clock()) + CODE_SECONDS}-{subject}-{secrets.token_hex(8)}"
        return f"{about}.{self._sign(f'code:{about}')}"

    def subject_of_code(self, code: str) -> str | None:
        """Return whom a code signs in; None unless it is genuine and has not expired.

        It may have been used.
        """
        return _part(code, 1) if self._holds("code", code) else None

    def _holds(self, kind: str, value: str) -> bool:
        about, _, signature = value.partition(".")
        expiry = about.partition("-")[0]
        if not secrets_match(signature, self._sign(f"{kind}:{about}")):
            return False
        return int(expiry) > self._clock()  # a number: we have signed it

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _part(value: str, number: int) -> str:
    parts = value.partition(".")[0].split("-")
    return parts[number] if number < len(parts) else ""


def _end(secure: bool) -> str:
    return "; Secure" if secure else ""
