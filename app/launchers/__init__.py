"""Launchers of trainers: the contract (base.py), this machine (local/), Slurm, Ray, and others by
entry point.

A launcher is found by its kind: the built-in ones, and those of the entry point group GROUP.
`base.py` says how to add one.
"""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, cast

from app.domain.recipes import LauncherTable, RecipeError
from app.launchers.base import Launcher, LauncherContext
from app.launchers.options import check_names

GROUP = "llm_train.launchers"
BUILT_IN = {
    "local": "app.launchers.local.launcher:LocalLauncher",
    "slurm": "app.launchers.slurm.launcher:SlurmLauncher",
    "ray": "app.launchers.ray.launcher:RayLauncher",
}


def make_launcher(table: LauncherTable, context: LauncherContext) -> Launcher:
    """Make the launcher of one table. Raises RecipeError for an unknown kind or a bad option."""
    make = _find(table.kind)
    if make is None:
        known = sorted(
            {*BUILT_IN, *(entry_point.name for entry_point in entry_points(group=GROUP))}
        )
        raise RecipeError(
            f"[launchers.{table.name}] kind: {table.kind!r} is unknown; there are: "
            f"{', '.join(known)}."
        )
    try:
        check_names(make, table.options)
        return cast(Launcher, make(context=context, name=table.name, **table.options))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"[launchers.{table.name}] {error}.") from error


def _find(kind: str) -> Any:
    if kind in BUILT_IN:
        module, _, attribute = BUILT_IN[kind].partition(":")
        return getattr(import_module(module), attribute)
    for entry_point in entry_points(group=GROUP, name=kind):
        return entry_point.load()
    return None
