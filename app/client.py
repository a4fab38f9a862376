"""One request to a running service, as this package's own commands make them."""

import json
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError

import orjson

from app.errors import ServiceError, Unavailable

# A proxy of the environment would be asked for our own address, too.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


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
    """The answer's JSON. Raises ServiceError with what the service says; Unavailable.

    Args:
        key: an Idempotency-Key.
        timeout: seconds; None waits for as long as the answer takes.
    """
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    if key:
        headers["Idempotency-Key"] = key
    data = None if body is None else orjson.dumps(body)
    request = urllib.request.Request(url + path, data, headers, method=method)  # noqa: S310
    try:
        with _OPENER.open(request, timeout=timeout) as response:
            return json.load(response)
    except HTTPError as error:
        raise ServiceError(json.load(error)["detail"]) from None
    except (OSError, HTTPException) as error:
        why = error.reason if isinstance(error, URLError) else error
        raise Unavailable(f"the service at {url} does not answer: {why}") from error
