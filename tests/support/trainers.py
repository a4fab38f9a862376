"""Small real trainers that behave well or badly: `python -m tests.support.trainers NAME`.

obedient              trains; asked to stop, saves the promised checkpoint and returns
finishes              trains to its end, saves, says so
exits_zero_halfway    asked to stop, exits 0 and has saved nothing
ignores_term          goes on training whatever it is asked
spawns_grandchild     as ignores_term, beside a daemon in a session of its own that ignores all
                      signals it can; the daemon's pid stands in grandchild.pid in the run directory
crashes               exits 3 halfway
oom_like              SIGKILLs itself halfway, as the kernel would
silent                works through its steps, exits 0, and never says a word to the service
hangs_before_first_report   announces itself in its log and gets no further
vandal                trains; at step 3 does what its hyperparameter `deed` says, in Python; `run`,
                      `attempt` and `saved` are the directories of its run, attempt, checkpoints

They read `steps` (default 20), `step_seconds` (0.05) and `checkpoint_every` (10) from the spec's
hyperparams, and the `value` of their only parameter survives in the checkpoint: a resumed trainer
goes on from it, so the loss at a step is the same however often it was interrupted. Each start is
a line, `attempt pid`, of launches.txt in the run directory.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from llm_train import Reporter

NAMES = (
    "obedient",
    "finishes",
    "exits_zero_halfway",
    "ignores_term",
    "spawns_grandchild",
    "crashes",
    "oom_like",
    "silent",
    "hangs_before_first_report",
    "vandal",
)


def argv(name: str) -> list[str]:
    """The command that runs one of them from the repository's root."""
    assert name in NAMES
    return [sys.executable, "-m", "tests.support.trainers", name]


def main(name: str) -> None:
    if run_dir := os.environ.get("LLM_TRAIN_RUN_DIR"):
        with (Path(run_dir) / "launches.txt").open("a") as ledger:
            ledger.write(f"{os.environ['LLM_TRAIN_ATTEMPT']} {os.getpid()}\n")
    if path := os.environ.get("TRAINERS_LEDGER"):  # on a machine whose run directory is its own
        with Path(path).open("a") as starts:
            starts.write(f"{os.environ['LLM_TRAIN_RUN_ID']} {os.environ['LLM_TRAIN_ATTEMPT']}\n")
    if name == "hangs_before_first_report":
        say(f"pid {os.getpid()} hangs")
        wait_for_ever()
    if name == "silent":
        for variable in ("LLM_TRAIN_API_URL", "LLM_TRAIN_RUN_TOKEN"):
            os.environ.pop(variable, None)
    reporter = Reporter.from_env()
    if name in ("ignores_term", "spawns_grandchild"):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
    if name == "spawns_grandchild":
        spawn_daemon(Path(os.environ["LLM_TRAIN_RUN_DIR"]) / "grandchild.pid")
    train(name, reporter)


def train(name: str, reporter: Reporter) -> None:
    hyperparams = reporter.hyperparams
    steps = int(hyperparams.get("steps", 20))
    step_seconds = float(hyperparams.get("step_seconds", 0.05))
    checkpoint_every = int(hyperparams.get("checkpoint_every", 10))

    first, value = 0, 1.0
    if reporter.resume_path:
        state = json.loads((reporter.resume_path / "state.json").read_text())
        first, value = state["step"], state["value"]
    reporter.effective(steps=steps, step_seconds=step_seconds, checkpoint_every=checkpoint_every)
    for step in range(first + 1, steps + 1):
        time.sleep(step_seconds)
        value *= 0.99
        reporter.log(step, total_steps=steps, loss=value)
        say(f"step {step}/{steps} loss {value:.6f}")
        stopping = reporter.should_stop and name not in ("ignores_term", "spawns_grandchild")
        if name == "exits_zero_halfway" and stopping:
            sys.exit(0)
        if name == "vandal" and step == 3:
            vandalize(hyperparams["deed"])
        if name == "crashes" and step >= steps // 2:
            sys.exit(3)
        if name == "oom_like" and step >= steps // 2:
            os.kill(os.getpid(), signal.SIGKILL)
        if stopping or step == steps or step % checkpoint_every == 0:
            with reporter.checkpoint(step, None if stopping else f"step-{step:06d}") as directory:
                (directory / "state.json").write_text(json.dumps({"step": step, "value": value}))
        if stopping and step < steps:
            return
    reporter.finish()


def vandalize(deed: str) -> None:
    run = Path(os.environ["LLM_TRAIN_RUN_DIR"])
    spec = json.loads((run / "spec.json").read_text())
    attempt = run / f"attempt-{os.environ['LLM_TRAIN_ATTEMPT']}"
    saved = run.parent.parent / "ckpts" / spec["experiment_id"] / run.name
    exec(deed, {"os": os, "sys": sys, "run": run, "attempt": attempt, "saved": saved})


def spawn_daemon(pid_file: Path) -> None:
    """The classic double fork; returns once the daemon ignores signals and its pid is on disk."""
    ready, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        pid_file.write_text(str(os.getpid()))
        os.write(writing, b"1")
        wait_for_ever()
    os.waitpid(child, 0)
    os.read(ready, 1)


def wait_for_ever() -> NoReturn:
    while True:
        time.sleep(60)


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
