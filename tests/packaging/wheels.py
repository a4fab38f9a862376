"""Both wheels, as a user gets them: what is in them, and that each works in a fresh environment."""

import email
import os
import shutil
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
import zipfile
from email.message import Message
from pathlib import Path

import pytest

from tests.support.server import REPOSITORY, free_port

PYPROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
SDK_FILES = {
    path.relative_to(REPOSITORY / "app/sdk").as_posix()
    for pattern in ("*.py", "py.typed")
    for path in (REPOSITORY / "app/sdk/llm_train").glob(pattern)
}


def run(*command: Path | str, cwd: Path) -> str:
    """Run a command without this checkout on its path; return its output."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def build(source: Path, folder: Path) -> zipfile.ZipFile:
    """Build the wheel of a project as pip does."""
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, source, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel)


def install(wheel: zipfile.ZipFile, folder: Path, python: str = sys.executable) -> Path:
    """Install a wheel into a fresh environment; return its folder of commands."""
    run(python, "-m", "venv", folder, cwd=folder.parent)
    run(folder / "bin/pip", "install", "-q", str(wheel.filename), cwd=folder)
    return folder / "bin"


@pytest.fixture(scope="module")
def server_wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of the service."""
    return build(REPOSITORY, tmp_path_factory.mktemp("server"))


@pytest.fixture(scope="module")
def sdk_wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of the SDK alone."""
    return build(REPOSITORY / "app/sdk", tmp_path_factory.mktemp("sdk"))


def metadata(wheel: zipfile.ZipFile) -> Message:
    """Return the METADATA of a wheel."""
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(wheel.read(name))


def licence(wheel: zipfile.ZipFile) -> str:
    """Return the licence file of a wheel."""
    (name,) = (name for name in wheel.namelist() if ".dist-info/licenses/" in name)
    return wheel.read(name).decode()


def test_the_services_wheel_holds_all_that_it_serves(server_wheel: zipfile.ZipFile) -> None:
    names = set(server_wheel.namelist())
    assert len(names) == len(server_wheel.namelist()), "no file twice"
    tops = {name.split("/")[0] for name in names}
    assert tops == {
        "app",
        "llm_train",
        f"llm_train_api-{PYPROJECT['project']['version']}.dist-info",
    }
    assert {name for name in names if "build_hook" in name or name.startswith("app/sdk/")} == set()
    pages = {p.relative_to(REPOSITORY).as_posix() for p in REPOSITORY.glob("app/docs/**/*.md")}
    hook = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]
    vendor = {
        f"app/web/static/vendor/{package['name']}/{Path(file).name}"
        for package in hook["packages"]
        for file in package["files"]
    }
    assert SDK_FILES | pages | vendor | {"app/py.typed"} <= names
    assert licence(server_wheel) == (REPOSITORY / "app/LICENSE").read_text()
    assert metadata(server_wheel)["License-Expression"] == "Apache-2.0"


def test_the_sdks_wheel_holds_the_sdk_and_needs_nothing(sdk_wheel: zipfile.ZipFile) -> None:
    code = {name for name in sdk_wheel.namelist() if ".dist-info/" not in name}
    assert code == SDK_FILES
    told = metadata(sdk_wheel)
    assert told.get_all("Requires-Dist") is None
    assert told["Requires-Python"] == ">=3.10"
    assert told["License-Expression"] == "Apache-2.0"
    assert licence(sdk_wheel) == (REPOSITORY / "app/LICENSE").read_text()


def test_the_service_installs_and_starts_in_an_empty_folder(
    server_wheel: zipfile.ZipFile, tmp_path: Path
) -> None:
    commands = install(server_wheel, tmp_path / "venv")
    folder = tmp_path / "empty"
    folder.mkdir()
    version = PYPROJECT["project"]["version"]
    assert run(commands / "llm-train", "--version", cwd=folder) == f"llm-train {version}\n"
    assert run(commands / "llm-train", "help", "recipes", cwd=folder).startswith("# ")
    sdl = run(commands / "llm-train", "export-schema", cwd=folder)
    assert sdl == (REPOSITORY / "schema.graphql").read_text()
    port = free_port()
    service = subprocess.Popen([commands / "llm-train", "serve", "--port", str(port)], cwd=folder)
    try:
        for path in ("/healthz", "/docs", "/guide/recipes"):
            assert fetch(f"http://127.0.0.1:{port}{path}") == 200
    finally:
        service.terminate()
        service.wait(60)


def fetch(url: str) -> int:
    """Return the status of a page, once the service listens."""
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(url, timeout=10) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def pythons() -> list[str]:
    """Return this Python, and the oldest that the SDK promises, where it is installed."""
    oldest = shutil.which(os.environ.get("PYTHON_3_10", "python3.10"))
    works = oldest and subprocess.run([oldest, "-c", ""], capture_output=True).returncode == 0
    return [sys.executable, *([oldest] if oldest and works else [])]


@pytest.mark.parametrize("python", pythons())
def test_the_sdk_works_beside_a_users_own_app(
    sdk_wheel: zipfile.ZipFile, tmp_path: Path, python: str
) -> None:
    """A training folder often has an app.py; nothing of the SDK may take it for the service's."""
    commands = install(sdk_wheel, tmp_path / "venv", python)
    folder = tmp_path / "training"
    folder.mkdir()
    (folder / "app.py").write_text("NAME = 'the app of the user'\n")
    (folder / "train.py").write_text(
        "import app\n"
        "from llm_train import Reporter\n"
        "with Reporter.from_env(checkpoint_dir='saved') as reporter:\n"
        "    reporter.log(1, {'loss': 0.5}, total_steps=1)\n"
        "    with reporter.checkpoint(1) as directory:\n"
        "        (directory / 'model').write_text('weights')\n"
        "    reporter.finish()\n"
        "print(app.NAME)\n"
    )
    assert run(commands / "python", "train.py", cwd=folder) == "the app of the user\n"
    assert (folder / "saved/step-000001/model").is_file()
