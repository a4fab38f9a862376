"""A browser signs in once and brings a cookie from then on; nobody else can use it."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.browser_sessions import CODE_SECONDS, SESSION_SECONDS, BrowserSessions
from app.errors import Busy
from app.server.failed_sign_ins import MOST
from tests.api.conftest import Api, running
from tests.api.problem import problem

TOKEN = "an-api-token-of-some-length"
BEARER = {"authorization": f"Bearer {TOKEN}"}
HERE = "http://127.0.0.1:8000"
BROWSER = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
BODY = {"name": "a", "task_type": "b"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("closed"), api_token=TOKEN) as api:

        def send(method: str, path: str, **more: Any) -> httpx.Response:
            # The client keeps cookies of earlier answers; an explicit header is all it sends.
            headers = httpx.Headers(more.pop("headers", {}))
            headers.setdefault("cookie", "")
            return api.send(method, path, headers=headers, **more)

        yield replace(api, send=send)


def sign_in(api: Api, **body: Any) -> httpx.Response:
    return api.send("POST", "/session", json=body, headers={"origin": HERE})


@pytest.fixture(scope="module")
def cookie(api: Api) -> str:
    answer = sign_in(api, token=TOKEN)
    assert answer.status_code == 204
    return answer.headers["set-cookie"].partition(";")[0]


def test_a_session_reads_and_changes_what_the_token_does(api: Api, cookie: str) -> None:
    assert api.send("GET", "/v1/experiments", headers={"cookie": cookie}).status_code == 200
    made = api.send(
        "POST", "/v1/experiments", json=BODY, headers={"cookie": cookie, "origin": HERE}
    )
    assert made.status_code == 201
    other = {"cookie": f"theme=dark; {cookie}; a=b"}
    assert api.send("GET", "/v1/experiments", headers=other).status_code == 200


def test_the_cookie_is_for_this_service_in_this_browser_alone(api: Api) -> None:
    header = sign_in(api, token=TOKEN).headers["set-cookie"]
    name, *parts = re.split("; ", header)
    assert re.fullmatch(r"llm_train_[0-9a-f]{8}=\d+-\.[0-9a-f]{64}", name)
    assert parts == [f"Max-Age={SESSION_SECONDS}", "HttpOnly", "SameSite=Strict"]
    secure = api.send("POST", "/session", json={"token": TOKEN}, headers={"origin": HERE})
    assert "Secure" not in secure.headers["set-cookie"]
    assert TOKEN not in header


def test_another_origin_and_none_at_all_change_nothing(api: Api, cookie: str) -> None:
    before = api.digest()
    for headers in ({"origin": "http://evil.example"}, {"origin": "http://127.0.0.1:3000"}, {}):
        for method, path, body in (
            ("POST", "/v1/experiments", BODY),
            ("POST", "/graphql", {"query": "mutation { x }"}),
            ("POST", "/session/code", None),
        ):
            answer = api.send(method, path, json=body, headers={"cookie": cookie, **headers})
            assert answer.status_code == 403, (path, headers)
    evil = {"cookie": cookie, "origin": "http://evil.example"}
    assert api.send("GET", "/v1/experiments", headers=evil).status_code == 403
    assert api.digest() == before


@pytest.mark.parametrize(
    "change",
    [
        lambda name, value: f"{name}=9{value}",  # a later expiry
        lambda name, value: f"{name}={value[:-1]}",
        lambda name, value: f"{name}={value.partition('.')[2]}",
        lambda name, value: f"{name}=",
        lambda name, value: f"{name}x={value}",
        lambda name, value: "llm_train_=; =; ; a",
        lambda name, value: f"{name}=é.ü",
    ],
)
def test_a_cookie_that_was_tampered_with_is_none(api: Api, cookie: str, change: Any) -> None:
    tampered = change(*cookie.split("=", 1)).encode()
    answer = api.send("GET", "/v1/experiments", headers=[(b"cookie", tampered)])
    assert problem(answer, "unauthorized")


def test_a_wrong_token_begins_no_session(api: Api) -> None:
    for body in ({"token": TOKEN + "x"}, {"token": ""}, {}, {"code": "1.2"}, {"code": TOKEN}):
        answer = sign_in(api, **body)
        assert problem(answer, "unauthorized")["detail"]
        assert "set-cookie" not in answer.headers
    assert sign_in(api, password=TOKEN).status_code == 422
    elsewhere = {"origin": "http://evil.example"}
    assert api.send("POST", "/session", json={"token": TOKEN}, headers=elsewhere).status_code == 403


def test_a_code_is_good_for_one_sign_in(api: Api) -> None:
    problem(api.send("POST", "/session/code"), "unauthorized")
    made = api.send("POST", "/session/code", headers=BEARER).json()
    assert made["expires_in_seconds"] == CODE_SECONDS
    assert TOKEN not in made["code"]
    first = sign_in(api, code=made["code"])
    assert first.status_code == 204
    assert "llm-train open" in problem(sign_in(api, code=made["code"]), "unauthorized")["detail"]
    as_cookie = f"{first.headers['set-cookie'].partition('=')[0]}={made['code']}"
    problem(api.send("GET", "/v1/experiments", headers={"cookie": as_cookie}), "unauthorized")


def test_sessions_and_codes_expire_and_end_with_the_token_or_the_secret() -> None:
    now = [1_000_000.0]
    sessions = BrowserSessions("s" * 40, TOKEN, clock=lambda: now[0])
    cookie = sessions.make_cookie(secure=True).partition(";")[0]
    code = sessions.code()
    assert sessions.get_subject(cookie) == ""
    assert sessions.subject_of_code(code) == ""
    for other in (BrowserSessions("s" * 40, TOKEN + "2"), BrowserSessions("t" * 40, TOKEN)):
        assert other.name != sessions.name
        renamed = cookie.replace(sessions.name, other.name)
        assert other.get_subject(renamed) is None
        assert other.subject_of_code(code) is None
    now[0] += CODE_SECONDS
    assert sessions.subject_of_code(code) is None
    now[0] += SESSION_SECONDS
    assert sessions.get_subject(cookie) is None


def test_signing_out_ends_the_cookie(api: Api, cookie: str) -> None:
    answer = api.send("DELETE", "/session", headers={"cookie": cookie, "origin": HERE})
    assert answer.status_code == 204
    name = cookie.partition("=")[0]
    assert answer.headers["set-cookie"].startswith(f"{name}=; Max-Age=0;")


@pytest.mark.parametrize("path", ["/", "/runs/run_1", "/docs", "/v1/experiments", "/nowhere"])
def test_a_navigation_without_a_session_gets_the_sign_in_page(api: Api, path: str) -> None:
    answer = api.send("GET", path, headers=BROWSER)
    assert answer.status_code == 401
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "www-authenticate" not in answer.headers  # the browser's own dialog would cover it
    assert answer.headers["cache-control"] == "no-store"
    assert "unsafe" not in answer.headers["content-security-policy"]
    root = "../" * (path.count("/") - 1) or "./"
    assert f'"root": "{root}"' in answer.text
    chinese = api.send("GET", path, headers={**BROWSER, "accept-language": "zh-CN,zh;q=0.9"})
    assert '<html lang="zh">' in chinese.text


def test_programs_are_asked_for_the_token(api: Api) -> None:
    answer = api.send("GET", "/v1/experiments")
    problem(answer, "unauthorized")
    assert answer.headers.get_list("www-authenticate") == ["Bearer"]


def test_a_browser_gets_the_dashboard_and_a_program_the_metadata(api: Api, cookie: str) -> None:
    page = api.send("GET", "/", headers={**BROWSER, "cookie": cookie})
    assert page.status_code in (200, 503)  # its files may not have been fetched
    assert page.headers["content-type"].startswith("text/html")
    links = api.send("GET", "/", headers={"cookie": cookie}).json()
    assert links["docs"] == "/docs"


def test_where_no_token_is_asked_for_signing_in_changes_nothing(tmp_path: Any) -> None:
    with running(tmp_path) as api:
        assert sign_in(api, token="x").status_code == 204
        assert api.send("POST", "/session/code").json()["code"] is None
        assert api.send("DELETE", "/session").status_code == 204
        page = api.send("GET", "/compare", headers=BROWSER)
        assert page.status_code in (200, 503)


def test_a_session_belongs_to_the_user_who_has_signed_in_and_ends_with_its_token(api: Api) -> None:
    body = {"name": "alice"}
    assert api.send("POST", "/v1/users", json=body, headers=BEARER).status_code == 201
    made = api.send("POST", "/v1/tokens", json={"user": "alice"}, headers=BEARER).json()
    signed_in = sign_in(api, token=made["token"])
    assert signed_in.status_code == 204
    held = {"cookie": signed_in.headers["set-cookie"].partition(";")[0], "origin": HERE}
    assert api.send("GET", "/v1/me", headers=held).json()["name"] == "alice"
    # A link is of whoever asks for it: it gives nobody more rights.
    code = api.send("POST", "/session/code", headers=held).json()["code"]
    by_link = sign_in(api, code=code).headers["set-cookie"].partition(";")[0]
    assert api.send("GET", "/v1/me", headers={"cookie": by_link}).json()["name"] == "alice"
    assert sign_in(api, token=made["token"][:-1] + "_").status_code == 401
    api.send("DELETE", f"/v1/tokens/{made['token_id']}", headers=BEARER)
    for cookie in (held["cookie"], by_link):
        assert api.send("GET", "/v1/me", headers={"cookie": cookie}).status_code == 401


def test_each_refusal_of_a_sign_in_has_words_of_the_language_of_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def waiting(*_: Any) -> None:
        raise Busy("Too many requests are waiting; try again in a second.", retry_after=1)

    with running(tmp_path, api_token=TOKEN) as api:
        page = api.send("GET", "/", headers={**BROWSER, "accept-language": "zh"}).text
        (settings,) = re.findall('id="settings">(.*)</script>', page)
        refused = json.loads(settings)["refused"]
        elsewhere = {"origin": "http://evil.example"}
        forbidden = api.send("POST", "/session", json={"token": TOKEN}, headers=elsewhere)
        hidden = {"host": "proxy.example", "origin": "http://proxy.example"}
        behind = api.send("POST", "/session", json={"token": TOKEN}, headers=hidden)
        wrong = [sign_in(api, token="wrong") for _ in range(MOST + 1)]
        with monkeypatch.context() as patch:
            patch.setattr(api.app.state.db, "read", waiting)
            busy = sign_in(api, token="llmt_another")
        answers = [forbidden, behind, *wrong, busy]
        codes = [answer.json()["code"] for answer in answers]
        assert codes == ["forbidden"] * 2 + ["unauthorized"] * MOST + [
            "too_many_wrong_tokens", "busy"
        ]  # fmt: skip
        assert refused.keys() == {*codes, "timeout", "unavailable", "internal_error"}
        assert (wrong[-1].status_code, wrong[-1].headers["retry-after"]) == (429, "60")
        assert "set-cookie" not in wrong[-1].headers
        assert sign_in(api, token=TOKEN).status_code == 204, "nobody is locked out"
