"""The dashboard's shell, and the files that a browser asks for because of it.

    page(path)                the HTML at every address that the dashboard draws
    get_asset(digest, path)   a script, a style or a picture

Every address answers the same shell. Its links are relative (`root_of`), so it works under any
prefix. The files lie below a digest of all of them: a browser keeps them for good, and asks for
others after an upgrade. All modules are sent as one script, all styles as one (`app.web.bundle`):
fifty requests took longer than all else until the first row. Scripts and styles come from here
alone (no `unsafe-inline`, and no inline script at all).
"""

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from time import monotonic

from fastapi.responses import HTMLResponse
from starlette.responses import Response

from app.errors import NotFound
from app.web import pages
from app.web.pages import make_missing_page, root_of

TITLE = "LLM Train"
OWN = "dashboard"
VENDOR = {
    "preact": "vendor/preact/preact.mjs",
    "preact/hooks": "vendor/preact/hooks.mjs",
    "@preact/signals": "vendor/@preact/signals/signals.mjs",
    "@preact/signals-core": "vendor/@preact/signals-core/signals-core.mjs",
}
"""Modules that are imported by a bare name."""
PLOT, PLOT_STYLE = "vendor/uplot/uPlot.iife.min.js", "vendor/uplot/uPlot.min.css"
THIRD_PARTY = (*VENDOR.values(), PLOT, PLOT_STYLE)
SCRIPT, STYLE, ICON = "dashboard.js", "dashboard.css", "icon.svg"
LANGUAGE = "language.js"
"""What must run before the plot's script."""
START = f"{OWN}/main.js"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CHECKED_SECONDS = 1.0
"""So long the files are taken to be as they were: to look at each takes five milliseconds."""
# The table of the host may say anything of these (Windows: .js is text/plain).
TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
PATHS = (
    "/runs", "/runs/{run}", "/compare", "/experiments", "/experiments/{experiment}",
    "/checkpoints", "/recipes", "/usage", "/audit", "/webhooks", "/alerts",
)  # fmt: skip
"""Addresses below / that the dashboard draws."""

_SHELL = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="{files}icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="{files}dashboard.css">
<script src="{files}vendor/uplot/uPlot.iife.min.js" defer></script>
<script type="module" src="{files}dashboard.js"></script>
</head>
<body>
<div id="page"></div>
<script type="application/json" id="settings">{settings}</script>
<noscript>The dashboard needs JavaScript; the APIs do not.</noscript>
</body>
</html>
"""


@dataclass(frozen=True)
class Asset:
    """A file as it is sent."""

    content: bytes
    packed: bytes
    media_type: str


@dataclass(frozen=True, eq=False)
class Assets:
    """All files of the dashboard, by their path below `static`; `digest` names this set."""

    files: dict[str, Asset]
    digest: str


def page(path: str, root_path: str = "") -> Response:
    """Return the shell for an address; 503 and what to do where third-party files are missing."""
    if missing := [file for file in THIRD_PARTY if not _find_file(file).is_file()]:
        return make_missing_page(TITLE, missing)
    root = root_of(path, root_path)
    content = _SHELL.format(
        title=TITLE,
        files=f"{root}assets/{_get_assets().digest}/",
        settings=json.dumps({"root": root}),
    )
    headers = {
        "Content-Security-Policy": POLICY,
        "Cache-Control": "no-cache",
        "Vary": "Accept, Cookie",
    }
    return HTMLResponse(content, headers=headers)


def get_asset(digest: str, path: str, *, accepts_gzip: bool) -> Response:
    """Return one file. Raises NotFound.

    A page of another version asks by another digest, as during an upgrade of several servers. It
    gets this version's file, but must not keep it under that name.
    """
    assets = _get_assets()
    file = assets.files.get(path)
    if file is None:
        raise NotFound("The dashboard has no such file.")
    current = digest == assets.digest
    headers = {
        "Cache-Control": "private, max-age=31536000, immutable" if current else "no-store",
        "Vary": "Accept-Encoding",
    }
    content = file.content
    if accepts_gzip and len(file.packed) < len(content):
        headers["Content-Encoding"], content = "gzip", file.packed
    return Response(content, headers=headers, media_type=file.media_type)


def _find_file(path: str) -> Path:
    return pages.STATIC / path


def _get_assets() -> Assets:
    """Return all files. They are made once, and again in a checkout where one was changed."""
    return _read(_list_sources(pages.STATIC, int(monotonic() / CHECKED_SECONDS)))


@lru_cache(maxsize=1)
def _list_sources(static: Path, _moment: int) -> tuple[tuple[Path, int], ...]:
    """Return the files that the assets are made of, and when each was written."""
    own = sorted(path for path in (static / OWN).rglob("*") if path.suffix in TYPES)
    known = [*own, *(static / file for file in (*THIRD_PARTY, LANGUAGE, ICON))]
    return tuple((path, path.stat().st_mtime_ns) for path in known if path.is_file())


@lru_cache(maxsize=1)
def _read(sources: tuple[tuple[Path, int], ...]) -> Assets:
    import gzip

    from app.web.bundle import bundle  # with the first page, not with the service

    texts = {
        path.relative_to(pages.STATIC).as_posix(): path.read_text(encoding="utf-8")
        for path, _ in sources
    }
    modules = {path: text for path, text in texts.items() if path.endswith((".js", ".mjs"))}
    styles = [texts[path] for path in texts if path.endswith(".css") and path != PLOT_STYLE]
    made = {
        SCRIPT: bundle(modules, VENDOR, START),
        STYLE: "\n".join([texts[PLOT_STYLE], *styles]),
        PLOT: texts[LANGUAGE] + texts[PLOT],
        ICON: texts[ICON],
    }
    files: dict[str, Asset] = {}
    digest = hashlib.sha256()
    for name, text in made.items():
        content = text.encode()
        files[name] = Asset(content, gzip.compress(content, 9, mtime=0), TYPES[Path(name).suffix])
        digest.update(b"%s %d " % (name.encode(), len(content)) + content)
    return Assets(files, digest.hexdigest()[:16])
