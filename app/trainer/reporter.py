"""Reporter: what a training loop says to the service, in three lines, and can do without.

    reporter = Reporter.from_env()
    reporter.log(step, total_steps, loss=loss)
    reporter.finish()

The training thread only appends to a buffer; what happens to it then (courier.py, delivery.py)
never reaches the training. A server that is away costs nothing but the delay.

Ranks: only rank 0 reports (ranks.py). The others see the same spec, hyperparameters and stop
signals, and stay silent. Ranks can notice a stop at different steps: broadcast rank 0's
`should_stop`. Reading a GPU tensor's value waits for the GPU, so log such metrics every few steps.
"""

import atexit
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsIndex

from app.trainer import checkpoint, specs
from app.trainer.buffer import read_count, read_points, warn
from app.trainer.courier import HEARTBEAT_SECONDS, Courier
from app.trainer.delivery import Link
from app.trainer.ranks import is_rank_0
from app.trainer.stopping import StopRequest

MAX_EFFECTIVE_BYTES = 60_000
CLOSE_SECONDS = 5.0

_current: "Reporter | None" = None


class Reporter:
    """Reports one attempt of one run. All methods may be called from any thread.

    Without `api_url`, `run_id` and `token` it says nothing, and still commits checkpoints. A
    trainer that the service launched has an `attempt` and a `run_dir`: what is undelivered lies in
    `attempt-N/reports.jsonl` there. For one that attaches by itself memory holds the newest
    100,000 points, starting it again makes a new attempt, and the service is asked for the spec.
    Its checkpoints go to `checkpoint_dir`; if None, to where the service verifies them when both
    have the same files, and to `checkpoints/RUN_ID` when not, or when that is not known yet.
    """

    def __init__(
        self,
        *,
        api_url: str = "",
        run_id: str = "",
        token: str = "",
        attempt: int | None = None,
        run_dir: Path | str | None = None,
        checkpoint_dir: Path | str | None = None,
    ) -> None:
        """Raises ValueError for a URL, id, token or spec.json that cannot be one."""
        identity: dict[str, Any] = {"attempt": attempt}
        if attempt is None:
            identity = {"session": secrets.token_hex(16)}
        attempt_dir = Path(run_dir) / f"attempt-{attempt}" if run_dir and attempt else None
        self._spec = specs.read(Path(run_dir)) if run_dir else {}
        self._own_dir = Path(checkpoint_dir) if checkpoint_dir else None
        self._run_id = run_id
        served = bool(api_url and run_id and token)
        self._asked = specs.Asked(api_url, run_id, token) if served and not run_dir else None
        self._shares = False
        self._stop = StopRequest(
            str(self._spec.get("stop_checkpoint") or f"cancel-{attempt or 1}"),
            attempt_dir and attempt_dir / "stop.json",
        )
        self._stop_checkpoint_used = False
        self._rank_0 = is_rank_0()
        self._effective: dict[str, Any] = {}
        self._courier: Courier | None = None
        self._launched = attempt is not None
        if served and self._rank_0:
            link = Link(api_url, f"/v1/runs/{run_id}/reports", token)
            address = Path(run_dir) / "api_url" if run_dir else None
            heartbeat = _heartbeat(self._spec)
            courier = Courier(self._stop, link, identity, attempt_dir, address, heartbeat)
            if courier.open:
                self._courier = courier
                atexit.register(self.close)
        os.register_at_fork(after_in_child=self._after_fork)

    @classmethod
    def from_env(cls, checkpoint_dir: Path | str | None = None) -> Self:
        """The reporter of this process as LLM_TRAIN_* describes it; until closed, the same one.

        In the main thread it also makes SIGTERM and SIGINT set `should_stop`; a second SIGINT
        acts as it did before. Without LLM_TRAIN_RUN_ID it says nothing and handles no signals.
        """
        global _current
        if isinstance(_current, cls):
            return _current
        env = {
            name: os.environ.get(f"LLM_TRAIN_{name}", "")
            for name in ("API_URL", "RUN_ID", "RUN_TOKEN", "ATTEMPT", "RUN_DIR")
        }
        missing = [f"LLM_TRAIN_{name}" for name in ("API_URL", "RUN_TOKEN") if not env[name]]
        if env["RUN_ID"] and missing:
            warn(f"LLM_TRAIN_RUN_ID is set, {' and '.join(missing)} not: nothing is reported")
        reporter = cls(
            api_url=env["API_URL"],
            run_id=env["RUN_ID"],
            token=env["RUN_TOKEN"],
            attempt=int(env["ATTEMPT"]) if env["ATTEMPT"] else None,
            run_dir=env["RUN_DIR"] or None,
            checkpoint_dir=checkpoint_dir,
        )
        if reporter._courier or (env["RUN_ID"] and not reporter._rank_0):
            reporter._stop.listen()
        _current = reporter
        return reporter

    @property
    def spec(self) -> dict[str, Any]:
        """What the run shall do: `hyperparams`, `model`, `dataset`, `resume` and so on.

        Empty without the service. Raises ConnectionError or PermissionError when a trainer that
        attaches by itself cannot learn it.
        """
        return self._asked.get() if self._asked else self._spec

    @property
    def hyperparams(self) -> dict[str, Any]:
        """The hyperparameters that the run was submitted with. Raises like `spec`."""
        return dict(self.spec.get("hyperparams") or {})

    @property
    def resume_path(self) -> Path | None:
        """The directory of the checkpoint to start from, or None to start afresh.

        Raises like `spec`, and FileNotFoundError when the checkpoint is not on this machine.
        """
        resume = self.spec.get("resume")
        if not resume:
            return None
        path = Path(resume["path"])
        if self._asked and not (specs.shared(self.spec) and path.is_dir()):
            raise FileNotFoundError(
                f"the run goes on from {resume['ckpt_path']}, step {resume['step']}, which is not "
                "on this machine: mount the service's DATA_DIR, or load your own copy"
            )
        return path

    @property
    def checkpoint_dir(self) -> Path:
        """Where checkpoints are committed, by what is known when it is first asked for.

        Raises nothing and waits for nobody: work is saved somewhere at least.
        """
        if self._asked is None:
            return Path(self._spec.get("checkpoint_dir") or self._own_dir or "checkpoints")
        if self._own_dir is None:
            verified = specs.verified_dir(self._asked.known())
            self._own_dir = verified or Path("checkpoints", self._run_id)
            self._shares = verified is not None
        return self._own_dir

    @property
    def should_stop(self) -> bool:
        """True once a stop signal came or the service asked to stop: save and return."""
        return self._stop.asked

    def log(
        self, step: SupportsIndex, total_steps: SupportsIndex | None = None, **metrics: Any
    ) -> None:
        """Report progress and the metrics of one step: numbers, or what holds one (`.item()`).

        Raises ValueError, having taken nothing, when a step or metric is not a number.
        """
        step = read_count("step", step)
        progress = {"step": step}
        if total_steps is not None:
            progress["total_steps"] = read_count("total_steps", total_steps)
        points = read_points(step, metrics)
        if self._courier:
            self._courier.add(points, **progress)

    def effective(self, **hyperparams: Any) -> None:
        """Report the hyperparameters really in use, defaults included: finite JSON values.

        Raises TypeError or ValueError for anything else, and for more than 60,000 bytes of it.
        """
        known = {**self._effective, **json.loads(json.dumps(hyperparams, allow_nan=False))}
        if len(json.dumps(known)) > MAX_EFFECTIVE_BYTES:
            raise ValueError(f"effective hyperparameters exceed {MAX_EFFECTIVE_BYTES} bytes")
        self._effective = known
        if self._courier:
            self._courier.add([], effective_hyperparams=known)

    @contextmanager
    def checkpoint(self, step: SupportsIndex, name: str | None = None) -> Iterator[Path]:
        """Write the files into the directory this yields; leaving the block commits and reports it.

        After a stop request the first checkpoint gets the name that the canceller was promised.
        A block that raises leaves nothing behind. Raises CheckpointError or OSError when the
        checkpoint could not be committed, ValueError for a bad name. Rank 0 only.
        """
        step = read_count("step", step)
        if not self._rank_0:
            raise RuntimeError("call checkpoint() on rank 0 only: it commits one directory")
        promised = name is None and self._stop.asked and not self._stop_checkpoint_used
        if name is None:
            name = self._stop.checkpoint if promised else f"step-{step:06d}"
        temporary = checkpoint.begin(self.checkpoint_dir, name)
        try:
            yield temporary
            directory, manifest = checkpoint.commit(temporary, name, step)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        self._stop_checkpoint_used |= promised
        if self._courier:
            self._courier.announce(
                {
                    "name": directory.name,
                    "step": step,
                    "size_bytes": manifest.size_bytes,
                    "sha256": manifest.sha256,
                    **({"in_data_dir": True} if self._shares else {}),
                }
            )

    def finish(self) -> None:
        """Say that the training reached its own end. Not for a stopped training.

        A process that the service launched is still heard of until it exits: it may have a model
        to export, and one that hangs instead must not be taken for alive.
        """
        if self._courier:
            self._courier.add([], finished=True)
        if self._courier and self._launched:
            self._stop.forget()
            self._courier.deliver(CLOSE_SECONDS)
        else:
            self.close()

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Deliver what is buffered, for at most `timeout` seconds; the rest stays in the spool.

        Runs at exit by itself. What is logged afterwards is dropped, signals act as before.
        """
        global _current
        if _current is self:
            _current = None
        self._stop.forget()
        if self._asked:
            self._asked.close()
        if self._courier:
            self._courier.close(timeout)
            atexit.unregister(self.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _after_fork(self) -> None:
        """A forked child (a DataLoader's worker) reports nothing and dies of SIGTERM as usual."""
        if self._courier:
            self._courier.abandon()
        self._stop.forget()


def _heartbeat(spec: dict[str, Any]) -> float:
    """Seconds between two heartbeats: three for each silence that would be the run's end."""
    allowed = spec.get("heartbeat_seconds")
    if not isinstance(allowed, (int, float)) or allowed <= 0:
        return HEARTBEAT_SECONDS
    return min(HEARTBEAT_SECONDS, allowed / 3)
