"""Reporter: what a training loop says to the service, in three lines, and can do without.

    reporter = Reporter.from_env()
    reporter.log(step, total_steps=total_steps, loss=loss)
    reporter.finish()

The training thread only appends to a buffer; what happens to it then (sender.py, delivery.py)
never reaches the training. A server that is away costs nothing but the delay.

Ranks: only rank 0 reports (ranks.py). The others see the same spec, hyperparameters and stop
signals, and stay silent. Ranks can notice a stop at different steps: broadcast rank 0's
`should_stop`. Reading a GPU tensor's value waits for the GPU, so log such metrics every few steps.
"""

import atexit
import os
import secrets
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsIndex

from llm_train import checkpoint, specs
from llm_train.buffer import Point, warn
from llm_train.connection import ApiConnection
from llm_train.ranks import is_rank_0
from llm_train.saving import Saved, Saving
from llm_train.sender import HEARTBEAT_SECONDS, ReportSender
from llm_train.stopping import StopRequest
from llm_train.values import (
    MAX_OBJECT_BYTES,
    InvalidValue,
    describe,
    json_size,
    read_count,
    read_key,
    read_number,
    to_json,
)

MAX_EFFECTIVE_BYTES = MAX_OBJECT_BYTES
MAX_KEYS = 10_000  # metrics of a run
MAX_WARNINGS = 100  # of values that are dropped
CLOSE_SECONDS = 5.0

if TYPE_CHECKING:
    from typing import Self  # of Python 3.11

_current: "Reporter | None" = None
_reporters: "weakref.WeakSet[Reporter]" = weakref.WeakSet()


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
        strict: bool = False,
        take_over: bool = False,
    ) -> None:
        """Start to report.

        Args:
            api_url, run_id, token: the service, the run and its `run_token`.
            attempt, run_dir: of a trainer that the service launched.
            checkpoint_dir: where a trainer that attaches by itself saves.
            strict: raise ValueError for a value that would be dropped with a warning (for tests).
            take_over: replace another process that reports on the run now. Without, this one is
                silent while that one reports. For a trainer that attaches by itself.

        Raises:
            ValueError: a URL, id, token or spec.json that cannot be one.
        """
        identity: dict[str, Any] = {"attempt": attempt}
        if attempt is None:
            identity = {
                "session": secrets.token_hex(16),
                **({"take_over": True} if take_over else {}),
            }
        attempt_dir = Path(run_dir) / f"attempt-{attempt}" if run_dir and attempt else None
        # None: the directory of a launched trainer is gone, or not mounted here.
        self._spec = specs.read(Path(run_dir)) if run_dir else {}
        self._run_dir = run_dir
        self._own_dir = Path(checkpoint_dir) if checkpoint_dir else None
        self._run_id = run_id
        served = bool(api_url and run_id and token)
        self._remote_spec = (
            specs.RemoteSpec(api_url, run_id, token) if served and not run_dir else None
        )
        self._chosen_dir: Path | None = None
        self._shares = False
        self._stop = StopRequest(
            str((self._spec or {}).get("stop_checkpoint") or f"cancel-{attempt or 1}"),
            attempt_dir and attempt_dir / "stop.json",
        )
        self._stop_checkpoint_used = False
        self._rank_0 = is_rank_0()
        self._strict = strict
        self._step = 0  # the last one logged
        self._keys: set[str] = set()
        self._costs: dict[str, int] = {}  # bytes of each reported hyperparameter
        self._warned: set[Any] = set()
        self._sender: ReportSender | None = None
        self._launched = attempt is not None
        if served and self._rank_0:
            connection = ApiConnection(api_url, f"/v1/runs/{run_id}/reports", token)
            address = Path(run_dir) / "api_url" if run_dir else None
            heartbeat = _heartbeat(self._spec or {})
            sender = ReportSender(self._stop, connection, identity, attempt_dir, address, heartbeat)
            if sender.open:
                self._sender = sender
                atexit.register(self.close)
        _reporters.add(self)

    @classmethod
    def from_env(
        cls,
        checkpoint_dir: Path | str | None = None,
        *,
        strict: bool = False,
        take_over: bool = False,
    ) -> "Self":
        """Return the reporter of this process, as LLM_TRAIN_* describes it.

        Until it is closed, later calls return the same one. In the main thread it also makes
        SIGTERM and SIGINT set `should_stop`, once the training loop has begun: with the first
        `log`, `should_stop` or `checkpoint`. Until then they act as before, since nobody would
        act on `should_stop` while data is prepared. A second SIGINT acts as before, too. Without
        LLM_TRAIN_RUN_ID it says nothing and handles no signals.

        Args:
            checkpoint_dir: where checkpoints are saved, unless the service has launched this
                trainer and says where. A later call may still name it until the first save.
            strict: raise ValueError for a value that would be dropped with a warning (for tests).
            take_over: replace another process that reports on the run now. Without, a process
                that finds one (a spawned worker, an evaluation script) says so once and is silent.

        Raises:
            ValueError: a variable has a value that cannot be one.

        Example:
            reporter = Reporter.from_env(checkpoint_dir="checkpoints")
        """
        global _current
        if isinstance(_current, cls):
            if checkpoint_dir is not None:
                _current._move_checkpoints(Path(checkpoint_dir))
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
            strict=strict,
            take_over=take_over,
        )
        if reporter._sender or (env["RUN_ID"] and not reporter._rank_0):
            reporter._stop.listen()
        _current = reporter
        return reporter

    @property
    def spec(self) -> dict[str, Any]:
        """What the run shall do: `hyperparams`, `model`, `dataset`, `resume` and so on.

        Empty without the service. Raises ConnectionError or PermissionError when a trainer that
        attaches by itself cannot learn it, FileNotFoundError when the directory of one that the
        service launched is not there: to train something else would be worse.
        """
        if self._spec is None:
            raise FileNotFoundError(
                f"{self._run_dir}/spec.json is not there, so what to do is not known: the run's "
                "directory has been removed, or is not mounted on this machine"
            )
        return self._remote_spec.get() if self._remote_spec else self._spec

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
        if self._remote_spec and not (specs.shared(self.spec) and path.is_dir()):
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
        if self._chosen_dir is None:
            self._chosen_dir = self._choose_dir()
        return self._chosen_dir

    def _choose_dir(self) -> Path:
        if self._spec is None:
            chosen = (self._own_dir or Path("checkpoints", self._run_id)).absolute()
            warn(
                f"the run's directory {self._run_dir} is not there: checkpoints are saved in "
                f"{chosen}, where the service does not find them"
            )
            return chosen
        if self._remote_spec is None:
            return Path(self._spec.get("checkpoint_dir") or self._own_dir or "checkpoints")
        if self._own_dir is not None:
            return self._own_dir
        verified = specs.verified_dir(self._remote_spec.get_known())
        self._shares = verified is not None
        return verified or Path("checkpoints", self._run_id)

    def _move_checkpoints(self, directory: Path) -> None:
        """A later call of from_env() names a directory."""
        if self._chosen_dir is None:
            self._own_dir = directory
        elif self._chosen_dir.absolute() != directory.absolute() and not self._launched:
            warn(f"checkpoints are saved in {self._chosen_dir} already, and so not in {directory}")

    @property
    def should_stop(self) -> bool:
        """True once a stop signal came or the service asked to stop: save and return."""
        self._stop.loop_started = True
        return self._stop.requested

    def listen(self) -> None:
        """Make SIGTERM and SIGINT set `should_stop`, as `from_env` does. May be repeated.

        For frameworks that take these signals while they start (Hugging Face's just-in-time
        checkpoints): called after that, it joins them instead of replacing them. Does nothing
        outside the main thread.
        """
        self._stop.listen()

    def log(
        self,
        step: SupportsIndex | float,
        metrics: Mapping[str, Any] | None = None,
        /,
        *,
        total_steps: SupportsIndex | float | None = None,
        **more: Any,
    ) -> None:
        """Report the progress of the training loop, and metrics at this step.

        Never raises and never waits for the service: a value that cannot be reported is dropped
        with one warning on stderr that names it, and the rest arrives.

        Args:
            step: the step of the training loop, a whole number from 0. One beyond `total_steps`
                is taken for another axis (tokens): its metrics are reported, and no progress.
            metrics: values by name; also names that are no Python identifiers, like `val/loss`.
                Each is a number or holds one (`.item()`); NaN and infinities are kept.
            total_steps: the step at which the loop ends, as soon as it is known.
            **more: more metrics.

        Raises:
            ValueError: only with `strict=True`, for the first bad value; nothing is taken then.

        Example:
            reporter.log(step, {"val/loss": val_loss}, total_steps=1000, loss=loss)
        """
        self._stop.loop_started = True
        if metrics is not None and not isinstance(metrics, Mapping):
            # The second argument of earlier versions.
            metrics, total_steps = None, metrics if total_steps is None else total_steps
        progress: dict[str, Any] = {}
        if total_steps is not None:
            try:
                progress["total_steps"] = read_count(total_steps)
            except InvalidValue as error:
                self._drop("total_steps", f"total_steps {_predicate(error)}")
        points: list[Point] = []
        try:
            at = read_count(step)
        except InvalidValue as error:
            self._drop("step", f"step {_predicate(error)}: its metrics are dropped")
        else:
            self._step = progress["step"] = at
            points = self._points(at, {**metrics, **more} if metrics else more)
        if self._sender and (points or progress):
            self._sender.add(points, **progress)

    def _points(self, step: int, metrics: Mapping[Any, Any]) -> list[Point]:
        now, points = time.time(), []
        for key, value in metrics.items():
            try:
                if key not in self._keys:
                    read_key(key)
                    if len(self._keys) >= MAX_KEYS:
                        raise InvalidValue(f"a run has at most {MAX_KEYS:,} metrics")
                    self._keys.add(key)
                points.append(Point(key, step, read_number(value), now))
            except InvalidValue as error:
                self._drop(key, f"metric {describe(key)} is dropped: {error}")
        return points

    def effective(self, hyperparams: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Report hyperparameters that are really in use, defaults included.

        Numbers are reported as numbers (also NumPy's, and tensors of one element), dicts, lists,
        sets and dataclasses as such, and anything else (a dtype, a path, an infinity) as text.
        Never raises: a value is dropped with a warning that names it where all of them together
        would exceed 65,536 bytes of JSON. Later values of a name replace earlier ones.

        Args:
            hyperparams: values by name.
            **more: more of them.

        Raises:
            ValueError: only with `strict=True`, for the first value that is dropped.

        Example:
            reporter.effective(vars(args), learning_rate=scheduler.base_lrs[0])
        """
        used: dict[str, Any] = {}
        costs = dict(self._costs)
        for key, value in {**(hyperparams or {}), **more}.items():
            try:
                entry = to_json({key: value})
                cost = {
                    name: json_size(entry) - 1 for name in entry
                }  # one brace stands for the comma
                total = 1 + sum((costs | cost).values())
                if total > MAX_EFFECTIVE_BYTES:
                    raise InvalidValue(
                        f"hyperparameters must not be larger than {MAX_EFFECTIVE_BYTES:,} bytes "
                        f"in all, and this makes {total:,}"
                    )
                used |= entry
                costs |= cost
            except InvalidValue as error:
                self._drop(("effective", key), f"hyperparameter {key!r:.60} is dropped: {error}")
        self._costs = costs
        if self._sender and used:
            self._sender.add([], effective_hyperparams=used)

    def _drop(self, about: Any, message: str) -> None:
        """Say once that a value is dropped. Raises ValueError where the reporter is strict."""
        if self._strict:
            raise ValueError(message)
        if about not in self._warned and len(self._warned) <= MAX_WARNINGS:
            self._warned.add(about)
            if len(self._warned) > MAX_WARNINGS:
                message = "more values are dropped, of which no more is said"
            warn(message)

    @contextmanager
    def checkpoint(self, step: SupportsIndex | float, name: str | None = None) -> Iterator[Path]:
        """Save a checkpoint: write its files into the directory that this yields.

        Leaving the block commits and reports it; a block that raises leaves nothing behind. Only
        rank 0 may call this.

        Args:
            step: the step of the training loop.
            name: the checkpoint's name, `step-000100` by default. Characters that the service
                does not take are replaced, with a warning; where the name is taken, `.2` follows.
                After a stop request the first checkpoint without a name gets the one that the
                canceller was promised.

        Raises:
            CheckpointError, OSError: the checkpoint could not be committed; see `Saving.commit`.
            RuntimeError: this is not rank 0.

        Example:
            with reporter.checkpoint(step) as directory:
                torch.save(model.state_dict(), directory / "model.pt")
        """
        saving = self.begin_checkpoint(step, name)
        try:
            yield saving.path
        except BaseException:
            saving.abandon()
            raise
        saving.commit()

    def begin_checkpoint(self, step: SupportsIndex | float, name: str | None = None) -> Saving:
        """Begin a checkpoint that is committed later, or by another thread.

        For asynchronous saves, and for those that several ranks write together: rank 0 begins,
        broadcasts `path`, and commits when all ranks are through.

        Args:
            step, name: as in `checkpoint`.

        Raises:
            OSError: the directory cannot be made.
            RuntimeError: this is not rank 0.
        """
        self._stop.loop_started = True
        if not self._rank_0:
            raise RuntimeError("call checkpoint() on rank 0 only: it commits one directory")
        try:
            at = read_count(step)
        except InvalidValue as error:
            at = self._step
            self._drop("checkpoint", f"checkpoint(): step {_predicate(error)}; it gets step {at}")
        expected = self._stop.requested and not self._stop_checkpoint_used
        promised = expected and name in (None, self._stop.checkpoint)
        if promised:
            name = self._stop.checkpoint
        elif name is None:
            name = f"step-{at:06d}"
        else:
            wanted, name = name, checkpoint.safe_name(str(name), f"step-{at:06d}")
            if name != wanted:
                warn(f"checkpoint {describe(wanted)} is saved as {name!r}")

        def announce(saved: Saved) -> None:
            self._stop_checkpoint_used |= promised
            if self._sender:
                self._sender.add_checkpoint(
                    {
                        "name": saved.directory.name,
                        "step": at,
                        "size_bytes": saved.manifest.size_bytes,
                        "sha256": saved.manifest.sha256,
                        **({"in_data_dir": True} if self._shares else {}),
                    }
                )

        return Saving(self.checkpoint_dir, name, at, announce)

    def finish(self) -> None:
        """Say that the training reached its own end. Not for a stopped training.

        A process that the service launched is still heard of until it exits: it may have a model
        to export, and one that hangs instead must not be taken for alive.
        """
        if self._sender:
            self._sender.add([], finished=True)
        if self._sender and self._launched:
            self._stop.stop_listening()
            self._sender.deliver(CLOSE_SECONDS)
        else:
            self.close()

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Deliver what is buffered, for at most `timeout` seconds; the rest stays in the spool.

        Runs at exit by itself. What is logged afterwards is dropped, signals act as before.
        """
        global _current
        if _current is self:
            _current = None
        self._stop.stop_listening()
        if self._remote_spec:
            self._remote_spec.close()
        if self._sender:
            self._sender.close(timeout)
            atexit.unregister(self.close)

    def __enter__(self) -> "Self":
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
        if self._sender:
            self._sender.close_after_fork()
        self._stop.stop_listening()


def _after_fork() -> None:
    for reporter in list(_reporters):
        reporter._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _heartbeat(spec: dict[str, Any]) -> float:
    """Seconds between two heartbeats: three for each silence that would be the run's end."""
    allowed = spec.get("heartbeat_seconds")
    if not isinstance(allowed, (int, float)) or allowed <= 0:
        return HEARTBEAT_SECONDS
    return min(HEARTBEAT_SECONDS, allowed / 3)


def _predicate(error: InvalidValue) -> str:
    return str(error).removeprefix("it ")
