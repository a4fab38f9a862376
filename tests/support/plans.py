"""One attempt at a run, as the contract suites of launchers plan it.

Processes that only launch one import this, and nothing of a service's: `launchers` would cost each
a second.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from app.agent.mailbox import LaunchConfig
from app.domain.resources import Resources
from app.launchers.base import DirectoryMailboxAddress, Job, Key

GRACE = 0.6
RUN = "run_1"


@dataclass(frozen=True)
class Plan:
    """One attempt, before it is a job."""

    attempt: int
    argv: tuple[str, ...]
    env: Mapping[str, str]
    nonce: str
    cwd: Path | None = None
    stop_signal: int = signal.SIGTERM
    grace_seconds: float = GRACE
    max_log_bytes: int = 256 << 20

    def job(self, data_dir: Path) -> Job:
        config: LaunchConfig = {
            "argv": list(self.argv),
            "env": dict(self.env),
            "cwd": None if self.cwd is None else str(self.cwd),
            "nonce": self.nonce,
            "stop_signal": int(self.stop_signal),
            "grace_seconds": self.grace_seconds,
            "max_log_bytes": self.max_log_bytes,
            "failpoints": {},
        }
        mailbox = DirectoryMailboxAddress(data_dir / "runs" / RUN)
        return Job(Key(RUN, self.attempt), Resources(), None, mailbox, config)
