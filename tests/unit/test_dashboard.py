"""The dashboard's shell and files: strict about scripts, kept by browsers, honest when missing."""

import re
import shutil
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.rest import dashboard, problems
from app.settings import Settings
from app.web import dashboard as shell
from app.web import pages
from app.web.pages import root_of
from tests.support.server import wait_until


@pytest.fixture
def client() -> TestClient:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.state.settings = Settings()
    problems.install(app)
    app.include_router(dashboard.router)
    return TestClient(app)


def files(text: str) -> list[str]:
    return re.findall(r'(?:src|href)="([^"]+)"', text)


@pytest.mark.parametrize(
    ("path", "root"),
    [("/", "./"), ("/compare", "./"), ("/runs/run_1", "../"), ("/guide/zh/concepts", "../../")],
)
def test_a_page_knows_the_way_to_the_root(path: str, root: str) -> None:
    assert root_of(path) == root
    assert root_of(path, "/train") == "/train/"


@pytest.mark.parametrize("path", ["/compare", "/runs/run_1", "/experiments/exp_1", "/recipes"])
def test_every_file_that_a_page_names_is_there_and_is_kept(client: TestClient, path: str) -> None:
    page = client.get(path)
    assert page.status_code == 200
    assert page.headers["cache-control"] == "no-cache"
    found = files(page.text)
    assert len(found) == 4, "each is a request before the first row"
    for address in found:
        answer = client.get(urljoin(path, address))
        assert answer.status_code == 200, address
        assert "immutable" in answer.headers["cache-control"]
        kind = {".js": "javascript", ".mjs": "javascript", ".css": "css", ".svg": "svg"}
        assert kind[Path(address).suffix] in answer.headers["content-type"]


def test_scripts_come_from_here_and_none_is_inline(client: TestClient) -> None:
    page = client.get("/runs/run_1")
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'; style-src 'self';" in policy
    assert "unsafe" not in policy
    assert "style=" not in page.text
    inline = re.findall(r"<script((?:(?!src=)[^>])*)>", page.text)
    assert inline == [' type="application/json" id="settings"'], "which no browser runs"


def test_a_file_is_packed_for_who_can_unpack_it(client: TestClient) -> None:
    address = next(each for each in files(client.get("/compare").text) if "dashboard.js" in each)
    packed = client.get(f"/{address}", headers={"accept-encoding": "gzip"})
    plain = client.get(f"/{address}", headers={"accept-encoding": "identity"})
    assert packed.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert packed.text == plain.text
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"])


def test_a_page_of_another_version_gets_this_ones_files_but_must_not_keep_them(
    client: TestClient,
) -> None:
    answer = client.get("/assets/0123456789abcdef/dashboard.js")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")


@pytest.mark.parametrize(
    "path", ["dashboard/none.js", "../dashboard.py", "%2e%2e/%2e%2e/__init__.py", "", "dashboard"]
)
def test_nothing_but_the_dashboards_files_is_served(client: TestClient, path: str) -> None:
    assert client.get(f"/assets/0123456789abcdef/{path}").status_code == 404


def test_a_changed_file_changes_every_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, client: TestClient
) -> None:
    before = shell._get_assets().digest
    shutil.copytree(pages.STATIC, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr(pages, "STATIC", tmp_path)
    assert shell._get_assets().digest == before
    with (tmp_path / "dashboard" / "main.js").open("a") as file:
        file.write("console.log(1);\n")
    wait_until(lambda: shell._get_assets().digest != before, "the change is seen")
    assert b"console.log(1)" in shell._get_assets().files["dashboard.js"].content


def test_without_its_npm_files_the_page_says_what_to_do(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "STATIC", tmp_path)
    page = client.get("/compare")
    assert page.status_code == 503
    assert "preact.mjs" in page.text
    assert "NPM_CONFIG_REGISTRY" in page.text
    assert "<script" not in page.text
