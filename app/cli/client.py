"""One request to a running service, as this package's own commands make them."""

import json
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError

import orjson
from llm_train.connection import explain

from app.errors import ServiceError, Unavailable


def call(
    url: str,
    token: str | None,
    method: str,
    path: str,
    body: object = None,
    *,
    key: str | None = None,
    timeout: float | None = 30,
) -> Any:
    """Make one request and return the JSON of its response.

    Args:
        url: the service's address, with its prefix.
        key: an Idempotency-Key.
        timeout: seconds; None waits for as long as the answer takes.

    Raises:
        ServiceError: the service refuses; with its own words.
        Unavailable: no service answers there, and why.
    """
    headers = {
        "Content-Type": "application/json",
        **({"Authorization": f"Bearer {token}"} if token else {}),
        **({"Idempotency-Key": key} if key else {}),
    }
    data = None if body is None else orjson.dumps(body)
    with _open(url, method, path, data, headers, timeout) as response:
        return _read(url, response.status, response.read())


def send(
    url: str,
    token: str | None,
    method: str,
    path: str,
    body: Iterable[bytes],
    *,
    timeout: float | None,
) -> Any:
    """Make one request whose body is sent in pieces. Raises as `call` does."""
    headers = {"Content-Type": "application/octet-stream"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    with _open(url, method, path, body, headers, timeout) as response:
        return _read(url, response.status, response.read())


def fetch_text(url: str, token: str | None, path: str, *, timeout: float | None = 30) -> str:
    """Return what a GET answers, as text. Raises as `call` does."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with _open(url, "GET", path, None, headers, timeout) as response:
        content: bytes = response.read()
    return content.decode("utf-8", "replace")


@contextmanager
def _open(
    url: str,
    method: str,
    path: str,
    data: bytes | Iterable[bytes] | None,
    headers: dict[str, str],
    timeout: float | None,
) -> Iterator[Any]:
    request = urllib.request.Request(url + path, data, headers, method=method)  # noqa: S310
    # A proxy of the environment would be asked for our own address, too.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=timeout) as response:
            yield response
    except HTTPError as error:
        with error:
            raise _refusal(url, error.code, error.read()) from None
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        why = explain(cause) if isinstance(cause, Exception) else cause
        raise Unavailable(f"the service at {url} does not answer: {why}") from error


def _read(url: str, status: int, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise _make_wrong_service_error(url, status) from None


def _refusal(url: str, status: int, content: bytes) -> ServiceError:
    """Return the error that an answer of this service states."""
    answer = _read(url, status, content)
    if isinstance(answer, dict) and {"error_code", "message"} <= answer.keys():  # of /mlflow
        return ServiceError(str(answer["message"]))
    if not isinstance(answer, dict) or "detail" not in answer or "code" not in answer:
        return _make_wrong_service_error(url, status)
    return ServiceError(str(answer["detail"]))


def _make_wrong_service_error(url: str, status: int) -> Unavailable:
    return Unavailable(
        f"{url} answers {status}, and not as this service does: check the address, its prefix too"
    )
