"""The agent out of reach of an engine that signals every descendant of a job to stop it, as Ray.

    the job's process → (double fork) → the agent, in a session of its own

The job's process passes SIGTERM on to the agent, which sends it to the trainer alone, and ends when
the agent has. If it is killed (with its node's daemon, say), the agent stops the trainer as well.
"""

import json
import os
import signal
import threading

from .process import STOP

_JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
_CLAIM_CODE = "LLM_TRAIN_CLAIM_CODE"


lost = threading.Event()
"""The job's process was killed."""


def leave() -> None:
    """Return in a new process that is nobody's descendant; this one waits for it and exits."""
    alive, keep = os.pipe()  # the agent's end is readable when the job's process is gone
    done, working = os.pipe()  # the other way round
    if os.fork():
        os.close(alive)
        os.close(working)
        _wait(done)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.close(keep)
    os.close(done)
    os.write(working, b"%d\n" % os.getpid())
    _forget_code()
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    threading.Thread(target=_watch, args=(alive,), daemon=True).start()


def _wait(done: int) -> None:
    """Pass signals on until the agent has ended; then exit."""
    os.wait()  # for the process between
    first = os.read(done, 32)
    agent = int(first) if first else 0
    try:
        handle = os.pidfd_open(agent)
    except (AttributeError, OSError):
        handle = -1  # an old kernel, or it has ended

    def pass_on(*_: object) -> None:
        if handle >= 0:
            signal.pidfd_send_signal(handle, STOP)

    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    while os.read(done, 32):
        continue
    os._exit(0)


def _watch(alive: int) -> None:
    os.read(alive, 1)
    lost.set()
    os.kill(os.getpid(), STOP)


def _forget_code() -> None:
    """Take the claim code out of what Ray hands on to the drivers of this job."""
    try:
        config = json.loads(os.environ[_JOB_CONFIG])
        del config["runtime_env"]["env_vars"][_CLAIM_CODE]
    except (KeyError, TypeError, ValueError):
        return
    os.environ[_JOB_CONFIG] = json.dumps(config)
