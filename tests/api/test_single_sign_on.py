"""Sign-in with OpenID Connect: a real provider's people come in, and no lie of a provider does."""

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt
from joserfc.jwk import OctKey, RSAKey

from app.domain.permissions import Role
from app.domain.single_sign_on import (
    ATTEMPT_SECONDS,
    Attempts,
    name_for,
    parse_groups,
    return_address,
)
from app.domain.team import UserRequest
from app.settings import Settings
from tests.api.conftest import Api, running
from tests.support.openid import (
    CLIENT,
    HERE,
    SECRET,
    Liar,
    certified,
    cookie_of,
    liar,
    sign_in_at,
)

TOKEN = "an-api-token-of-some-length"
OPERATOR = {"authorization": f"Bearer {TOKEN}"}
BROWSER = {"accept": "text/html"}
GROUPS = """
[groups]
"ml-platform" = "admin"
"ml-speech" = { speech = "member", vision = "viewer" }
"ml-leads" = { speech = "maintainer" }
"""
PEOPLE = {
    "1001": {
        "preferred_username": "alice", "groups": ["ml-speech", "everybody"],
        "email": "alice@example.com", "email_verified": True,
    },
    "1002": {"preferred_username": "alice", "groups": ["ml-platform"]},
    "1003": {"preferred_username": "carl", "groups": ["everybody"]},
}  # fmt: skip


def service(place: Path, issuer: str, **more: Any) -> Any:
    place.mkdir(exist_ok=True)
    (place / "recipes.toml").write_text(GROUPS)
    return running(
        place, api_token=TOKEN, public_url=HERE, recipes=place / "recipes.toml",
        oidc_issuer=issuer, oidc_client_id=CLIENT, oidc_client_secret=SECRET, **more,
    )  # fmt: skip


def bare(api: Api) -> Api:
    """The service, asked without the cookies of earlier answers."""

    def send(method: str, path: str, **more: Any) -> httpx.Response:
        headers = httpx.Headers(more.pop("headers", {}))
        headers.setdefault("cookie", "")
        return api.send(method, path, headers=headers, **more)

    return replace(api, send=send)


def begin(api: Api, to: str = "/") -> tuple[str, str]:
    """Begin a sign-in; return where the provider is, and the browser's cookie."""
    answer = api.send("GET", f"/oidc?to={quote(to, safe='')}")
    assert answer.status_code == 302, answer.text
    return answer.headers["location"], cookie_of(answer)


def end(api: Api, url: str, cookie: str, **headers: str) -> httpx.Response:
    return api.send("GET", url.removeprefix(HERE), headers={"cookie": cookie, **headers})


def me(api: Api, cookie: str) -> httpx.Response:
    return api.send("GET", "/v1/me", headers={"cookie": cookie})


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    place = tmp_path_factory.mktemp("certified")
    with certified(place, PEOPLE) as issuer, service(place / "service", issuer) as api:
        api = bare(api)
        for name in ("speech", "vision", "other"):
            api.post("/v1/projects", {"name": name}, **OPERATOR)
        yield api


def session(api: Api, person: str, to: str = "/") -> str:
    """Sign a person in at the real provider; return the cookie of the session."""
    url, cookie = begin(api, to)
    answer = end(api, sign_in_at(url, person), cookie)
    assert answer.status_code == 200, answer.text
    return cookie_of(answer)


def test_a_person_of_a_real_provider_signs_in_and_has_the_roles_of_its_groups(real: Api) -> None:
    url, cookie = begin(real, "/?run=1#curves")
    asked = parse_qs(urlsplit(url).query)
    assert (asked["code_challenge_method"], asked["response_type"]) == (["S256"], ["code"])
    back = sign_in_at(url, "1001")
    answer = end(real, back, cookie)
    assert answer.status_code == 200, answer.text
    assert f'content="0;url={HERE}/?run=1#curves"' in answer.text
    (own,) = (line for line in answer.headers.get_list("set-cookie") if "Max-Age=0" not in line)
    assert own.endswith("HttpOnly; SameSite=Strict")
    found = me(real, cookie_of(answer)).json()
    assert (found["name"], found["kind"], found["is_admin"]) == ("alice", "user", False)
    roles = {role["project"]: role["role"] for role in found["projects"]}
    assert roles == {"speech": "member", "vision": "viewer"}
    (user,) = (
        each
        for each in real.send("GET", "/v1/users", headers=OPERATOR).json()["users"]
        if each["name"] == "alice"
    )
    assert user["email"] == "alice@example.com"
    # Neither the state nor the code is good again, in this browser or in another.
    for given_cookie in (cookie, "", cookie_of(answer)):
        assert end(real, back, given_cookie).status_code == 401
    again = session(real, "1001")
    assert me(real, again).json()["user_id"] == found["user_id"]


def test_an_equal_name_makes_nobody_somebody_else(real: Api) -> None:
    first, other = session(real, "1001"), session(real, "1002")
    found = me(real, other).json()
    assert found["is_admin"] and found["name"] != me(real, first).json()["name"]
    assert found["name"].startswith("alice-")


def test_who_is_new_and_in_no_group_with_a_role_is_refused(real: Api) -> None:
    url, cookie = begin(real)
    answer = end(real, sign_in_at(url, "1003"), cookie)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert "set-cookie" not in answer.headers
    users = real.send("GET", "/v1/users", headers=OPERATOR).json()["users"]
    assert "carl" not in [user["name"] for user in users]


def test_a_chinese_browser_is_told_in_chinese_why_nobody_was_signed_in(real: Api) -> None:
    chinese = {**BROWSER, "accept-language": "zh-CN"}

    def told(url: str, cookie: str) -> str:
        page = end(real, url, cookie, **chinese)
        assert page.status_code in (401, 429)
        return page.text

    def back(person: str) -> tuple[str, str]:
        url, cookie = begin(real)
        return sign_in_at(url, person), cookie

    url, cookie = back("1003")
    assert "此次登录是在别的浏览器中开始的" in told(url, "")
    assert "您所在的组在此没有角色" in told(url, cookie)
    assert "此次登录已经结束" in told(url, cookie)
    url, cookie = back("1001")
    assert "身份提供方不接受登录码" in told(url.replace("code=", "code=x"), cookie)
    url, cookie = back("1001")
    assert "身份提供方没有让您登录" in told(url.replace("code=", "error="), cookie)
    user = f"/v1/users/{me(real, session(real, '1001')).json()['user_id']}"
    assert real.send("PATCH", user, json={"disabled": True}, headers=OPERATOR).status_code == 200
    url, cookie = back("1001")
    assert "用户 &#x27;alice" in told(url, cookie)
    assert real.send("PATCH", user, json={"disabled": False}, headers=OPERATOR).status_code == 200


def test_signing_out_ends_the_session_wherever_its_cookie_is(real: Api) -> None:
    cookie, other = session(real, "1001"), session(real, "1001")
    assert me(real, cookie).status_code == 200
    out = real.send("DELETE", "/session", headers={"cookie": cookie, "origin": HERE})
    assert out.status_code == 204
    assert me(real, cookie).status_code == 401
    assert me(real, other).status_code == 200


def test_the_sign_in_page_offers_it_and_leads_back(real: Api) -> None:
    page = real.send("GET", "/audit", headers=BROWSER)
    assert page.status_code == 401
    assert f'href="{HERE}/oidc?to=%2Faudit"' in page.text
    entries = real.send("GET", "/v1/audit?action=sign_in", headers=OPERATOR).json()["entries"]
    assert ("done", "alice") in {(each["outcome"], each["actor"]["name"]) for each in entries}


@pytest.fixture(scope="module")
def provider() -> Iterator[Liar]:
    with liar() as found:
        yield found


@pytest.fixture(scope="module")
def lied(provider: Liar, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with service(tmp_path_factory.mktemp("lied") / "service", provider.issuer) as api:
        api = bare(api)
        api.post("/v1/projects", {"name": "speech"}, **OPERATOR)
        api.post("/v1/projects", {"name": "vision"}, **OPERATOR)
        yield api


@pytest.fixture(autouse=True)
def honest(request: pytest.FixtureRequest) -> None:
    """Let a provider that lied in one test tell the truth at the start of the next one."""
    if "provider" in request.fixturenames:
        found: Liar = request.getfixturevalue("provider")
        found.claims, found.sign, found.userinfo = {"groups": ["ml-speech"]}, None, {}


def attempt(api: Api, provider: Liar) -> httpx.Response:
    url, cookie = begin(api)
    return end(api, provider.code(url), cookie)


def unsigned(claims: dict[str, Any]) -> str:
    def part(value: Any) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")

    return f"{part({'alg': 'none'})}.{part(claims)}."


def hmac_with(secret: str) -> Any:
    return lambda claims: jwt.encode(
        {"alg": "HS256"}, claims, OctKey.import_key(secret), algorithms=["HS256"]
    )


STRANGER = RSAKey.generate_key(2048)


def stranger(claims: dict[str, Any]) -> str:
    return jwt.encode({"alg": "RS256"}, claims, STRANGER)


LIES: dict[str, dict[str, Any]] = {
    "another nonce": {"nonce": "another"},
    "no nonce": {"nonce": None},
    "another issuer": {"iss": "https://login.example.com"},
    "no issuer": {"iss": None},
    "another audience": {"aud": "another-client"},
    "several audiences without azp": {"aud": [CLIENT, "another"]},
    "another azp": {"aud": [CLIENT, "another"], "azp": "another"},
    "no audience": {"aud": None},
    "another audience for us": {"aud": "another", "azp": CLIENT},
    "expired": {"exp": 1_000_000_000},
    "no expiry": {"exp": None},
    "of the future": {"iat": 9_000_000_000},
    "not yet": {"nbf": 9_000_000_000},
    "no subject": {"sub": None},
    "a subject that is no text": {"sub": 7},
    "an empty subject": {"sub": ""},
    "another access token": {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
}


def refused(api: Api, answer: httpx.Response) -> None:
    assert answer.status_code in (401, 429), answer.text
    assert answer.json()["code"] in ("unauthorized", "too_many_wrong_tokens")
    assert "set-cookie" not in answer.headers
    users = api.send("GET", "/v1/users", headers=OPERATOR).json()["users"]
    assert "mallory" not in [user["name"] for user in users]


@pytest.mark.parametrize("lie", LIES)
def test_an_id_token_that_is_not_right_signs_nobody_in(lied: Api, provider: Liar, lie: str) -> None:
    provider.claims |= LIES[lie]
    refused(lied, attempt(lied, provider))


@pytest.mark.parametrize("sign", [
    unsigned, hmac_with(SECRET), stranger,
    lambda _: "no token", lambda _: "a.b.c", lambda _: "",
], ids=["none", "the secret as a key", "another key", "no token", "no JSON", "empty"])  # fmt: skip
def test_a_signature_that_is_not_the_providers_signs_nobody_in(
    lied: Api, provider: Liar, sign: Any
) -> None:
    provider.sign = sign
    refused(lied, attempt(lied, provider))


def test_what_is_true_signs_in_with_clocks_a_little_apart_and_a_key_that_is_new(
    tmp_path: Path,
) -> None:
    with liar() as provider, service(tmp_path / "s", provider.issuer) as opened:
        api = bare(opened)
        api.post("/v1/projects", {"name": "speech"}, **OPERATOR)
        api.post("/v1/projects", {"name": "vision"}, **OPERATOR)
        provider.claims = {"groups": ["ml-leads", "ml-speech"], "sub": "s"}
        cookie = cookie_of(attempt(api, provider))
        found = me(api, cookie).json()
        assert {each["project"]: each["role"] for each in found["projects"]} == {
            "speech": "maintainer", "vision": "viewer",
        }  # fmt: skip
        now = int(time.time())
        provider.claims |= {"exp": now - 20, "iat": now + 30}
        assert attempt(api, provider).status_code == 200
        provider.claims |= {"exp": now - 3_600}
        assert attempt(api, provider).status_code == 401
        # Roles follow the groups: what these no longer give is gone, also for open sessions.
        provider.claims = {"groups": ["ml-speech"], "sub": "s"}
        assert attempt(api, provider).status_code == 200
        roles = {each["project"]: each["role"] for each in me(api, cookie).json()["projects"]}
        assert roles == {"speech": "member", "vision": "viewer"}
        provider.claims = {"groups": [], "sub": "s"}
        assert attempt(api, provider).status_code == 200
        assert me(api, cookie).json()["projects"] == []
        # A new key of the provider is taken up, when its keys were not read just now.
        provider.keys.append(RSAKey.generate_key(2048))
        asked = provider.asked.count("/jwks_uri")
        assert attempt(api, provider).status_code == 401
        assert provider.asked.count("/jwks_uri") == asked, "a stranger makes us ask"
        api.app.state.provider._read_at -= 11
        assert attempt(api, provider).status_code == 200
        assert provider.asked.count("/jwks_uri") == asked + 1
        user = me(api, cookie).json()["user_id"]
        off = {"disabled": True}
        api.send("PATCH", f"/v1/users/{user}", json=off, headers=OPERATOR)
        assert me(api, cookie).status_code == 401
        assert attempt(api, provider).status_code == 401


def test_userinfo_of_somebody_else_signs_nobody_in(lied: Api, provider: Liar) -> None:
    provider.claims = {"groups": None}
    provider.userinfo = {"sub": "somebody-else", "groups": ["ml-platform"]}
    refused(lied, attempt(lied, provider))


def test_a_sign_in_is_of_one_browser_and_ends_once(lied: Api, provider: Liar) -> None:
    url, cookie = begin(lied)
    other_url, other = begin(lied)
    back = provider.code(url)
    for wrong in (
        (back, ""), (back, other), (provider.code(other_url), cookie),
        (back + "&state=x", cookie), (back.replace("state=", "state=x"), cookie),
        (back, cookie[:-2] + "xx"), (back.partition("&")[0], cookie),
    ):  # fmt: skip
        refused(lied, end(lied, *wrong))
    refused(lied, end(lied, back + "&iss=https%3A%2F%2Fother.example.com", cookie))
    # It was used up by the answer of another provider.
    refused(lied, end(lied, back, cookie))
    url, cookie = begin(lied)
    denied = (
        f"{HERE}/oidc-callback?error=access_denied&state="
        + parse_qs(urlsplit(url).query)["state"][0]
    )
    page = end(lied, denied, cookie, **BROWSER)
    assert page.status_code in (401, 429) and "<script" not in page.text
    assert "Max-Age=0" in page.headers["set-cookie"]


@pytest.mark.parametrize("to", [
    "https://evil.example.com/", "//evil.example.com", "/\\evil.example.com", "evil",
    "javascript:alert(1)", "/a b", "/\r\nSet-Cookie: a=b", "/" + "x" * 3_000, "",
])  # fmt: skip
def test_no_address_leads_out_of_the_service(lied: Api, to: str) -> None:
    assert return_address(to) == "/"
    url, _ = begin(lied, to)
    assert urlsplit(url).path == "/authorization_endpoint"


@given(st.text(max_size=50))
def test_every_address_to_return_to_is_of_this_service(text: str) -> None:
    for to in (return_address(text), return_address("/" + text)):
        parts = urlsplit("https://train.example.com" + to)
        assert (parts.scheme, parts.netloc) == ("https", "train.example.com")
        assert to.startswith("/") and not to.startswith(("//", "/\\"))


def test_an_attempt_ends_after_ten_minutes_and_is_of_one_secret() -> None:
    now = [1_000.0]
    attempts = Attempts("secret", lambda: now[0])
    made, header = attempts.begin("/a", secure=True)
    assert header.endswith("HttpOnly; SameSite=Lax; Secure")
    cookie = header.partition(";")[0]
    assert attempts.find(f"a=b; {cookie}", made.state) == made
    assert Attempts("other", lambda: now[0]).find(cookie, made.state) is None
    assert made.nonce not in cookie and made.verifier not in cookie
    now[0] += ATTEMPT_SECONDS
    assert attempts.find(cookie, made.state) is None


@given(st.dictionaries(st.sampled_from(["preferred_username", "email", "sub"]), st.text()))
def test_a_name_from_a_provider_is_a_name_of_a_user(claims: dict[str, str]) -> None:
    assert UserRequest(name=name_for(claims)).name


@pytest.mark.parametrize("table", [
    [], {"a": "member"}, {"a": {"p": "admin"}}, {"a": {"p": 1}}, {"a": {"no name": "member"}},
    {"a": ["admin"]},
])  # fmt: skip
def test_groups_that_are_none_are_refused(table: Any) -> None:
    with pytest.raises(ValueError):
        parse_groups(table)


def test_the_highest_role_of_several_groups_counts() -> None:
    roles = parse_groups({"a": {"p": "viewer"}, "b": {"p": "maintainer"}, "c": "admin"})
    assert roles.role_in("p", ["a", "b", "x"]) is Role.MAINTAINER
    assert roles.role_in("q", ["a", "b"]) is None
    assert roles.admits(["c"]) and not roles.admits(["x"]) and parse_groups({}).admits([])


@pytest.mark.parametrize("wrong", [
    {"oidc_issuer": "http://login.example.com"}, {"oidc_issuer": "login"}, {"api_token": None},
    {"public_url": None}, {"oidc_client_id": None}, {"oidc_scopes": "profile"},
])  # fmt: skip
def test_settings_that_do_not_make_a_sign_in_are_refused(wrong: dict[str, Any]) -> None:
    right: dict[str, Any] = {
        "oidc_issuer": "https://login.example.com", "api_token": TOKEN, "public_url": HERE,
        "oidc_client_id": CLIENT,
    }  # fmt: skip
    Settings(**right)
    with pytest.raises(ValueError):
        Settings(**right | wrong)


def test_who_has_no_provider_is_told_so_and_imports_nothing(tmp_path: Path) -> None:
    with running(tmp_path, api_token=TOKEN) as api:
        for path in ("/oidc", "/oidc-callback?code=a&state=b"):
            assert bare(api).send("GET", path).status_code == 404
        assert 'id="single"' not in bare(api).send("GET", "/", headers=BROWSER).text
