"""Shared by the web pages (the dashboard, GraphiQL, Swagger UI).

`page` builds one from files under `app/web/static` and forbids the browser to load anything else;
`mount_static` serves those files. The third-party ones are fetched when the package is built
(`app/web/build_hook.py`); a page whose files are missing says what to do.
"""

import html
import json
import mimetypes
from collections.abc import Sequence
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response
from starlette.types import Scope

STATIC = Path(__file__).parent / "static"
# Relative, so that the pages also work under a proxy's path prefix.
URL = "static"

# GraphiQL and Swagger UI style themselves with inline styles and embedded fonts and icons.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "font-src 'self' data:",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {"Content-Security-Policy": CONTENT_SECURITY_POLICY, "Cache-Control": "no-cache"}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="{url}/icon.svg" type="image/svg+xml">
{links}
</head>
<body>
<div id="page"></div>
<script type="application/json" id="settings">{settings}</script>
{scripts}
</body>
</html>
"""

MISSING = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body style="font: 1rem/1.5 system-ui; max-width: 40rem; margin: 4rem auto; padding: 0 1rem">
<h1>{title}</h1>
<p>The service works; only this page lacks its files:</p>
<ul>{files}</ul>
<p>They are fetched from an npm registry when LLM Train API is installed, and that did not work.
Install it again where a registry answers (<code>NPM_CONFIG_REGISTRY</code> names a mirror),
or build a wheel there with <code>pip wheel --no-deps .</code> and install that one here.</p>
</body>
</html>
"""


def page(
    title: str, *, styles: Sequence[str], scripts: Sequence[str], settings: object
) -> HTMLResponse:
    """Return a page of files under `app/web/static`; its scripts read `settings` from `#settings`.

    503 with a plain explanation if one of the files is not there.
    """
    title = html.escape(title)
    if missing := [file for file in (*styles, *scripts) if not (STATIC / file).is_file()]:
        return make_missing_page(title, missing)
    content = PAGE.format(
        title=title,
        url=URL,
        links="\n".join(f'<link rel="stylesheet" href="{URL}/{file}">' for file in styles),
        scripts="\n".join(f'<script src="{URL}/{file}"></script>' for file in scripts),
        settings=json.dumps(settings).replace("<", "\\u003c"),
    )
    return HTMLResponse(content, headers=HEADERS)


def make_missing_page(title: str, missing: Sequence[str]) -> HTMLResponse:
    """Return a page, with 503, that names the files which were not fetched and says what to do."""
    files = "".join(f"<li><code>{html.escape(file)}</code></li>" for file in missing)
    return HTMLResponse(MISSING.format(title=title, files=files), 503, HEADERS)


def root_of(path: str, root_path: str = "") -> str:
    """Return the way from the page at `path` to the root of the service, for its links.

    It is relative, so that it holds under a prefix that a proxy strips without a word. Where the
    operator set ROOT_PATH the prefix is known, and the address may also be the prefix itself.
    """
    return f"{root_path}/" if root_path else "../" * (path.count("/") - 1) or "./"


def mount_static(app: FastAPI) -> None:
    """Serve the pages' files at /static."""
    # The host's own table may say anything: on Windows .js is text/plain.
    mimetypes.knownfiles.clear()  # saves parsing a thousand types
    mimetypes.add_type("text/javascript", ".js")
    mimetypes.add_type("text/css", ".css")
    mimetypes.add_type("image/svg+xml", ".svg")
    app.mount(f"/{URL}", _Files(directory=STATIC), name="static")


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
