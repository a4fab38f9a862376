"""One attempt, from the claim to the exit record.

    claim → start the trainer → wait for its end, a stop or a kill → end leftovers → record

It needs no service between its claim and its exit record. `command` gives the command line that
starts the agent; the trainer and its processes are in `process.py`.
"""

import json
import os
import signal
import sys
import threading
import time

from . import detached, placeholders, process
from .directory import DirectoryMailbox
from .mailbox import ExitRecord, LaunchConfig, Mailbox, now
from .process import KILL, STOP

PULSE_SECONDS = 2.0
LOG_SECONDS = 0.25
FINISH_SECONDS = 3600.0
"""For so long the exit record is tried again: a disk may be full, or the service away."""
OOM_SECONDS = 60.0
"""A kill for memory explains the end of a trainer for so long."""
STOPPED = "Stopped before the trainer began."

_BOOT = "import sys; sys.path.append(sys.argv[1]); from agent.main import main; main(sys.argv[2:])"


def command(*arguments: str, python: str = sys.executable) -> list[str]:
    """Return the command line that runs this agent from its source, whatever is installed there."""
    source = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return [python, "-I", "-S", "-X", "utf8", "-c", _BOOT, source, *arguments]


def main(arguments: list[str]) -> None:
    """Run one attempt.

    `directory RUN_DIR ATTEMPT`, with the launch config as JSON on stdin; or `http API_URL RUN_ID
    ATTEMPT DIRECTORY [PREFIX…]`, with the claim code on stdin or in LLM_TRAIN_CLAIM_CODE. DIRECTORY
    is this machine's, and the attempt's own. PREFIX starts a command on each of several nodes.
    `detached` before either: as no descendant of this process, which passes SIGTERM on.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    kind, *where = arguments
    if kind == "detached":
        detached.leave()
        kind, *where = where
    if kind == "http":
        # Half of what there is to load: a trainer on the service's own machine would wait for it.
        from .http import HttpMailbox
        from .node import GangMailbox

        code = os.environ.pop("LLM_TRAIN_CLAIM_CODE", "") or sys.stdin.readline().strip()
        os.dup2(os.open(os.devnull, os.O_RDWR), 0)
        api_url, run_id, attempt, directory, *prefix = where
        own = api_url, run_id, int(attempt), code, directory
        mailbox = GangMailbox(prefix, sys.path[0], *own) if prefix else HttpMailbox(*own)
        run(mailbox)
        mailbox.close()
        return
    run_dir, attempt = where
    text = sys.stdin.buffer.read()
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    if text:  # else the service died before it gave one
        config: LaunchConfig = json.loads(text)
        _failpoint(config, "agent.started")
        run(DirectoryMailbox(run_dir, int(attempt), config))


def run(mailbox: Mailbox) -> None:
    """Claim the attempt and carry it out, with all signals blocked. Do nothing if it is taken."""
    signal.signal(signal.SIGCHLD, lambda *_: None)  # BSDs drop a blocked signal that is ignored
    began = time.monotonic()
    config = mailbox.claim()
    if config is None:
        return
    _failpoint(config, "agent.identity_saved")
    # The service asks for a stop, then looks for our claim; we do it the other way round, so that
    # one of the two always sees the other.
    try:
        order = mailbox.pulse(0.0)
    except OSError:
        order = "go"
    if order != "go":
        record: ExitRecord | None = ExitRecord(ended_at=now(), detail=STOPPED)
    else:
        record = _train(mailbox, config, began)
    if record is not None:
        _finish(mailbox, record)


def _train(mailbox: Mailbox, config: LaunchConfig, began: float) -> ExitRecord | None:
    """Run the trainer until its last descendant has ended; None if the attempt is not ours now."""
    started = ExitRecord(started_at=now(), log_start=os.fstat(mailbox.output).st_size)
    ooms = [process.count_oom_kills()]
    try:
        argv = placeholders.fill_paths(config["argv"], config["env"].get("LLM_TRAIN_RUN_DIR", ""))
        trainer = process.start({**config, "argv": argv}, mailbox.output)
    except process.CannotStart as error:
        return started._replace(detail=str(error), ended_at=now())
    _failpoint(config, "agent.spawned")
    beside = _Background(mailbox, began, ooms, config["grace_seconds"])
    beside.start()  # not earlier: that would delay the trainer
    code, stop_sent, killed = process.wait(
        trainer, config["stop_signal"], config["grace_seconds"], mailbox.begin_stop
    )
    _failpoint(config, "agent.trainer_ended")
    ended = started._replace(
        exit_code=code if code >= 0 else None,
        signal=-code if code < 0 else None,
        stop_sent=stop_sent,
        killed=killed,
        oom=code != 0 and not killed and process.count_oom_kills() > ooms[0],
        engine_lost=detached.lost.is_set(),
        ended_at=now(),
        detail=process.end_descendants(trainer),
    )
    return None if beside.is_over else ended


class _Background:
    """The threads beside the trainer. A disk or a network that hangs delays neither a signal nor
    the grace, which the main thread sees to."""

    def __init__(
        self, mailbox: Mailbox, began: float, ooms: list[int], grace_seconds: float
    ) -> None:
        self.mailbox, self.began = mailbox, began
        # The last counts of the kernel's kills: those of long ago, which other runs of this
        # control group may have caused, do not explain the end of this one.
        self.ooms, self.kept = ooms, int((OOM_SECONDS + grace_seconds) / PULSE_SECONDS)
        self.is_over = False

    def start(self) -> None:
        """Start the threads; without them the trainer runs all the same."""
        try:
            self.mailbox.prepare_finish()
            for work in (self._pulse, self._log):
                threading.Thread(target=work, daemon=True).start()
        except RuntimeError:
            return  # no more threads; signals from this machine still end the trainer

    def _pulse(self) -> None:
        last_order = "go"
        while True:
            time.sleep(PULSE_SECONDS)
            self.ooms.append(process.count_oom_kills())
            del self.ooms[: -self.kept]
            try:
                order = self.mailbox.pulse(time.monotonic() - self.began)
            except OSError:
                continue  # such as a full disk or a service that is away
            if order not in ("go", last_order):
                last_order = order
                self.is_over = order == "over"
                os.kill(os.getpid(), STOP if order == "stop" else KILL)

    def _log(self) -> None:
        while True:
            time.sleep(LOG_SECONDS)
            try:
                self.mailbox.log()
            except OSError:
                continue  # such as a full disk: it is tried again


def _finish(mailbox: Mailbox, record: ExitRecord) -> None:
    """Deliver the rest of the output and the exit record, for as long as FINISH_SECONDS."""
    deadline = time.monotonic() + FINISH_SECONDS
    while True:
        try:
            return mailbox.finish(record)
        except FileNotFoundError:
            return  # somebody deleted the run
        except OSError:
            if time.monotonic() > deadline:
                return
        time.sleep(1)


def _failpoint(config: LaunchConfig, name: str) -> None:
    action = config["failpoints"].get(name, "")
    if action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while action.startswith("wait:") and not os.path.exists(action[5:]):
        time.sleep(0.005)
