"""What an install promises about the web pages' files, against an npm registry of our own."""

import base64
import hashlib
import io
import json
import socket
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest
from hatchling.bridge.app import Application
from hatchling.build import build_wheel

from app.web.build_hook import VENDOR, WebFiles, registry
from tests.support.server import REPOSITORY, free_port


def tarball(**files: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


TARBALL = tarball(**{"dist/a.js": "alert(1)", "dist/a.js.map": "big", "LICENSE": "free"})
PIN = {
    "name": "@scope/thing",
    "version": "1.2.3",
    "integrity": "sha512-" + base64.b64encode(hashlib.sha512(TARBALL).digest()).decode(),
    "files": ["dist/a.js"],
}


class Registry(BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        host = self.headers["Host"]
        found = {
            "/@scope/thing/1.2.3": json.dumps({"dist": {"tarball": f"http://{host}/tgz"}}).encode(),
            "/tgz": TARBALL,
        }.get(self.path)
        self.send_response(404 if found is None else 200)
        self.end_headers()
        self.wfile.write(found or b"")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The paths asked of a registry that the environment names."""
    monkeypatch.setattr(Registry, "asked", [])
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{server.server_port}/")
        yield Registry.asked
        server.shutdown()
    socket.setdefaulttimeout(None)


def build(root: Path, *pins: dict[str, Any]) -> dict[str, str]:
    """Run the hook as hatchling does; return the files of the vendor folder."""
    config = {"packages": list(pins)}
    builder: Any = None  # the hook looks at neither the builder's configuration nor the metadata
    hook = WebFiles(str(root), config, builder, builder, "", "wheel", Application())
    hook.initialize("standard", {})
    vendor = root / VENDOR
    files = (path for path in vendor.rglob("*") if path.is_file() and path.name != "pins.json")
    return {path.relative_to(vendor).as_posix(): path.read_text() for path in files}


def test_only_the_named_files_and_the_licence_are_kept(tmp_path: Path, asked: list[str]) -> None:
    assert build(tmp_path, PIN) == {"@scope/thing/a.js": "alert(1)", "@scope/thing/LICENSE": "free"}


def test_the_registry_is_asked_again_only_when_a_pin_changes(
    tmp_path: Path, asked: list[str]
) -> None:
    build(tmp_path, PIN)
    build(tmp_path, PIN)
    assert asked == ["/@scope/thing/1.2.3", "/tgz"]
    assert "@scope/thing/a.js.map" in build(tmp_path, PIN | {"files": ["dist/a.js.map"]})
    assert len(asked) == 4


def test_a_package_that_is_not_the_pinned_one_fails_the_build(
    tmp_path: Path, asked: list[str]
) -> None:
    with pytest.raises(RuntimeError, match="checksum mismatch"):
        build(tmp_path, PIN | {"integrity": "sha512-" + "A" * 86 + "=="})
    assert not (tmp_path / VENDOR).exists()


@pytest.mark.parametrize("fault", ["unknown package", "no registry"])
def test_when_a_fetch_fails_the_build_succeeds_and_keeps_what_it_had(
    tmp_path: Path,
    asked: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: str,
) -> None:
    before = build(tmp_path, PIN)
    if fault == "no registry":
        monkeypatch.setenv("NPM_CONFIG_REGISTRY", f"http://127.0.0.1:{free_port()}")
    assert build(tmp_path, PIN, PIN | {"name": "unknown"}) == before
    warning = capsys.readouterr().err
    assert warning.startswith("The dashboard, GraphiQL and /docs will be missing")
    assert warning.count("\n") == 1


def test_the_users_npm_configuration_names_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRROR", "mirror.test")
    npmrc = tmp_path / ".npmrc"
    npmrc.write_text('fund=false\nregistry = "https://${MIRROR}/npm/"\n')
    home = {"HOME": str(tmp_path)}
    monkeypatch.setenv(*next(iter(home.items())))
    assert registry(home) == "https://mirror.test/npm/"
    assert registry(home | {"npm_config_registry": "https://other.test/"}) == "https://other.test/"
    npmrc.write_text("fund=false\n")
    assert registry(home).startswith("https://registry.")


def test_the_wheel_has_every_pinned_file_and_so_has_the_tree_of_an_editable_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(REPOSITORY)
    names = set(zipfile.ZipFile(tmp_path / build_wheel(str(tmp_path))).namelist())
    pyproject = tomllib.loads(Path("pyproject.toml").read_text())
    hook = pyproject["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    pinned = {
        (VENDOR / package["name"] / Path(file).name).as_posix()
        for package in hook["packages"]
        for file in package["files"]
    }
    assert pinned <= names
    assert all(Path(file).is_file() for file in pinned)
    assert "app/web/build_hook.py" not in names
