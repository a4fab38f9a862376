"""The sign-in page: what a browser without a session gets, with 401, at the address it asked for.

It stays at that address, so there is no redirect that a proxy's prefix could lead astray. It loads
nothing, since every other file needs the session that it is about to get.
"""

import base64
import hashlib
import html
import json
from functools import cache
from pathlib import Path

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
</form>
</main>
<script type="application/json" id="settings">{settings}</script>
<script>{script}</script>
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
    },
    "zh": {
        "title": "登录 · LLM Train",
        "token": "API 令牌",
        "hint": "即服务的 LLM_TRAIN_API_TOKEN；也可用 `llm-train open` 打印登录链接。",
        "button": "登录",
        "away": "服务没有响应。",
    },
}


def page(path: str, accept_language: str, root_path: str = "") -> tuple[bytes, str]:
    """Return the page for the address `path`, and its Content-Security-Policy."""
    style, script = _parts(STATIC / "sign-in")
    language = "zh" if accept_language.strip().lower().startswith("zh") else "en"
    words = _WORDS[language]
    settings = json.dumps({"root": root_of(path, root_path), "away": words["away"]})
    body = _PAGE.format(
        language=language,
        style=style,
        script=script,
        settings=settings.replace("<", "\\u003c"),
        **{name: html.escape(words[name]) for name in ("title", "token", "hint", "button")},
    )
    policy = (
        f"default-src 'none'; script-src {_source(script)}; style-src {_source(style)}; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    return body.encode(), policy


@cache
def _parts(stem: Path) -> tuple[str, str]:
    return stem.with_suffix(".css").read_text("utf-8"), stem.with_suffix(".js").read_text("utf-8")


def _source(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"
