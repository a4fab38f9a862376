"""The dashboard's shell and its files: static ES modules that run in a browser as they are.

    page(path)            the HTML at every address that the dashboard draws
    asset(digest, path)   a module, a style or a third-party file

Every address answers the same shell. Its links are relative (`root_of`), so it works under any
prefix. The files lie below a digest of all of them: a browser keeps them for good, and asks for
others after an upgrade. Scripts and styles come from here alone (no `unsafe-inline`): the one
inline script, the import map, is allowed by its hash.
"""

import base64
import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fastapi.responses import HTMLResponse
from starlette.responses import Response

from app.errors import NotFound
from app.web import pages
from app.web.pages import missing_page, root_of

TITLE = "LLM Train"
OWN = "dashboard"
VENDOR = {
    "preact": "vendor/preact/preact.mjs",
    "preact/hooks": "vendor/preact/hooks.mjs",
    "@preact/signals": "vendor/@preact/signals/signals.mjs",
    "@preact/signals-core": "vendor/@preact/signals-core/signals-core.mjs",
}
"""Modules that are imported by a bare name."""
PLOT = ("vendor/uplot/uPlot.iife.min.js", "vendor/uplot/uPlot.min.css")
# The table of the host may say anything of these (Windows: .js is text/plain).
TYPES = {
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
PATHS = (
    "/runs", "/runs/{run}", "/compare", "/experiments", "/experiments/{experiment}",
    "/checkpoints", "/recipes", "/usage",
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
<link rel="stylesheet" href="{files}vendor/uplot/uPlot.min.css">
{styles}
<script type="importmap">{imports}</script>
{preload}
<script src="{files}vendor/uplot/uPlot.iife.min.js" defer></script>
<script type="module" src="{files}dashboard/main.js"></script>
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
    if missing := [file for file in (*VENDOR.values(), *PLOT) if not _file(file).is_file()]:
        return missing_page(TITLE, missing)
    content, policy = _shell(_assets(), root_of(path, root_path))
    headers = {
        "Content-Security-Policy": policy,
        "Cache-Control": "no-cache",
        "Vary": "Accept, Cookie",
    }
    return HTMLResponse(content, headers=headers)


def asset(digest: str, path: str, *, accepts_gzip: bool) -> Response:
    """Return one file. Raises NotFound.

    A page of another version asks by another digest, as during an upgrade of several servers. It
    gets this version's file, but must not keep it under that name.
    """
    assets = _assets()
    found = assets.files.get(path)
    if found is None:
        raise NotFound("The dashboard has no such file.")
    current = digest == assets.digest
    headers = {
        "Cache-Control": "private, max-age=31536000, immutable" if current else "no-store",
        "Vary": "Accept-Encoding",
    }
    content = found.content
    if accepts_gzip and len(found.packed) < len(content):
        headers["Content-Encoding"], content = "gzip", found.packed
    return Response(content, headers=headers, media_type=found.media_type)


@lru_cache(maxsize=64)
def _shell(assets: Assets, root: str) -> tuple[str, str]:
    """Return the HTML of the page and its Content-Security-Policy."""
    files = f"{root}assets/{assets.digest}/"
    imports = json.dumps({"imports": {name: files + path for name, path in VENDOR.items()}})
    digest = base64.b64encode(hashlib.sha256(imports.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
    own = [path for path in assets.files if path.startswith(f"{OWN}/")]
    modules = [*(path for path in own if path.endswith(".js")), *VENDOR.values()]
    content = _SHELL.format(
        title=TITLE,
        files=files,
        styles="\n".join(
            f'<link rel="stylesheet" href="{files}{path}">' for path in own if path.endswith(".css")
        ),
        imports=imports,
        # A module is known only when the one that imports it is read: four round trips, else.
        preload="\n".join(f'<link rel="modulepreload" href="{files}{path}">' for path in modules),
        settings=json.dumps({"root": root}),
    )
    return content, policy


def _file(path: str) -> Path:
    return pages.STATIC / path


def _assets() -> Assets:
    """Return all files. They are read once, and again in a checkout where one was changed."""
    own = sorted(path for path in _file(OWN).rglob("*") if path.suffix in TYPES)
    known = [*own, *map(_file, (*VENDOR.values(), *PLOT, "icon.svg"))]
    return _read(tuple((path, path.stat().st_mtime_ns) for path in known if path.is_file()))


@lru_cache(maxsize=1)
def _read(known: tuple[tuple[Path, int], ...]) -> Assets:
    files: dict[str, Asset] = {}
    digest = hashlib.sha256()
    for path, _ in known:
        name, content = path.relative_to(pages.STATIC).as_posix(), path.read_bytes()
        files[name] = Asset(content, gzip.compress(content, 9, mtime=0), TYPES[path.suffix])
        digest.update(b"%s %d " % (name.encode(), len(content)) + content)
    return Assets(files, digest.hexdigest()[:16])
