"""OpenID providers for tests: a certified one in a process of its own, and one that lies."""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import RSAKey

from tests.support.node import NODE, npm_packages
from tests.support.server import free_port, wait_until

HERE = "http://127.0.0.1:8000"
CALLBACK = f"{HERE}/oidc-callback"
CLIENT = "llm-train"
SECRET = "a-secret-of-the-client"


@contextmanager
def certified(folder: Path, people: dict[str, Any], redirect: str = CALLBACK) -> Iterator[str]:
    """npm's `oidc-provider`; yields its issuer."""
    packages, port = npm_packages("oidc-provider@9.13.3"), free_port()
    source = (Path(__file__).parent / "oidc_provider.mjs").read_text()
    environment = {"PORT": str(port), "REDIRECT": redirect, "SECRET": SECRET}
    log = folder / "provider.log"
    with log.open("w") as stream:
        process = subprocess.Popen(
            [NODE, "--input-type=module", "--eval", source],
            cwd=packages,
            env=os.environ | environment | {"PEOPLE": json.dumps(people)},
            stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip
    issuer = f"http://127.0.0.1:{port}"

    def serves() -> bool:
        assert process.poll() is None, log.read_text()
        return issuer in log.read_text()

    try:
        wait_until(serves, "the provider")
        yield issuer
    finally:
        process.kill()
        process.wait()


class _Form(HTMLParser):
    """The first form of a page: where it goes to, and its fields."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "form" and self.action is None:
            self.action = given.get("action")
        elif tag == "input" and given.get("name"):
            self.fields[str(given["name"])] = given.get("value") or ""


def sign_in_at(url: str, person: str) -> str:
    """Sign in as a person does at a certified provider; return where that leads back to."""
    with httpx.Client(timeout=30) as browser:
        answer = browser.get(url)
        for _ in range(12):
            if answer.is_redirect:
                url = urljoin(str(answer.url), answer.headers["location"])
                if url.startswith(CALLBACK):
                    return url
                answer = browser.get(url)
                continue
            form = _Form(answer.text)
            assert form.action is not None, answer.text
            if "login" in form.fields:
                form.fields.update(login=person, password="any")
            answer = browser.post(urljoin(str(answer.url), form.action), data=form.fields)
    raise AssertionError(f"the provider leads nowhere: {answer.url}\n{answer.text}")


@dataclass
class Liar:
    """A provider that answers as a test says. `claims` and `sign` change the next ID tokens."""

    issuer: str
    keys: list[RSAKey] = field(default_factory=lambda: [RSAKey.generate_key(2048)])
    published: list[RSAKey] | None = None
    claims: dict[str, Any] = field(default_factory=dict)
    sign: Callable[[dict[str, Any]], str] | None = None
    userinfo: dict[str, Any] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    nonces: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)

    def code(self, url: str) -> str:
        """The callback's address that this provider gives for an authorization URL."""
        query = {key: values[0] for key, values in parse_qs(urlsplit(url).query).items()}
        code = f"code-{len(self.nonces)}"
        self.nonces[code] = query["nonce"]
        return f"{CALLBACK}?code={code}&state={query['state']}"

    def document(self) -> dict[str, Any]:
        names = ("authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri")
        return {"issuer": self.issuer, **{name: f"{self.issuer}/{name}" for name in names}} | (
            self.metadata
        )

    def jwks(self) -> dict[str, Any]:
        keys = self.keys if self.published is None else self.published
        return {"keys": [key.as_dict(private=False) for key in keys]}

    def tokens(self, form: dict[str, list[str]]) -> tuple[int, dict[str, Any]]:
        code = form["code"][0]
        if code in self.used or code not in self.nonces:
            return 400, {"error": "invalid_grant"}
        self.used.add(code)
        now = int(time.time())
        claims = {
            "iss": self.issuer, "sub": "sub-1", "aud": CLIENT, "iat": now, "exp": now + 300,
            "nonce": self.nonces[code], "preferred_username": "mallory", "groups": [],
        } | self.claims  # fmt: skip
        claims = {name: value for name, value in claims.items() if value is not None}
        token = self.sign(claims) if self.sign else self.rs256(claims)
        return 200, {"access_token": "at", "token_type": "Bearer", "id_token": token}

    def rs256(self, claims: dict[str, Any]) -> str:
        key = self.keys[-1]
        key.ensure_kid()
        return jwt.encode({"alg": "RS256", "kid": key.kid}, claims, key)


@contextmanager
def liar() -> Iterator[Liar]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            provider.asked.append(self.path)
            answers: dict[str, Callable[[], dict[str, Any]]] = {
                "/.well-known/openid-configuration": provider.document,
                "/jwks_uri": provider.jwks,
                "/userinfo_endpoint": lambda: provider.userinfo,
            }
            self._send(200, answers[self.path]())

        def do_POST(self) -> None:
            provider.asked.append(self.path)
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            self._send(*provider.tokens(parse_qs(body)))

        def _send(self, status: int, body: Any) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Write nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider = Liar(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def cookie_of(answer: httpx.Response) -> str:
    """The Cookie header that brings back what an answer sets."""
    pairs = [line.partition(";")[0] for line in answer.headers.get_list("set-cookie")]
    return "; ".join(pair for pair in pairs if not re.search("=$", pair))
