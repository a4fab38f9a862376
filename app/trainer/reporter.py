"""Reporter: what a training loop says to the service, in three lines, and can do without.

    reporter = Reporter.from_env()
    reporter.log(step, total_steps, loss=loss)
    reporter.finish()

The training thread only appends to a buffer. One daemon thread seals the buffer into a numbered
batch about every second and puts it into the spool (see delivery.py); another sends the spool's
batches in order, for as long as it takes. Nothing the network or the server does reaches the
training; a server that is away costs nothing but the delay.

Ranks: only rank 0 reports (RANK unset or 0). The other ranks see the same spec, hyperparameters
and stop signals, and stay silent. Ranks can notice a stop at different steps: broadcast rank 0's
`should_stop`. Reading a GPU tensor's value waits for the GPU, so log such metrics every few steps.
"""

import atexit
import json
import math
import os
import random
import secrets
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self, SupportsIndex

from app.trainer import checkpoint
from app.trainer.buffer import BATCH_POINTS, Buffer, read_count, read_points, warn
from app.trainer.delivery import Link, Reply, Spool
from app.trainer.stopping import StopRequest

MAX_EFFECTIVE_BYTES = 60_000
SEAL_SECONDS = 1.0
HEARTBEAT_SECONDS = 4.0
BACKOFF_SECONDS = 0.25, 5.0  # first and longest pause between two tries
CLOSE_SECONDS = 5.0

_current: "Reporter | None" = None


class Reporter:
    """Reports one attempt of one run. All methods may be called from any thread.

    Without `api_url`, `run_id` and `token` it says nothing, and still commits checkpoints, into
    `checkpoint_dir` unless the spec names another place. A trainer that the service launched has
    an `attempt` and a `run_dir`: what is undelivered lies in `attempt-N/reports.jsonl` there. For
    one that attaches by itself memory holds the newest 100,000 points, and starting it again
    makes a new attempt.
    """

    def __init__(
        self,
        *,
        api_url: str = "",
        run_id: str = "",
        token: str = "",
        attempt: int | None = None,
        run_dir: Path | str | None = None,
        checkpoint_dir: Path | str = "checkpoints",
    ) -> None:
        """Raises ValueError for a URL or a spec.json that cannot be read as one."""
        self._identity: dict[str, Any] = {"attempt": attempt}
        if attempt is None:
            self._identity = {"session": secrets.token_hex(16)}
        attempt_dir = Path(run_dir) / f"attempt-{attempt}" if run_dir and attempt else None
        self.spec = _read_spec(Path(run_dir)) if run_dir else {}
        self.checkpoint_dir = Path(self.spec.get("checkpoint_dir") or checkpoint_dir)
        self._stop = StopRequest(
            str(self.spec.get("stop_checkpoint") or f"cancel-{attempt or 1}"),
            attempt_dir and attempt_dir / "stop.json",
        )
        self._stop_checkpoint_used = self._warned = False
        self._rank_0 = True
        self._effective: dict[str, Any] = {}
        self._buffer = Buffer()
        self._open = self._delivering = bool(api_url and run_id and token)
        if self._open:
            self._link = Link(api_url, f"/v1/runs/{run_id}/reports", token)
            self._address = Path(run_dir) / "api_url" if run_dir else None
            self._open = self._open_spool(attempt_dir)
        if self._open:
            self._batch = self._spool.last_batch
            self._sealing = threading.Lock()
            self._sealed_at = -math.inf
            self._wake, self._closing = threading.Event(), threading.Event()
            # An empty first batch: the service learns that the trainer lives, and a reporter
            # without a spool learns from the answer which number an earlier one had reached.
            self._seal()
            for duty in (self._seal_forever, self._deliver_forever):
                threading.Thread(target=duty, name=f"reporter{duty.__name__}", daemon=True).start()
            atexit.register(self.close)
        os.register_at_fork(after_in_child=self._after_fork)

    @classmethod
    def from_env(cls, checkpoint_dir: Path | str = "checkpoints") -> Self:
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
        rank_0 = os.environ.get("RANK", "0") == "0"
        reporter = cls(
            api_url=env["API_URL"],
            run_id=env["RUN_ID"],
            token=env["RUN_TOKEN"] if rank_0 else "",
            attempt=int(env["ATTEMPT"]) if env["ATTEMPT"] else None,
            run_dir=env["RUN_DIR"] or None,
            checkpoint_dir=checkpoint_dir,
        )
        reporter._rank_0 = rank_0
        takes_part = reporter._open or (env["RUN_ID"] and not rank_0)
        if takes_part:
            reporter._stop.listen()
        _current = reporter
        return reporter

    @property
    def hyperparams(self) -> dict[str, Any]:
        """The hyperparameters that the run was submitted with."""
        return dict(self.spec.get("hyperparams") or {})

    @property
    def resume_path(self) -> Path | None:
        """The directory of the checkpoint to start from, or None to start afresh."""
        resume = self.spec.get("resume")
        return Path(resume["path"]) if resume else None

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
        if self._open:
            self._buffer.add(points, **progress)
            if len(self._buffer) >= BATCH_POINTS and not self._spool.in_memory:
                self._wake.set()

    def effective(self, **hyperparams: Any) -> None:
        """Report the hyperparameters really in use, defaults included: finite JSON values.

        Raises TypeError or ValueError for anything else, and for more than 60,000 bytes of it.
        """
        known = {**self._effective, **json.loads(json.dumps(hyperparams, allow_nan=False))}
        if len(json.dumps(known)) > MAX_EFFECTIVE_BYTES:
            raise ValueError(f"effective hyperparameters exceed {MAX_EFFECTIVE_BYTES} bytes")
        self._effective = known
        if self._open:
            self._buffer.add([], effective_hyperparams=known)

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
        if name is None:
            name = f"step-{step:06d}"
            if self._stop.asked and not self._stop_checkpoint_used:
                name, self._stop_checkpoint_used = self._stop.checkpoint, True
        temporary = checkpoint.begin(self.checkpoint_dir, name)
        try:
            yield temporary
            directory, manifest = checkpoint.commit(temporary, name, step)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        if self._open:
            self._buffer.announce(
                {
                    "name": directory.name,
                    "step": step,
                    "size_bytes": manifest.size_bytes,
                    "sha256": manifest.sha256,
                }
            )
            self._wake.set()

    def finish(self) -> None:
        """Say that the training reached its own end, and close. Not for a stopped training."""
        if self._open:
            self._buffer.add([], finished=True)
        self.close()

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Deliver what is buffered, for at most `timeout` seconds; the rest stays in the spool.

        Runs at exit by itself. What is logged afterwards is dropped, signals act as before.
        """
        global _current
        if _current is self:
            _current = None
        self._stop.forget()
        if not self._open:
            return
        deadline = time.monotonic() + timeout
        self._closing.set()
        self._seal()
        while self._delivering and not self._drained() and time.monotonic() < deadline:
            self._spool.wait_empty(0.1)
            self._seal()
        self._open = False
        self._spool.close()
        self._wake.set()
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

    # The two daemon threads.

    def _seal_forever(self) -> None:
        while self._open:
            self._wake.wait(SEAL_SECONDS)
            self._wake.clear()
            self._stop.look()
            self._seal()

    def _deliver_forever(self) -> None:
        jitter = random.Random()  # noqa: S311 - the training owns the global generator's state
        pause = BACKOFF_SECONDS[0]
        while self._delivering and self._open:
            try:
                line = self._spool.head(SEAL_SECONDS)
            except OSError as error:
                warn(f"the spool cannot be read ({error}); trying again")
                self._closing.wait(BACKOFF_SECONDS[1])
                continue
            if line is None:
                continue
            reply = self._post(line)
            if reply.delivered:
                self._acknowledge(json.loads(line)["batch"], reply.answer)
                pause = BACKOFF_SECONDS[0]
            elif reply.worth_retrying:
                wait = max(pause * jitter.uniform(0.5, 1.0), reply.retry_after)
                pause = min(pause * 2, BACKOFF_SECONDS[1])
                if self._closing.wait(wait):
                    time.sleep(BACKOFF_SECONDS[0])
                if not reply.status:
                    self._follow()
            else:
                self._refused(reply)
        self._link.close()

    def _post(self, line: bytes) -> Reply:
        """Of a batch that is not what the service takes, at least the rest shall arrive.

        Silence would end a training that is well, and so would an end that nobody heard of.
        """
        reply = self._link.post(line)
        for unwanted in ("effective_hyperparams", "metrics") if reply.of_batch else ():
            body = json.loads(line)
            if not self._warned:
                self._warned = True
                warn(
                    f"the service refused batch {body['batch']} ({_why(reply)}); "
                    "what it refuses is dropped"
                )
            if body.pop(unwanted, None) is not None:
                line = json.dumps(body).encode()
                reply = self._link.post(line)
                if not reply.of_batch:
                    break
        return Reply(200, {}) if reply.of_batch else reply

    def _follow(self) -> None:
        """Nobody answers. A server that took over has left its address in the run's directory."""
        if self._address:
            with suppress(OSError, ValueError):
                self._link.aim(self._address.read_text())

    def _acknowledge(self, batch: int, answer: dict[str, Any]) -> None:
        if answer.get("should_stop") is True:
            name = answer.get("stop_checkpoint")
            if isinstance(name, str) and checkpoint.NAME.fullmatch(name):
                self._stop.checkpoint = name
            self._stop.asked = True
        reached = answer.get("batch")
        if self._spool.in_memory and isinstance(reached, int):
            self._batch = max(self._batch, reached)
        self._spool.pop(batch)
        if len(self._buffer) >= BATCH_POINTS:
            self._wake.set()

    def _refused(self, reply: Reply) -> None:
        """Sending ends here; a spool on disk goes on, unless the service wants no more of us."""
        self._delivering = False
        if reply.status == 409:
            self._open = False
            self._spool.close()
        warn(f"the service refused a report ({_why(reply)}); no more will be sent")

    def _seal(self) -> None:
        """Move the buffer into the spool, batch by batch; without one, only when all is sent."""
        with self._sealing:
            while not (self._spool.in_memory and len(self._spool)):
                body = self._buffer.take()
                rested = time.monotonic() - self._sealed_at
                if not body and (len(self._spool) or rested < HEARTBEAT_SECONDS):
                    return
                self._batch += 1
                body = {**self._identity, "batch": self._batch, **body}
                self._spool.append(json.dumps(body, separators=(",", ":")).encode() + b"\n")
                self._sealed_at = time.monotonic()

    def _open_spool(self, directory: Path | None) -> bool:
        """False when another process of this attempt reports already."""
        try:
            if directory:
                directory.mkdir(parents=True, exist_ok=True)
            self._spool = Spool(directory and directory / "reports.jsonl", self._identity)
        except BlockingIOError:
            warn("another process reports this attempt of the run; this one is silent")
            return False
        except OSError as error:
            warn(f"no spool ({error}): reports wait in memory")
            self._spool = Spool(None, self._identity)
        return True

    def _drained(self) -> bool:
        with self._sealing:  # else a batch on its way from the buffer to the spool is in neither
            return self._buffer.empty and not len(self._spool)

    def _after_fork(self) -> None:
        """A forked child (a DataLoader's worker) reports nothing and dies of SIGTERM as usual."""
        if self._open:
            self._open = False
            self._spool.abandon()
        self._stop.forget()


def _why(reply: Reply) -> str:
    reason = reply.answer.get("detail") or reply.answer.get("code") or "no reason given"
    return f"{reply.status}: {reason}"


def _read_spec(run_dir: Path) -> dict[str, Any]:
    path = run_dir / "spec.json"
    try:
        spec = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(spec, dict):
        raise ValueError(f"{path} is not a JSON object")
    return spec
