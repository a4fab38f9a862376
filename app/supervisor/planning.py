"""A launch, built purely: the plan for the launcher and the spec for the trainer."""

import json
import os
from pathlib import Path
from typing import Any

from app.domain import paths
from app.domain.recipes import Recipe, build_environment
from app.domain.resources import Allocation
from app.domain.tokens import run_token
from app.launchers.base import LaunchPlan
from app.store.sql import load
from app.store.tables import Checkpoint, Run
from app.supervisor.desk import Desk


def plan(desk: Desk, run: Run, recipe: Recipe) -> LaunchPlan:
    """What the launcher needs to start this attempt."""
    run_dir = desk.run_dir(run.id)
    gpus = load(run.gpus)
    own = {
        "LLM_TRAIN_API_URL": desk.api_url,
        "LLM_TRAIN_RUN_ID": run.id,
        "LLM_TRAIN_RUN_TOKEN": run_token(desk.secret, run.id),
        "LLM_TRAIN_ATTEMPT": str(run.attempt),
        "LLM_TRAIN_RUN_DIR": str(run_dir),
        "PYTHONUNBUFFERED": "1",  # what a trainer prints is read while it trains
    }
    if gpus:
        own |= Allocation(gpus=tuple(gpus)).environment()
    assert run.nonce is not None
    return LaunchPlan(
        run_id=run.id,
        attempt=run.attempt,
        run_dir=run_dir,
        argv=recipe.argv(desk.settings.python),
        env=build_environment(recipe, desk.settings.environment, own),
        cwd=recipe.working_dir,
        nonce=run.nonce,
        stop_signal=int(recipe.stop_signal),
        grace_seconds=recipe.grace_seconds,
    )


def spec(desk: Desk, run: Run, resume: tuple[Checkpoint, Path] | None) -> dict[str, Any]:
    """What the trainer shall do. `resume`: the checkpoint and where its files are."""
    checkpoint_dir = desk.checkpoint_dir(f"/ckpts/{run.experiment_id}/{run.id}")
    return {
        "format": 1,
        "run_id": run.id,
        "experiment_id": run.experiment_id,
        "attempt": run.attempt,
        "recipe": run.recipe,
        "model": run.model,
        "dataset": load(run.dataset),
        "hyperparams": load(run.hyperparams),
        "resources": load(run.resources),
        "notes": run.notes or "",
        "gpus": load(run.gpus),
        "checkpoint_dir": str(checkpoint_dir),
        "stop_checkpoint": paths.stop_name(run.attempt),
        "resume": None
        if resume is None
        else {"ckpt_path": resume[0].ckpt_path, "path": str(resume[1]), "step": resume[0].step},
    }


def write_spec(run_dir: Path, content: dict[str, Any]) -> None:
    """Puts spec.json into the run's directory, whole or not at all."""
    run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = run_dir / ".spec.json.tmp"
    with temporary.open("w") as file:
        json.dump(content, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(run_dir / "spec.json")
