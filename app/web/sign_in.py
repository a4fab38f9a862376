"""The sign-in page: what a browser without a session gets, with 401, at the address it asked for.

It stays at that address, so there is no redirect that a proxy's prefix could lead astray. It loads
nothing, since every other file needs the session that it is about to get.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import quote

from app.web.pages import STATIC, root_of

_PAGE = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
<form id="form">
<h1>{title}</h1>
<label for="token">{token}</label>
<input id="token" type="password" autocomplete="current-password" required autofocus
 aria-describedby="hint">
<p id="hint">{hint}</p>
<button id="button">{button}</button>
<p id="wrong" role="alert"></p>
{single}</form>
</main>
<script type="application/json" id="settings">{settings}</script>
<script>{script}</script>
</body>
</html>
"""
_SINGLE = '<a id="single" href="{href}">{text}</a>\n'
_NOTICE = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{refresh}<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main class="notice">
<h1>{title}</h1>
<p role="alert">{text}</p>
<a href="{href}">{link}</a>
</main>
</body>
</html>
"""
_WORDS = {
    "en": {
        "title": "Sign in: LLM Train",
        "token": "API token",
        "hint": "The service's LLM_TRAIN_API_TOKEN. Or let `llm-train open` print a link.",
        "button": "Sign in",
        "away": "The service does not answer.",
        "single": "Sign in with your organization",
        "signed_in": "You are signed in.",
        "onward": "Go on",
        "again": "Sign in again",
    },
    "zh": {
        "title": "登录 · LLM Train",
        "token": "API 令牌",
        "hint": "即服务的 LLM_TRAIN_API_TOKEN；也可用 `llm-train open` 打印登录链接。",
        "button": "登录",
        "away": "服务没有响应。",
        "single": "使用组织账号登录",
        "signed_in": "您已登录。",
        "onward": "继续",
        "again": "重新登录",
    },
}


_REFUSED = {
    "en": {},
    "zh": {
        "unauthorized": "令牌或登录码无效，或已被撤销、已过期。",
        "too_many_wrong_tokens": "错误的令牌过多；请一分钟后再试。",
        "busy": "服务繁忙；请稍后再试。",
        "timeout": "服务响应超时；请稍后再试。",
        "unavailable": "服务暂不可用；请稍后再试。",
        "internal_error": "服务出现缺陷；详情见其日志。",
        "forbidden": "此来源（Origin 或 Host）不被允许；"
        "运维人员可将其名称加入 LLM_TRAIN_ALLOWED_HOSTS。",
    },
}
"""What a refused sign-in is called, by its code; the service's sentence where there is nothing."""

_CHINESE = {
    "This sign-in was begun in another browser, or too long ago.": "此次登录是在别的浏览器中"
    "开始的，或开始得太久了。",
    "This sign-in was ended before; begin another.": "此次登录已经结束；请重新开始。",
    "The provider did not sign you in.": "身份提供方没有让您登录。",
    "The provider did not accept the code; sign in again.": "身份提供方不接受登录码；请重新登录。",
    "Somebody else signs in at this moment; try again.": "此刻有其他人正在登录；请重试。",
    "Too many requests are waiting; try again in a second.": "服务繁忙；请稍后再试。",
    "Too many writes are waiting; try again in a second.": "服务繁忙；请稍后再试。",
    "Too many wrong tokens; try again in a minute.": "失败的登录过多；请一分钟后再试。",
    "None of your groups has a role here; ask the operator for one.": "您所在的组在此没有角色；"
    "请联系运维人员。",
    "User {} is disabled.": "用户 {} 已被停用。",
    "There are {} users.": "已有 {} 个用户，不能再增加。",
    "The server is stopping.": "服务器正在停止；请稍后再试。",
    "The database does not answer; the log says why. Try again.": "数据库没有响应；请重试。",
    "The database cannot be used now: {}.": "数据库现在无法使用：{}。",
    "The answer is of another provider.": "此回答来自另一个身份提供方。",
    "The provider has sent no ID token.": "身份提供方没有发送 ID 令牌。",
    "The provider's ID token is not right: {}": "身份提供方的 ID 令牌不正确：{}",
    "The provider tells of somebody else than who has signed in.": "身份提供方"
    "所说的人不是登录的人。",
    "The provider at LLM_TRAIN_OIDC_ISSUER does not answer as it must.": "LLM_TRAIN_OIDC_ISSUER "
    "处的身份提供方没有正确响应。",
    "The provider at LLM_TRAIN_OIDC_ISSUER calls itself otherwise.": "LLM_TRAIN_OIDC_ISSUER "
    "处的身份提供方自称的名称与此不同。",
    "The provider tells no {}.": "身份提供方没有给出 {}。",
    "The provider's {} is not https.": "身份提供方的 {} 不是 https。",
}
"""Why nobody was signed in at a provider, with {} where the service puts in words of its own."""

Page = Callable[[str], tuple[bytes, str]]
"""Returns a page in a language: its body and its Content-Security-Policy."""


def page(
    path: str, accept_language: str, root_path: str = "", single_sign_on: str | None = None
) -> tuple[bytes, str]:
    """Return the page for the address `path`, and its Content-Security-Policy.

    Args:
        single_sign_on: the address at which a sign-in with OpenID Connect begins.
    """
    style, script = _parts(STATIC / "sign-in")
    language = _language(accept_language)
    words = _WORDS[language]
    single = ""
    if single_sign_on is not None:
        href = f"{single_sign_on}?to={quote(path, safe='')}"
        single = _SINGLE.format(href=html.escape(href), text=html.escape(words["single"]))
    settings = json.dumps({
        "root": root_of(path, root_path), "away": words["away"], "refused": _REFUSED[language],
    })  # fmt: skip
    body = _PAGE.format(
        language=language,
        style=style,
        script=script,
        single=single,
        settings=settings.replace("<", "\\u003c"),
        **{name: html.escape(words[name]) for name in ("title", "token", "hint", "button")},
    )
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return body.encode(), policy


def make_onward_page(address: str) -> Page:
    """Return the page that leads a browser on which has just got its session."""

    def make(accept_language: str) -> tuple[bytes, str]:
        words = _WORDS[_language(accept_language)]
        refresh = f'<meta http-equiv="refresh" content="0;url={html.escape(address)}">\n'
        return _notice(accept_language, words["signed_in"], address, words["onward"], refresh)

    return make


def make_refused_page(why: str, home: str) -> Page:
    """Return the page that says why nobody was signed in."""

    def make(accept_language: str) -> tuple[bytes, str]:
        language = _language(accept_language)
        said = translate(why) if language == "zh" else why
        return _notice(accept_language, said, home, _WORDS[language]["again"])

    return make


def translate(why: str) -> str:
    """Return in Chinese why nobody was signed in; a sentence that is not known stays as it is."""
    for english, chinese in _CHINESE.items():
        if places := re.fullmatch(re.escape(english).replace(r"\{\}", "(.+)"), why):
            return chinese.format(*places.groups())
    return f"登录被拒绝：{why}"


def _notice(
    accept_language: str, text: str, href: str, link: str, refresh: str = ""
) -> tuple[bytes, str]:
    language = _language(accept_language)
    style, _ = _parts(STATIC / "sign-in")
    parts = {"title": _WORDS[language]["title"], "text": text, "href": href, "link": link}
    escaped = {name: html.escape(value) for name, value in parts.items()}
    body = _NOTICE.format(language=language, style=style, refresh=refresh, **escaped)
    policy = (
        f"default-src 'none'; style-src {_source(style)}; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return body.encode(), policy


def _language(accept_language: str) -> str:
    return "zh" if accept_language.strip().lower().startswith("zh") else "en"


@cache
def _parts(stem: Path) -> tuple[str, str]:
    return stem.with_suffix(".css").read_text("utf-8"), stem.with_suffix(".js").read_text("utf-8")


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
