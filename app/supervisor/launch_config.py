"""A launch, built purely: the job for the launcher and the spec for the trainer."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app import tracing
from app.agent.mailbox import LaunchConfig
from app.db.sql import load
from app.db.tables import Run
from app.domain import paths
from app.domain.lifecycle import CheckpointState as State
from app.domain.priority import Priority
from app.domain.recipes import Recipe, build_environment, with_tracking
from app.domain.resources import Allocation
from app.domain.tokens import attempt_token, claim_code, run_token
from app.launchers.base import DirectoryMailboxAddress, HttpMailboxAddress, Job
from app.services import launches
from app.services.launches import Source
from app.services.live_runs import AnyRun
from app.storage import files
from app.supervisor.state import SupervisorState, key_of


def build_local_job(
    state: SupervisorState, run: AnyRun, recipe: Recipe, hyperparams: dict[str, Any]
) -> Job:
    """Return the job of an attempt whose agent shares the service's files. Raises BadArgument."""
    run_dir = state.run_dir(run.id)
    allocation = Allocation(gpus=tuple(load(run.gpus)), host=run.host)
    own = {
        "LLM_TRAIN_API_URL": state.api_url,
        "LLM_TRAIN_RUN_ID": run.id,
        "LLM_TRAIN_RUN_TOKEN": run_token(state.secret, run.id),
        "LLM_TRAIN_ATTEMPT": str(run.attempt),
        "LLM_TRAIN_RUN_DIR": str(run_dir),
        "PYTHONUNBUFFERED": "1",  # what a trainer prints is read while it trains
        # Also where none was asked for: a run must not use GPUs that nobody counted.
        **allocation.environment(),
        **tracing.environment(),
    }
    environment = build_environment(recipe, state.settings.environment, own)
    token = attempt_token(state.secret, run.id, run.attempt)
    # Else torchrun kills its workers 30 s after the stop signal, whatever the grace of the recipe.
    patience = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(math.ceil(recipe.grace_seconds))}
    assert run.nonce is not None
    config: LaunchConfig = {
        "argv": list(recipe.argv(state.settings.python, hyperparams)),
        "env": patience | with_tracking(environment, state.api_url, run.id, token),
        "cwd": str(recipe.working_dir) if recipe.working_dir else None,
        "nonce": run.nonce,
        "stop_signal": int(recipe.stop_signal or 0),
        "grace_seconds": recipe.grace_seconds,
        "max_log_bytes": recipe.max_log_mb << 20,
        "failpoints": {},
    }
    mailbox = DirectoryMailboxAddress(run_dir)
    return Job(key_of(run), state.resources(run), allocation, mailbox, config)


def build_remote_job(state: SupervisorState, run: AnyRun, avoid: tuple[str, ...] = ()) -> Job:
    """Return the job of an attempt whose agent asks the service over HTTP for all it needs."""
    code = claim_code(state.secret, run.id, run.attempt)
    mailbox = HttpMailboxAddress(state.settings.public_url or state.api_url, code)
    priority = Priority.of_rank(run.priority)
    return Job(key_of(run), state.resources(run), None, mailbox, None, priority, avoid)


def build_remote_spec(
    state: SupervisorState, run: Run, recipe: Recipe, source: Source | None
) -> dict[str, Any]:
    """Return the spec of the next attempt for a trainer whose agent has its mailbox over HTTP.

    Without shared files that one fetches and uploads checkpoints, and knows where.
    """
    content = build_spec(state, run, recipe, (), source)
    if state.launcher(run).shares_files:
        return content
    content |= {"files": "http"}
    del content["checkpoint_dir"]
    if content["resume"] is not None:
        del content["resume"]["path"]
    return content


def build_spec(
    state: SupervisorState, run: Run, recipe: Recipe, gpus: Sequence[str], source: Source | None
) -> dict[str, Any]:
    """Return what the trainer of the run's next attempt must do, and from which checkpoint."""
    if source is not None and source.stored.state != State.READY:
        source = None
    attempt = run.attempt + 1
    return {
        **launches.make_spec(run, source, state.storage),
        "attempt": attempt,
        "gpus": list(gpus),
        "stop_checkpoint": paths.stop_name(attempt),
        "heartbeat_seconds": recipe.heartbeat_seconds,
    }


def write_spec(run_dir: Path, content: dict[str, Any]) -> None:
    """Put spec.json into the run's directory, whole or not at all."""
    with files.directory(run_dir.parent, run_dir.name, make=True) as folder:
        files.write(folder, "spec.json", json.dumps(content, indent=1).encode())


def write_address(state: SupervisorState, run_id: str) -> bool:
    """Record this server's address for a trainer that another server launched.

    Returns False if the run has no directory, as its trainer has removed or replaced it.
    """
    run_dir = state.run_dir(run_id)
    try:
        with files.directory(run_dir.parent, run_dir.name) as folder:
            files.write(folder, "api_url", state.api_url.encode())
    except (files.Unusable, FileNotFoundError):
        return False
    return True
