"""The REST API of Ray's dashboard: each call is one request, with a time-out, its answer parsed.

    jobs()       all jobs that Ray lists; nodes()   its nodes that live
    submit(…)    a job; stop(…)                     signals one, and ends it after a while
    upload(…)    a package for jobs, unless Ray has it

Raises Unreachable while the head does not answer, and Refused with its own words.
"""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

from app.launchers.base import Unreachable

MAX_ANSWER_BYTES = 256 << 20
_LOOPBACK = re.compile(r"localhost|127(\.[0-9]+){3}|::1")
_TYPE = "accelerator_type:"


class Refused(Exception):
    """Ray said no; its own words."""


class JobRow(NamedTuple):
    """One job, as Ray lists it."""

    name: str
    """Its submission id."""
    state: str
    message: str
    error: str
    """The kind of its failure."""
    exit_code: int | None
    node: str | None
    """The address of the node that ran it."""
    ended_at: float | None
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class Node:
    """One node that lives: what it has in all."""

    address: str
    cpus: float
    memory_bytes: float
    gpus: int
    gpu_type: str
    """What Ray calls the type of its GPUs; '': nobody knows."""
    resources: Mapping[str, float] = field(default_factory=dict)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nothing: the token must not go elsewhere."""


class RayClient:
    """The dashboard at `address`. The token's file is read for each request: it may be renewed."""

    def __init__(self, address: str, token_file: Path | None, call_seconds: float) -> None:
        self._address, self._token_file = address.rstrip("/"), token_file
        self._call_seconds = call_seconds
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if _LOOPBACK.fullmatch(urlsplit(address).hostname or ""):
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)

    def jobs(self) -> list[JobRow]:
        """Return all submitted jobs that Ray still knows."""
        answer = self._ask("GET", "/api/jobs/")
        if not isinstance(answer, list):
            raise Unreachable("That is no answer of Ray: no list of jobs.")
        return [parse_job(job) for job in answer if isinstance(job, dict) and has_name(job)]

    def nodes(self) -> list[Node]:
        """Return the nodes that live."""
        answer = self._ask("GET", "/api/v0/nodes?detail=1&limit=10000")
        try:
            rows = answer["data"]["result"]["result"]
            return [parse_node(row) for row in rows if row["state"] == "ALIVE"]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise Unreachable(f"That is no answer of Ray: no nodes ({error}).") from error

    def submit(self, body: dict[str, Any]) -> None:
        """Submit a job; one of the same name that Ray has already is no error."""
        try:
            self._ask("POST", "/api/jobs/", json.dumps(body).encode())
        except Unreachable as error:  # it says so with status 500, as if it had failed
            if "already exists" not in str(error):
                raise

    def stop(self, name: str) -> None:
        """Have a job stopped. One that has ended meanwhile is no error."""
        try:
            self._ask("POST", f"/api/jobs/{quote(name, safe='')}/stop", b"")
        except Refused:
            return

    def delete(self, name: str) -> None:
        """Have Ray forget a job that has ended."""
        try:
            self._ask("DELETE", f"/api/jobs/{quote(name, safe='')}")
        except Refused:
            return

    def upload(self, package: str, content: bytes) -> None:
        """Give Ray a package, unless it has it. It keeps that a while for the next job."""
        path = f"/api/packages/gcs/{quote(package, safe='')}"
        try:
            self._ask("GET", path)
        except Refused:
            self._ask("PUT", path, content)

    def _ask(self, method: str, path: str, content: bytes | None = None) -> Any:
        headers = {"Content-Type": "application/json", **self._authorization()}
        request = urllib.request.Request(  # noqa: S310 - the operator's own address
            self._address + path, content, headers, method=method
        )
        try:
            with self._opener.open(request, timeout=self._call_seconds) as answer:
                text = answer.read(MAX_ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            with error:
                raise _failure(error) from None
        except OSError as error:
            raise Unreachable(f"Ray does not answer: {error}.") from error
        except Exception as error:  # http.client's, of an answer that broke off
            raise Unreachable(f"Ray does not answer: {error or type(error).__name__}.") from error
        try:
            return json.loads(text) if text else None
        except (ValueError, RecursionError) as error:
            raise Unreachable(f"That is no answer of Ray: {error}.") from error

    def _authorization(self) -> dict[str, str]:
        if self._token_file is None:
            return {}
        try:
            return {"Authorization": f"Bearer {self._token_file.read_text().strip()}"}
        except (OSError, ValueError) as error:
            raise Unreachable(f"The token of Ray cannot be read: {error}.") from error


def _failure(error: urllib.error.HTTPError) -> Exception:
    text = error.read(1 << 20).decode(errors="replace")
    if error.code in (401, 403):
        return Unreachable("Ray refuses the token: see token_file.")
    words = _last_line(text) or f"status {error.code}"
    if error.code >= 500 or error.code in (408, 429):
        return Unreachable(f"Ray does not take it: {words}.")
    return Refused(words)


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-400:].rstrip(".") if lines else ""


def has_name(job: Mapping[str, Any]) -> bool:
    """Return True for what was submitted as a job; drivers have no name."""
    return isinstance(job.get("submission_id"), str)


def parse_job(job: Mapping[str, Any]) -> JobRow:
    """Parse one entry of the list of jobs."""
    node = urlsplit(str(job.get("driver_agent_http_address") or "")).hostname
    code, ended = job.get("driver_exit_code"), job.get("end_time")
    metadata = job.get("metadata")
    return JobRow(
        job["submission_id"], str(job.get("status")), _last_line(str(job.get("message") or "")),
        str(job.get("error_type") or ""), code if isinstance(code, int) else None, node,
        ended / 1000 if isinstance(ended, int | float) else None,
        metadata if isinstance(metadata, dict) else {},
    )  # fmt: skip


def parse_node(row: Mapping[str, Any]) -> Node:
    """Parse one entry of the list of nodes."""
    has = {str(name): float(amount) for name, amount in row["resources_total"].items()}
    kinds = [name.removeprefix(_TYPE) for name in sorted(has) if name.startswith(_TYPE)]
    return Node(
        str(row["node_ip"]), has.get("CPU", 0.0), has.get("memory", 0.0),
        int(has.get("GPU", 0)), kinds[0] if kinds else "", has,
    )  # fmt: skip
