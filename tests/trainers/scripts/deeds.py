"""What a trainer of the truth table does on command, by the hyperparameter `deed`.

`after_step` is called by each training loop; rank 0 acts, or the last rank where there are several.
"""

import atexit
import os
import sys
import time
from contextlib import suppress
from pathlib import Path

from llm_train import Reporter

AT = 5


def has_gloo() -> bool:
    """Return True if gloo has threads in this process."""
    names = []
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # another one that has ended by now
            names.append((thread / "comm").read_text())
    return any(name.startswith("pt_gloo") for name in names)


def print_line(text: str) -> None:
    """Print in one write: ranks share the output, and with PYTHONUNBUFFERED print makes two."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


# Runs after what is registered later.
atexit.register(lambda: print_line(f"at its end {has_gloo()}"))


def after_step(step: int) -> None:
    """Do the deed of this run, if it is due."""
    hyperparams = Reporter.from_env().hyperparams
    if hyperparams.get("max_steps", 0) > 1000:
        time.sleep(0.05)  # it goes on until it is ended: the others may have the processor
    do(hyperparams.get("deed"), step)


def do(deed: object, step: int) -> None:
    """Do a deed, if it is due at this step."""
    last = int(os.environ.get("WORLD_SIZE", "1")) - 1
    if step != AT or deed is None or int(os.environ.get("RANK", "0")) != last:
        return
    run_dir = Path(os.environ["LLM_TRAIN_RUN_DIR"])
    (run_dir / "deed.pid").write_text(str(os.getpid()))
    if deed == "crash once" and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
        raise RuntimeError("a crash that a restart cures")
    if deed == "exit":
        os._exit(0)  # as if something in it called sys.exit(0) and nobody noticed
    if deed == "oom":
        while not (run_dir / "go").exists():  # until the test has limited its memory
            time.sleep(0.01)
        taken = [bytearray(os.urandom(1 << 20) * 16) for _ in range(200)]
        raise AssertionError(f"{len(taken)} pieces of 16 MiB are there")


def prepare() -> None:
    """Prepare data for longer than anybody waits, if that is the deed of this run."""
    if Reporter.from_env().hyperparams.get("deed") == "prepare":
        (Path(os.environ["LLM_TRAIN_RUN_DIR"]) / "deed.pid").write_text(str(os.getpid()))
        time.sleep(600)


def spoil(loss, step: int):  # type: ignore[no-untyped-def]
    """Return the loss, as NaN from the step of the deed on if that is `nan`."""
    nan = Reporter.from_env().hyperparams.get("deed") == "nan" and step >= AT
    return loss * float("nan") if nan else loss
