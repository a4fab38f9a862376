"""Sessions of browsers: what a browser brings instead of the API token.

    cookie()    llm_train_<instance>=<expiry>.<signature>, set when somebody signs in
    is_valid()  does a Cookie header hold such a session
    code()      good for one sign-in within a minute; travels in the fragment of a link

Nothing is stored: the signature is an HMAC, so every server with the same secret accepts it. Its
key is derived from the API token as well, so another token ends every session.
"""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable

from app.domain.tokens import same

SESSION_SECONDS = 7 * 24 * 3600
CODE_SECONDS = 60


class BrowserSessions:
    """Signs and verifies the cookies and the sign-in codes of one service."""

    def __init__(self, secret: str, api_token: str, clock: Callable[[], float] = time.time) -> None:
        self._key = hashlib.sha256(f"browser session:{secret}:{api_token}".encode()).digest()
        self._clock = clock
        # Browsers send the cookies of a host to all of its ports: two services on one machine
        # would sign each other out if their cookies had the same name.
        self.name = f"llm_train_{self._sign('name')[:8]}"

    def cookie(self, *, secure: bool) -> str:
        """Return the Set-Cookie header of a new session.

        It has no Path: a browser then takes the folder of the address as the browser knows it, a
        proxy's prefix included.
        """
        expiry = str(int(self._clock()) + SESSION_SECONDS)
        value = f"{self.name}={expiry}.{self._sign(f'session:{expiry}')}"
        return f"{value}; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict{_end(secure)}"

    def ended(self, *, secure: bool) -> str:
        """Return the Set-Cookie header that ends the session of a browser."""
        return f"{self.name}=; Max-Age=0; HttpOnly; SameSite=Strict{_end(secure)}"

    def is_valid(self, cookies: str) -> bool:
        """Return True if a Cookie header holds a session that has not expired."""
        for cookie in cookies.split(";"):
            name, _, value = cookie.strip().partition("=")
            if name == self.name and self._holds("session", value):
                return True
        return False

    def code(self) -> str:
        """Return a new code for one sign-in within `CODE_SECONDS`."""
        about = f"{int(self._clock()) + CODE_SECONDS}-{secrets.token_hex(8)}"
        return f"{about}.{self._sign(f'code:{about}')}"

    def is_code(self, code: str) -> bool:
        """Return True if the code is genuine and has not expired. It may have been used."""
        return self._holds("code", code)

    def _holds(self, kind: str, value: str) -> bool:
        about, _, signature = value.partition(".")
        expiry = about.partition("-")[0]
        if not same(signature, self._sign(f"{kind}:{about}")):
            return False
        return int(expiry) > self._clock()  # a number: we have signed it

    def _sign(self, text: str) -> str:
        return hmac.new(self._key, text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()


def _end(secure: bool) -> str:
    return "; Secure" if secure else ""
