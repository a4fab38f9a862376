"""A real trainer that runs the Python of its hyperparameter `script`, as a module of its own.

It finds `reporter`, `here` (a folder of its test, on whatever machine), `os`, `signal`, `sys`,
`time` and `train(steps, seconds)`, which reports, prints and saves every tenth step, and saves and
returns at a stop. Each start is a line, `attempt pid`, of `here/starts`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from llm_train import Reporter


def train(reporter: Reporter, steps: int, seconds: float = 0.02) -> None:
    first = 0
    if reporter.resume_path:
        first = json.loads((reporter.resume_path / "state.json").read_text())["step"]
    for step in range(first + 1, steps + 1):
        time.sleep(seconds)
        reporter.log(step, total_steps=steps, loss=1 / step)
        print(f"step {step}", flush=True)
        stopping = reporter.should_stop
        if stopping or step == steps or step % 10 == 0:
            name = None if stopping else f"step-{step:06d}"
            with reporter.checkpoint(step, name) as directory:
                (directory / "state.json").write_text(json.dumps({"step": step}))
        if stopping and step < steps:
            return
    reporter.finish()


def main() -> None:
    reporter = Reporter.from_env()
    here = Path(str(reporter.hyperparams["here"]))
    with (here / "starts").open("a") as starts:
        starts.write(f"{os.environ['LLM_TRAIN_ATTEMPT']} {os.getpid()}\n")
    exec(
        str(reporter.hyperparams["script"]),
        {
            "reporter": reporter, "here": here, "os": os, "signal": signal, "sys": sys,
            "time": time, "train": lambda *words: train(reporter, *words),
        },
    )  # fmt: skip


if __name__ == "__main__":
    main()
