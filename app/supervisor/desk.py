"""What the duties share: the database, the launcher, and the little they remember."""

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from app.domain.recipes import Recipe
from app.domain.resources import Resources
from app.launchers.base import Launcher
from app.settings import Settings
from app.store.database import Database
from app.store.sql import load
from app.store.tables import Run

Attempt = tuple[str, int]


@dataclass
class Desk:
    """All of it can be forgotten: a restarted server reads the rest from database and disk."""

    db: Database
    settings: Settings
    recipes: Mapping[str, Recipe]
    secret: str
    launcher: Launcher
    api_url: str
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    # Monotonic time since when this server leads: silence before that is not a trainer's fault.
    leading_since: float | None = None
    launched_at: dict[Attempt, float] = field(default_factory=dict)
    stopped: set[Attempt] = field(default_factory=set)
    watched: dict[Attempt, int] = field(default_factory=dict)
    tidied_at: float = float("-inf")

    def lead(self, leads: bool) -> None:
        """Notes when leadership began; forgets everything when it ended."""
        if leads and self.leading_since is None:
            self.leading_since = time.monotonic()
        elif not leads and self.leading_since is not None:
            self.leading_since = None
            self.close()

    def close(self) -> None:
        """Lets go of every descriptor."""
        for attempt in list(self.watched):
            self.unwatch(attempt)
        self.launched_at.clear()
        self.stopped.clear()

    def watch(self, attempt: Attempt) -> None:
        """Wakes the loop when this attempt's process ends, where the system can tell."""
        if attempt in self.watched:
            return
        descriptor = self.launcher.exit_fd(self.run_dir(attempt[0]), attempt[1])
        if descriptor is not None:
            self.watched[attempt] = descriptor
            loop = asyncio.get_running_loop()

            def ended() -> None:
                loop.remove_reader(descriptor)  # readable for ever from now on
                self.woken.set()

            loop.add_reader(descriptor, ended)

    def unwatch(self, attempt: Attempt) -> None:
        """Forgets an attempt that is over."""
        self.launched_at.pop(attempt, None)
        self.stopped.discard(attempt)
        descriptor = self.watched.pop(attempt, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)

    def run_dir(self, run_id: str) -> Path:
        """The run's directory, absolute."""
        return (self.settings.data_dir / "runs" / run_id).absolute()

    def checkpoint_dir(self, ckpt_path: str) -> Path:
        """Where the files of a logical path lie (`ckpt_path` is one that was parsed)."""
        return (self.settings.data_dir / ckpt_path.lstrip("/")).absolute()

    def recipe(self, run: Run) -> Recipe | None:
        """The run's recipe, if the operator still configures it."""
        return self.recipes.get(run.recipe or "")

    def resources(self, run: Run) -> Resources:
        """What the run asked for, else what its recipe needs."""
        asked = load(run.resources)
        if asked:
            return Resources.from_dict(asked)
        recipe = self.recipe(run)
        return recipe.resources if recipe else Resources()
