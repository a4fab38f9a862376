"""Where trainers run, found by name and imported when chosen."""

from importlib import import_module
from typing import Any, cast

from app.launchers.base import RunDirLauncher

LAUNCHERS = {"local": "app.launchers.local.launcher:LocalLauncher"}


def get_launcher(name: str, **options: Any) -> RunDirLauncher:
    """The launcher `name`, made with its own options. Raises KeyError for an unknown name."""
    module, _, attribute = LAUNCHERS[name].partition(":")
    return cast(RunDirLauncher, getattr(import_module(module), attribute)(**options))
