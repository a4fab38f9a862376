"""One HTTP connection to the service, kept open, and the sorting of what comes back over it.

Each request is delivered, worth another try, or refused: this report only, or all that could
follow. Only the service refuses: a response without one of its codes (a proxy's page) counts as
none.
"""

import base64
import json
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

from llm_train.buffer import warn

if TYPE_CHECKING:
    import http.client

TIMEOUT_SECONDS = 10.0
MAX_RESPONSE_BYTES = 1 << 20
MAX_RETRY_AFTER_SECONDS = 60.0
_FINAL = (401, 403, 404, 409)
_SENDABLE = re.compile("[!-~]+")


class Response(NamedTuple):
    """The service's response to one request.

    `status` is 0 when no response of the service arrived; `trouble` then says what did.
    `retry_after` is in seconds. `too_large`: something on the way accepts no body of this size.
    """

    status: int
    body: dict[str, Any]
    retry_after: float = 0.0
    trouble: str = ""
    too_large: bool = False

    @property
    def delivered(self) -> bool:
        """Return True if the service accepted the request."""
        return 200 <= self.status < 300

    @property
    def is_retryable(self) -> bool:
        """Return True if the same request may succeed later."""
        return self.status in (0, 408, 429) or self.status >= 500

    @property
    def refuses_batch(self) -> bool:
        """Return True if this report is refused for its content, so that others may be accepted.

        A wrong token, an unknown run, a later attempt or the run's end refuse every report.
        """
        return 400 <= self.status < 500 and self.status not in (*_FINAL, 408, 429)

    @property
    def code(self) -> str:
        """Return the service's code of a refusal, or an empty string."""
        return str(self.body.get("code", ""))

    @property
    def reason(self) -> str:
        """Return the reason of a failure, for people."""
        if not self.status:
            return self.trouble
        detail = self.body.get("detail") or self.code or self.trouble or "no reason given"
        return f"{self.status}: {detail}"


class ApiConnection:
    """JSON to and from one path of the service, over one connection. For one thread.

    It goes through the proxy that HTTPS_PROXY or HTTP_PROXY names, unless NO_PROXY excepts the
    server; a server on this machine is always reached directly.
    """

    def __init__(
        self, api_url: str, path: str, token: str, max_bytes: int = MAX_RESPONSE_BYTES
    ) -> None:
        """Set the service and the path; nothing is sent yet.

        Args:
            api_url: `http(s)://host[:port]/prefix`.
            path: the path below that, such as `/v1/runs/run_1/reports`.
            token: the run's token.
            max_bytes: the longest response that is read.

        Raises:
            ValueError: the URL, the path or the token cannot be sent.
        """
        token = token.strip()
        if not _SENDABLE.fullmatch(token):
            raise ValueError("the run's token must be printable ASCII without spaces")
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._http: http.client.HTTPConnection | None = None
        self._target, self._more = "", dict[str, str]()
        self._resource, self._max_bytes = path, max_bytes
        self.set_url(api_url)

    def set_url(self, api_url: str) -> None:
        """Send later requests to this server. Raises ValueError, having changed nothing."""
        parts = urlsplit(api_url.strip())
        try:
            host = (parts.hostname or "").encode("idna").decode()
        except UnicodeError:
            host = ""
        path = parts.path.rstrip("/") + self._resource
        if parts.scheme not in ("http", "https") or not _SENDABLE.fullmatch(host):
            raise ValueError(f"the API's URL must be http(s)://host[:port], not {api_url!r}")
        if not _SENDABLE.fullmatch(path):
            raise ValueError(f"{path!r} must be printable ASCII without spaces")
        port = parts.port
        self.close()
        self._secure, self._host, self._port = parts.scheme == "https", host, port
        self._path = path
        at = f"[{host}]" if ":" in host else host
        self._origin = f"{parts.scheme}://{at}" + (f":{port}" if port else "")

    def get(self) -> Response:
        """Send a GET. Never raises for what the network or the server does."""
        return self._request("GET", None)

    def post(self, body: bytes) -> Response:
        """Send a POST. Never raises for what the network or the server does."""
        return self._request("POST", body)

    def _request(self, method: str, body: bytes | None) -> Response:
        """Send a request, again over a new connection if the server had closed an idle one."""
        import http.client  # 60 ms that a trainer's start does not wait for

        while True:
            reused = self._http is not None
            try:
                return self._exchange(method, body)
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if not reused or isinstance(error, TimeoutError):
                    return Response(0, {}, trouble=f"{self._origin}: {explain(error)}")

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _connect(self) -> None:
        """Open the connection, through a proxy if the environment names one."""
        import http.client

        scheme = "https" if self._secure else "http"
        proxy = proxy_of(scheme, self._host, self._port)
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        if proxy is None:
            self._http = kind(self._host, self._port, timeout=TIMEOUT_SECONDS)
            self._target, self._more = self._path, {}
        elif self._secure:
            self._http = kind(proxy.host, proxy.port, timeout=TIMEOUT_SECONDS)
            self._http.set_tunnel(self._host, self._port, proxy.headers)
            self._target, self._more = self._path, {}
        else:
            self._http = kind(proxy.host, proxy.port, timeout=TIMEOUT_SECONDS)
            self._target, self._more = self._origin + self._path, proxy.headers

    def _exchange(self, method: str, body: bytes | None) -> Response:
        """Send one request over the open connection and return its response."""
        import http.client

        if self._http is None:
            self._connect()
        assert self._http is not None
        self._http.request(method, self._target, body, {**self._headers, **self._more})
        received = self._http.getresponse()
        content = received.read(self._max_bytes)
        if not received.isclosed():
            raise http.client.HTTPException("the response is too long")
        try:
            delay = float(received.headers.get("Retry-After", 0))
        except ValueError:  # an HTTP date: the back-off will do
            delay = 0.0
        delay = min(max(delay, 0.0), MAX_RETRY_AFTER_SECONDS)
        status, too_large = received.status, received.status == 413
        data = _parse_object(content)
        # A page of a proxy, whatever its status, is no acknowledgement, and no refusal.
        ours = isinstance(data.get("code"), str) or (200 <= status < 300 and data)
        if ours or status in (408, 429) or status >= 500:
            return Response(status, data, delay, f"{self._origin}: {status}", too_large)
        where = received.headers.get("Location")
        trouble = (
            f"{self._origin}{self._path} answers {status}"
            + (f" and names {where!r:.200}" if where else "")
            + ", and not as this service does: check the address in LLM_TRAIN_API_URL, its prefix "
            "too, and any proxy"
        )
        return Response(0, {}, delay, trouble, too_large)


def _parse_object(content: bytes) -> dict[str, Any]:
    """Return a JSON object, or an empty one if the content is none."""
    try:
        data = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


class Proxy(NamedTuple):
    """A proxy's address, and the headers to send it."""

    host: str
    port: int
    headers: dict[str, str]


def proxy_of(scheme: str, host: str, port: int | None) -> Proxy | None:
    """Return the proxy that the environment names for a server, or None for a direct connection.

    A proxy whose URL is none of http://[user:password@]host[:port] is not used, with a warning.
    """
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None
    import urllib.request  # only where there may be a proxy

    url = urllib.request.getproxies_environment()
    named = url.get(scheme) or url.get("all")
    if not named or _is_loopback(host):
        return None
    if urllib.request.proxy_bypass(f"{host}:{port}" if port else host):
        return None
    try:
        parts = urlsplit(named if "://" in named else f"http://{named}")
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError
        at, headers = parts.port or 80, {}
    except ValueError:
        warn(f"the proxy of {scheme} must be http://host[:port], so it is not used")
        return None
    if parts.username is not None:
        user = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Proxy-Authorization"] = f"Basic {base64.b64encode(user.encode()).decode()}"
    return Proxy(parts.hostname, at, headers)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None


def explain(error: Exception) -> str:
    """Return why a connection failed, and what a person can do about it."""
    if isinstance(error, TimeoutError):
        return "it gave no answer in time"
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); if your own authority "
            "signed it, name that one's file in SSL_CERT_FILE"
        )
    return str(error) or type(error).__name__
