"""Why a run failed, told of real processes that end as launchers and their workers do.

The scripts write what torchrun writes; that was compared with torchrun 2.13.
"""

import asyncio
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from app.db.database import Database
from app.db.tables import Run
from app.domain.recipes import Recipe
from app.services import runs
from app.supervisor import launch_config, schedule
from app.supervisor.reconcile import reconcile
from app.supervisor.state import SupervisorState
from tests.support.database import postgresql_heavy
from tests.support.logs import CRASH, DDP, FOOTER, PEER
from tests.support.server import PATIENCE_SECONDS
from tests.support.stage import Stage
from tests.support.supervisor import TINY, local_launcher, open_state

pytestmark = [pytest.mark.anyio, postgresql_heavy]


def python(script: str) -> tuple[str, ...]:
    return (sys.executable, "-c", textwrap.dedent(script))


async def until_over(state: SupervisorState, stage: Stage, run: Run) -> Run:
    """The supervisor's loop, until a run has ended."""
    began = time.monotonic()
    while (now := await stage.get(run)).finished_at is None:
        assert time.monotonic() - began < PATIENCE_SECONDS, now
        await schedule.launch(state)
        await reconcile(state)
        await asyncio.sleep(0.02)
    return now


async def train(db: Database, data_dir: Path, *command: str, **more: Any) -> Run:
    """A run of this command that was left alone, as it ended."""
    stage, state = await Stage.open(db), open_state(db, data_dir, local_launcher())
    state.recipes = {"tiny": replace(TINY, command=command, heartbeat_seconds=0, **more)}
    try:
        return await until_over(state, stage, await stage.submit())
    finally:
        state.close()


@pytest.mark.parametrize(
    ("written", "cause"),
    [
        (CRASH + PEER + FOOTER.format(code=1), "ValueError: the loss is not finite at step 5"),
        (CRASH + DDP, "ValueError: the loss is not finite at step 5"),
    ],
    ids=["under torchrun", "with a warning of DDP behind it"],
)
async def test_the_error_is_found_before_what_is_written_behind_it(
    db: Database, tmp_path: Path, written: str, cause: str
) -> None:
    script = f"print({written!r}); raise SystemExit(1)"
    ended = await train(db, tmp_path, *python(script))
    assert (ended.status, ended.status_reason) == ("failed", "exit_code")
    assert ended.status_detail == f"Exited with code 1. The last error in its log: {cause}"


async def test_the_error_is_found_in_the_log_of_a_rank_of_this_attempt(
    db: Database, tmp_path: Path
) -> None:
    """`torchrun --log-dir` keeps the ranks' output out of its own. The first attempt crashes
    otherwise than the second."""
    script = f"""
        import os, pathlib
        run = pathlib.Path(os.environ["LLM_TRAIN_RUN_DIR"])
        if os.environ["LLM_TRAIN_ATTEMPT"] == "1":
            print("Traceback (most recent call last):\\n  File 'a'\\nKeyError: 'first'")
            raise SystemExit(1)
        folder = run / "ranks" / "attempt_0" / "1"
        folder.mkdir(parents=True)
        (folder / "stderr.log").write_text({CRASH!r})
        (run / "link.log").symlink_to("/etc/passwd")
        os.mkfifo(run / "pipe.log")
        print("FAILED")
        raise SystemExit(1)
    """
    ended = await train(db, tmp_path, *python(script), max_attempts=2)
    assert ended.attempt == 2
    assert ended.status_detail == (
        "Exited with code 1. The last error in its log: "
        "ValueError: the loss is not finite at step 5"
    )


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("bash", "-c", "bash -c 'kill -9 $$'; exit $?"), 137),
        (python(f"print({PEER + FOOTER.format(code=-9)!r}); raise SystemExit(1)"), 1),
    ],
    ids=["a shell", "torchrun"],
)
async def test_a_launcher_does_not_hide_the_signal_that_ended_its_child(
    db: Database, tmp_path: Path, command: tuple[str, ...], code: int
) -> None:
    ended = await train(db, tmp_path, *command)
    assert (ended.status, ended.status_reason) == ("failed", "signal")
    assert ended.status_detail == (
        f"Exited with code {code}. SIGKILL (9) ended one of its processes."
    )


async def test_of_a_trainer_that_does_not_report_a_stop_from_outside_is_no_success(
    db: Database, tmp_path: Path
) -> None:
    """As Lightning does: it tells of the signal, saves, and exits 0."""
    script = """
        import os, signal, sys
        signal.signal(signal.SIGTERM, lambda *_: (print("Received SIGTERM: 15"), sys.exit(0)))
        os.kill(os.getpid(), signal.SIGTERM)
    """
    ended = await train(db, tmp_path, *python(script), requires_report=False)
    assert (ended.status, ended.status_reason) == ("failed", "unfinished")
    script = "print('trained')"
    ended = await train(db, tmp_path / "2", *python(script), requires_report=False)
    assert ended.status == "succeeded"


IMPATIENT = """
    import os, pathlib, signal, sys, time
    run = pathlib.Path(os.environ["LLM_TRAIN_RUN_DIR"])
    print("grace", os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"], flush=True)
    def stop(*_):
        print("W torch/distributed/elastic/multiprocessing/api.py:1047] "
              "Unable to shutdown process 7 via 15, forcefully exiting via 9", flush=True)
        sys.exit(1)
    signal.signal(signal.SIGTERM, stop)
    (run / "ready").touch()
    time.sleep(60)
"""


async def test_a_launcher_that_killed_its_workers_is_named_where_their_save_is_missed(
    db: Database, tmp_path: Path
) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, local_launcher())
    state.recipes = {"tiny": replace(TINY, command=python(IMPATIENT), grace_seconds=44.5)}
    run = await stage.submit()
    try:
        began = time.monotonic()
        while not (state.run_dir(run.id) / "ready").exists():
            assert time.monotonic() - began < PATIENCE_SECONDS
            await schedule.launch(state)
            await asyncio.sleep(0.02)
        await stage.report(await stage.get(run), batch=1, step=5, total_steps=10)
        await db.write(runs.cancel, run.id)
        ended = await until_over(state, stage, run)
    finally:
        state.close()
    assert ended.status == "cancelled"
    promised = await stage.named(ended, "cancel-1")
    assert promised.reason == (
        "The trainer's launcher killed its workers before they had saved."
        " It was at step 5, and there is no earlier checkpoint."
    )
    assert (state.run_dir(run.id) / "train.log").read_text().startswith("grace 45\n")


async def test_a_recipe_may_tell_torchrun_another_grace(db: Database, tmp_path: Path) -> None:
    stage, state = await Stage.open(db), open_state(db, tmp_path, local_launcher())
    recipe = Recipe("tiny", ("true",), env={"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "7"})
    job = launch_config.build_local_job(state, await stage.run("starting"), recipe, {})
    assert job.config is not None
    assert job.config["env"]["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "7"
