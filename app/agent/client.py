"""Requests to the service: JSON or bytes, one answer, no redirects.

Each request ends in one of three ways: an answer, `Refused` (the service itself says no, with one
of its codes), or `Unreachable` (anything else: no connection, a proxy's page, 429, 5xx), which is
worth another try. HTTPS_PROXY, HTTP_PROXY and NO_PROXY are heeded; this machine is reached
directly.
"""

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any
from urllib.parse import quote, urlsplit

TIMEOUT_SECONDS = 30.0
MAX_ANSWER_BYTES = 16 << 20
MAX_RETRY_AFTER_SECONDS = 60.0
_LOOPBACK = re.compile(r"localhost|::1|127(\.\d+){3}")


class Unreachable(OSError):
    """No answer of the service came. `retry_after`: seconds that it asked for."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(Exception):
    """The service refuses: `status`, its stable `code`, and its whole `answer`."""

    def __init__(self, status: int, answer: "dict[str, Any]") -> None:
        self.status, self.answer = status, answer
        self.code = str(answer.get("code", ""))
        super().__init__(f"{status} {self.code}: {answer.get('detail', '')}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nothing: a token must not go elsewhere."""


class Client:
    """Requests below one path of the service, with `token`."""

    def __init__(self, api_url: str, path: str) -> None:
        """Raises ValueError for what is no http(s) URL."""
        parts = urlsplit(api_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the service's URL must be http(s)://host[:port], not {api_url!r}")
        self._base = api_url.rstrip("/") + path
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if _LOOPBACK.fullmatch(parts.hostname):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)
        self.token = ""

    def post(
        self,
        path: str,
        body: "dict[str, Any] | bytes",
        token: str = "",
        json_type: bool = False,
        timeout: float = TIMEOUT_SECONDS,
    ) -> "dict[str, Any]":
        """Return the answer to a POST: of JSON, or of bytes as they are."""
        is_json = json_type or isinstance(body, dict) or path == "/reports"
        content = json.dumps(body).encode() if isinstance(body, dict) else body
        kind = "application/json" if is_json else "application/octet-stream"
        more = {"Content-Type": kind}
        with self._open("POST", path, content, more, token, timeout) as response:
            return _read(response)

    def put(self, path: str, file: "IO[bytes]", size: int) -> "dict[str, Any]":
        """Return the answer to a PUT of a file's content."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        with self._open("PUT", path, file, headers) as response:
            return _read(response)

    @contextmanager
    def get(self, path: str) -> "Iterator[IO[bytes]]":
        """Open the body of an answer. What breaks while it is read is Unreachable, too."""
        with self._open("GET", path, None, {}) as response:
            try:
                yield response
            except http.client.HTTPException as error:
                raise Unreachable(str(error) or type(error).__name__) from error

    def _open(
        self,
        method: str,
        path: str,
        content: Any,
        headers: "dict[str, str]",
        token: str = "",
        timeout: float = TIMEOUT_SECONDS,
    ) -> Any:
        headers = {**headers, "Authorization": f"Bearer {token or self.token}"}
        url = self._base + quote(path, safe="/?=&%.~-_")
        request = urllib.request.Request(url, content, headers, method=method)
        try:
            return self._opener.open(request, timeout=timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise _failure(error) from None
        except http.client.HTTPException as error:
            raise Unreachable(str(error) or type(error).__name__) from error
        except Unreachable:
            raise
        except OSError as error:  # URLError is one
            raise Unreachable(str(error)) from error


def _read(response: Any) -> "dict[str, Any]":
    try:
        answer = json.loads(response.read(MAX_ANSWER_BYTES))
    except (ValueError, RecursionError, http.client.HTTPException) as error:
        raise Unreachable(f"that is no answer of the service: {error}") from error
    if not isinstance(answer, dict):
        raise Unreachable("that is no answer of the service")
    return answer


def _failure(error: urllib.error.HTTPError) -> Exception:
    """Return what an answer with an error's status means."""
    try:
        answer = json.loads(error.read(MAX_ANSWER_BYTES))
    except (ValueError, RecursionError, OSError, http.client.HTTPException):
        answer = None
    ours = isinstance(answer, dict) and isinstance(answer.get("code"), str)
    if ours and 400 <= error.code < 500 and error.code not in (408, 429):
        return Refused(error.code, answer)
    try:
        wait = float(error.headers.get("Retry-After", 0))
    except (TypeError, ValueError):
        wait = 0.0
    return Unreachable(f"status {error.code}", min(max(wait, 0.0), MAX_RETRY_AFTER_SECONDS))
