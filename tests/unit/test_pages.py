"""The web pages load nothing from elsewhere, whatever a later version of their makers does."""

import re
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.testclient import TestClient

from app.graphql.ide import graphiql
from app.rest import docs
from app.web import pages


@pytest.fixture
def client() -> TestClient:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.include_router(docs.router)
    app.add_api_route("/graphql", graphiql, response_class=HTMLResponse)
    pages.mount_static(app)
    return TestClient(app)


def addresses(text: str) -> set[str]:
    """Whatever a browser would fetch for HTML or CSS: attributes, url(…) and @import."""
    found = re.findall(
        r"""(?:src|href)\s*=\s*["']?([^"'\s>]+)|url\(\s*["']?([^"')]+)|@import\s+["']([^"']+)""",
        text,
    )
    return {address for match in found for address in match if address}


@pytest.mark.parametrize("path", ["/graphql", "/docs"])
def test_a_page_and_its_styles_name_only_local_files(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assets = addresses(page.text)
    assert len(assets) >= 4
    assert all(address.startswith("static/") for address in assets)
    for address in assets:
        asset = client.get(f"/{address}")
        assert asset.status_code == 200
        kind = {".js": "javascript", ".css": "css", ".svg": "svg+xml"}[Path(address).suffix]
        assert f"/{kind}" in asset.headers["content-type"]
        if kind == "css":
            elsewhere = {a for a in addresses(asset.text) if not a.startswith("data:")}
            assert not elsewhere, f"{address} loads {elsewhere}"


def test_the_check_sees_every_way_of_loading_from_elsewhere() -> None:
    assert addresses('<script crossorigin src="https://cdn.test/a.js">') == {
        "https://cdn.test/a.js"
    }
    assert addresses("a{background:url( '//cdn.test/b.png')}") == {"//cdn.test/b.png"}
    assert addresses('@import "https://cdn.test/c.css";') == {"https://cdn.test/c.css"}


@pytest.mark.parametrize("path", ["/graphql", "/docs", "/static/graphiql.js"])
def test_the_browser_is_told_to_load_only_from_here(client: TestClient, path: str) -> None:
    policy = client.get(path).headers["content-security-policy"]
    sources = {source for directive in policy.split("; ") for source in directive.split()[1:]}
    assert sources == {"'none'", "'self'", "'unsafe-inline'", "data:"}
    assert "script-src 'self';" in policy


@pytest.mark.parametrize("path", ["/graphql", "/docs"])
def test_without_its_files_a_page_says_what_to_do(
    client: TestClient, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "STATIC", tmp_path)
    page = client.get(path)
    assert page.status_code == 503
    assert "NPM_CONFIG_REGISTRY" in page.text
    assert "<script" not in page.text
    assert not addresses(page.text)


def test_settings_cannot_end_their_script_element() -> None:
    body = pages.page("t", styles=(), scripts=(), settings="</script><b>").body
    assert b"</script><b>" not in bytes(body)
