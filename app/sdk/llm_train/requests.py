"""Requests of people and scripts to the service: one at a time, with retries that do nothing twice.

A POST carries a random Idempotency-Key, so it may be sent again after a broken connection: the
service replays its first answer. Errors say what the service said.
"""

import json
import os
import time
import urllib.request
import uuid
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit

from llm_train.connection import explain

DEFAULT_URL = "http://127.0.0.1:8000"
RETRIES = 4
RETRY_SECONDS = 0.5
TRIED_AGAIN = (408, 425, 429, 502, 503, 504)


class ApiError(Exception):
    """The service refused a request; the message is its own sentence.

    Attributes:
        status: the HTTP status; 0 if no answer of the service came.
        code: the stable code, such as `not_found` or `run_finished`.
        problem: the whole answer.
    """

    def __init__(self, message: str, status: int = 0, code: str = "", problem: Any = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.problem = problem


class NoService(ApiError):
    """No service answered at the address, or what answered is another one."""


def read_login(path: "Path | None" = None) -> dict[str, str]:
    """Return `url` and `token` as `llm-train login` stored them; empty without a login.

    Args:
        path: the file; left out: that of this user.
    """
    try:
        stored = json.loads((path or login_file()).read_text())
        return {name: str(stored[name]) for name in ("url", "token") if stored.get(name)}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def login_file() -> Path:
    """Return where the login of this user is kept."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "llm-train" / "login.json"


class Connection:
    """The address of a service and what it takes to be let in."""

    def __init__(
        self, url: "str | None" = None, token: "str | None" = None, *, timeout: float = 30.0
    ) -> None:
        """Set the service; nothing is sent yet.

        Args:
            url: its address, with a proxy's prefix. Left out: LLM_TRAIN_API_URL, the login, or
                this machine's port 8000.
            token: the API token. Left out: LLM_TRAIN_API_TOKEN, or the login's if the address is
                the login's too.
            timeout: seconds to wait for an answer.

        Raises:
            ValueError: the address is no URL of http or https.
        """
        login = read_login()
        address = url or os.environ.get("LLM_TRAIN_API_URL") or login.get("url") or DEFAULT_URL
        self.url = address.rstrip("/")
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"the API's URL must be http(s)://host[:port], not {address!r}")
        self.token = token or os.environ.get("LLM_TRAIN_API_TOKEN")
        if self.token is None and login.get("url") == self.url:
            self.token = login.get("token")
        self.timeout = timeout
        local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        # A proxy of the environment would be asked for our own address, too.
        handlers = [urllib.request.ProxyHandler({})] if local else []
        self._opener = urllib.request.build_opener(*handlers)

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: "Mapping[str, Any] | None" = None,
    ) -> Any:
        """Make a request and return the JSON of the answer.

        Args:
            method: GET, POST, PATCH or DELETE.
            path: such as `/v1/experiments`.
            body: what is sent as JSON; None sends nothing.
            query: parameters; a list is repeated, None is left out.

        Raises:
            ApiError: the service refused; NoService if none answers.
        """
        with self.open(method, path, body, query=query) as response:
            return self._json(response.status, response.read())

    def open(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: "Mapping[str, Any] | None" = None,
        timeout: "float | None" = None,
    ) -> HTTPResponse:
        """Make a request and return the open answer, which the caller reads and closes.

        Args:
            method: GET, POST, PATCH or DELETE.
            path: such as `/v1/experiments`.
            body: what is sent as JSON; None sends nothing.
            query: parameters; a list is repeated, None is left out.
            timeout: seconds without a byte; left out: those of this connection.

        Raises:
            ApiError: the service refused; NoService if none answers.
        """
        request = self._prepare(method, path, body, query or {})
        for attempt in range(RETRIES + 1):
            try:
                response: HTTPResponse = self._opener.open(
                    request, timeout=self.timeout if timeout is None else timeout
                )
                return response
            except HTTPError as error:
                with error:
                    refusal = self._refusal(error.code, error.read())
                if attempt == RETRIES or error.code not in TRIED_AGAIN:
                    raise refusal from None
            except (OSError, HTTPException) as error:
                cause = error.reason if isinstance(error, URLError) else error
                if attempt == RETRIES or isinstance(cause, ConnectionRefusedError):
                    why = explain(cause) if isinstance(cause, Exception) else cause
                    raise NoService(f"the service at {self.url} does not answer: {why}") from error
            time.sleep(RETRY_SECONDS * 2**attempt)
        raise AssertionError("unreachable")

    def _prepare(
        self, method: str, path: str, body: Any, query: "Mapping[str, Any]"
    ) -> urllib.request.Request:
        """Return a request with the token and, unless it only reads, a key to repeat it by."""
        values = {name: value for name, value in query.items() if value is not None}
        url = self.url + path + (f"?{urlencode(values, doseq=True)}" if values else "")
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if method != "GET":
            headers["Idempotency-Key"] = uuid.uuid4().hex
        data = None if body is None else json.dumps(body).encode()
        return urllib.request.Request(url, data, headers, method=method)  # noqa: S310

    def _refusal(self, status: int, content: bytes) -> ApiError:
        problem = self._json(status, content)
        if not isinstance(problem, dict) or "detail" not in problem or "code" not in problem:
            return self._not_ours(status)
        return ApiError(str(problem["detail"]), status, str(problem["code"]), problem)

    def _json(self, status: int, content: bytes) -> Any:
        if status == 204:
            return None
        try:
            return json.loads(content)
        except ValueError:
            raise self._not_ours(status) from None

    def _not_ours(self, status: int) -> NoService:
        return NoService(
            f"{self.url} answers {status}, and not as this service does: "
            "check the address, its prefix too"
        )
