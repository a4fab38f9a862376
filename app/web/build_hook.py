"""Build hook: brings the web pages' third-party files into `app/web/static/vendor`.

Hatchling runs it for `pip install .` and `pip install -e .`, so the dashboard, /graphql and /docs
need no internet when the service runs. pyproject.toml pins each npm package by its hash; Node is
not needed. A registry that cannot be reached costs only the pages: the install succeeds, and they
say what to do. Not part of the installed package.
"""

import json
import os
import shutil
import socket
import tempfile
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import Any

from hatch_npm_vendor.plugin import DEFAULT_REGISTRY  # type: ignore[import-untyped]
from hatch_npm_vendor.vendor import vendor_package  # type: ignore[import-untyped]
from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

VENDOR = Path("app", "web", "static", "vendor")


class WebFiles(BuildHookInterface[BuilderConfig]):
    """Fetches the packages that the hook's configuration pins, once per set of pins.

    Each has `name`, `version`, `integrity` and `files`, and lands as `vendor/{name}/{file}` with
    its licence. A package whose hash differs from its pin fails the build.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        packages, vendor = self.config["packages"], Path(self.root, VENDOR)
        pins, stamp = json.dumps(packages, indent=1), vendor / "pins.json"
        if stamp.is_file() and stamp.read_text() == pins:
            return
        with tempfile.TemporaryDirectory() as scratch:
            fetched = Path(scratch, "vendor")
            try:
                for package in packages:
                    _fetch(package, Path(scratch, "package"), fetched)
            except (OSError, HTTPException, ValueError) as error:
                self.app.display_warning(
                    "The dashboard, GraphiQL and /docs will be missing: "
                    f"{package['name']} could not be fetched ({error}). "
                    "Install again where an npm registry answers."
                )
                return
            (fetched / stamp.name).write_text(pins)
            shutil.rmtree(vendor, ignore_errors=True)
            shutil.move(fetched, vendor)


def _fetch(package: dict[str, Any], scratch: Path, vendor: Path) -> None:
    """Verify and unpack one npm package, and keep only the files that the pages load."""
    name = package["name"]
    socket.setdefaulttimeout(30)  # a firewall that drops packets must not hang an install
    vendor_package(
        scratch, name, package["version"], package["integrity"], registry=registry(os.environ)
    )
    target = vendor / name
    target.mkdir(parents=True)
    for file in [*package["files"], *(path.name for path in scratch.glob("LICENSE*"))]:
        shutil.copyfile(scratch / file, target / PurePosixPath(file).name)


def registry(environ: Mapping[str, str]) -> str:
    """Return the npm registry that the user configured: npm's environment, then ~/.npmrc."""
    settings = {name.lower(): value for name, value in environ.items()}
    if configured := settings.get("npm_config_registry"):
        return configured
    npmrc = Path(settings.get("npm_config_userconfig") or Path.home() / ".npmrc")
    lines = npmrc.read_text().splitlines() if npmrc.is_file() else []
    entries = (line.partition("=") for line in lines)
    configured = {key.strip(): value.strip(" \"'") for key, _, value in entries}.get("registry")
    return os.path.expandvars(configured) if configured else str(DEFAULT_REGISTRY)
