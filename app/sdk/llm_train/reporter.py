"""Reporter: connects a training loop with the service, in three lines; works without it, too.

    reporter = Reporter.from_env()
    reporter.log(step, {"loss": loss}, total_steps=total_steps)
    reporter.finish()

`log` checks the values (logged.py) and appends them to a buffer; sender.py delivers them in the
background. specs.py has the run's spec, run_files.py its checkpoints, stopping.py its stop request.
The public class is one file although that is long: half of it is docstrings, and who uses it finds
the whole contract here. A service that does not respond delays reports and nothing else.

Ranks: only rank 0 reports (ranks.py). The others have the same spec, hyperparameters and stop
signals, and send nothing but the metrics of other machines (nodes.py). Ranks can notice a stop at
different steps: broadcast rank 0's `should_stop`. Reading a GPU tensor's value waits for the GPU,
so log such metrics every few steps.
"""

import atexit
import os
import secrets
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, SupportsIndex, TypeVar

from llm_train import source, specs, system
from llm_train.buffer import Point, warn
from llm_train.checkpoint import Quality
from llm_train.connection import ApiConnection
from llm_train.logged import LoggedValues
from llm_train.nodes import start_node_metrics
from llm_train.ranks import is_rank_0
from llm_train.run_files import RunFiles
from llm_train.saving import CheckpointDirectory, Saving
from llm_train.sender import HEARTBEAT_SECONDS, ReportSender
from llm_train.stopping import StopRequest

CLOSE_SECONDS = 5.0

_Self = TypeVar("_Self", bound="Reporter")  # typing.Self is of Python 3.11

_current: "Reporter | None" = None
_reporters: "weakref.WeakSet[Reporter]" = weakref.WeakSet()


class Reporter:
    """Reports one attempt of one run. All methods may be called from any thread.

    Without `api_url`, `run_id` and `token` it sends nothing, and still commits checkpoints. A
    trainer that the service launched has an `attempt` and a `run_dir`; undelivered reports are in
    `attempt-N/reports.jsonl` there. One that attaches by itself keeps the newest 100,000 points
    in memory, gets the spec from the service, and makes a new attempt each time it starts.
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
        system_seconds: float = system.SECONDS,
        describe_source: bool = False,
    ) -> None:
        """Start to report.

        Args:
            api_url, run_id, token: the service, the run and its `run_token`.
            attempt, run_dir: of a trainer that the service launched.
            checkpoint_dir: where a trainer that attaches by itself saves. None: where the service
                verifies checkpoints if both have the same files, else `checkpoints/RUN_ID`.
            strict: raise ValueError for a value that would be dropped with a warning (for tests).
            take_over: replace another process that reports on the run now. Without, this one is
                silent while that one reports. For a trainer that attaches by itself.
            system_seconds: how often metrics of the machine are reported (system.py); 0: never.
            describe_source: report commit, command, packages and machine (source.py).

        Raises:
            ValueError: a URL, id, token or spec.json that cannot be one.

        Example:
            with Reporter(api_url="http://127.0.0.1:8000", run_id=run_id, token=token) as reporter:
                train(reporter)
        """
        served = bool(api_url and run_id and token)
        directory = Path(run_dir) if run_dir else None
        attempt_dir = directory / f"attempt-{attempt}" if directory and attempt else None
        self._spec: specs.LaunchedSpec | specs.RemoteSpec
        if served and not directory:
            self._spec = specs.RemoteSpec(api_url, run_id, token)
        else:
            self._spec = specs.LaunchedSpec(directory)
        self.stop_request = StopRequest(
            str(self._spec.launched.get("stop_checkpoint") or f"cancel-{attempt or 1}"),
            attempt_dir and attempt_dir / "stop.json",
        )
        own = Path(checkpoint_dir) if checkpoint_dir else None
        checkpoints = CheckpointDirectory(self._spec, run_id, own)
        self._files = RunFiles(self._spec, checkpoints, self.stop_request, attempt, attempt_dir)
        self._launched = attempt is not None
        self._system = system.SystemMetrics(self._log_system, system_seconds)
        self._node: system.SystemMetrics | None = None
        self._step = self._system_step = -1
        self._rank_0 = is_rank_0()
        self._values = LoggedValues(strict)
        self._sender: ReportSender | None = None
        if served:
            reports = ApiConnection(api_url, f"/v1/runs/{run_id}/reports", token)
            address = directory and directory / "api_url"
            identity: dict[str, Any] = {} if attempt is None else {"attempt": attempt}
            if self._rank_0 and attempt is None:
                identity = {"session": secrets.token_hex(16), **_if(take_over, take_over=True)}
            self._files.connect(api_url, run_id, token, identity)
            if self._rank_0:
                self._open_sender(reports, identity, attempt_dir, address, describe_source)
            else:
                self._node = start_node_metrics(reports, attempt, address, system_seconds)
        _reporters.add(self)

    def _open_sender(
        self,
        reports: ApiConnection,
        identity: dict[str, Any],
        attempt_dir: Path | None,
        address: Path | None,
        describe_source: bool,
    ) -> None:
        """Start to send reports, unless another process of this attempt does already."""
        seconds = _heartbeat_seconds(self._spec.launched)
        sender = ReportSender(self.stop_request, reports, identity, attempt_dir, address, seconds)
        if not sender.open:
            return
        self._sender = sender
        atexit.register(self.close)
        if describe_source:
            threading.Thread(
                target=self._report_source, name="reporter-source", daemon=True
            ).start()

    @classmethod
    def from_env(
        cls: type[_Self],
        checkpoint_dir: Path | str | None = None,
        *,
        strict: bool = False,
        take_over: bool = False,
        system_seconds: float = system.SECONDS,
        describe_source: bool = True,
    ) -> _Self:
        """Return the reporter of this process, as LLM_TRAIN_* describes it.

        Until it is closed, later calls return the same one. From the first `log`, `should_stop` or
        `checkpoint` in the main thread on, SIGTERM and SIGINT set `should_stop`; before that, and
        for a second SIGINT, they act as without it. Without LLM_TRAIN_RUN_ID
        it sends nothing and handles no signals.

        Args:
            checkpoint_dir: where checkpoints are saved, unless the service has launched this
                trainer and says where. A later call may still name it until the first save.
            strict: raise ValueError for a value that would be dropped with a warning (for tests).
            take_over: replace another process that reports on the run now. Without, a process
                that finds one (a spawned worker, an evaluation script) says so once and is silent.
            system_seconds: how often metrics of the machine are reported; 0: never.
            describe_source: report commit, command, package versions and machine, without secrets.

        Raises:
            ValueError: a variable has a value that cannot be one.

        Example:
            reporter = Reporter.from_env(checkpoint_dir="checkpoints")
        """
        global _current
        if isinstance(_current, cls):
            if checkpoint_dir is not None:
                _current._files.directory.move(Path(checkpoint_dir), _current._launched)
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
            system_seconds=system_seconds,
            describe_source=describe_source,
        )
        if reporter._sender or (env["RUN_ID"] and not reporter._rank_0):
            reporter.stop_request.listen_to_loop()
        _current = reporter
        return reporter

    @property
    def spec(self) -> dict[str, Any]:
        """Return the run as submitted: `hyperparams`, `model`, `dataset`, `resume` and so on.

        Empty without the service.

        Raises:
            ConnectionError: a trainer that attaches by itself gets no response for a minute.
            PermissionError: the service refuses it.
            FileNotFoundError: the run directory of a launched trainer is gone or not mounted.
        """
        return self._spec.get()

    @property
    def hyperparams(self) -> dict[str, Any]:
        """Return the hyperparameters that the run was submitted with. Raises like `spec`."""
        return dict(self.spec.get("hyperparams") or {})

    @property
    def resume_path(self) -> Path | None:
        """Return the directory of the checkpoint to start from, or None to start afresh.

        Where the service's DATA_DIR is not on this machine, it is the copy that a trainer has saved
        here (in `checkpoints/RUN_ID` or `checkpoint_dir`), verified; else what is in the service's
        bucket is downloaded, once for all processes of this machine.
        In a process that was started again within an attempt (`torchrun --max-restarts`) it is the
        newest one of that attempt. It stays the same as long as this process lives.

        Raises:
            FileNotFoundError: the checkpoint is not on this machine.
            ConnectionError, PermissionError: like `spec`.

        Example:
            if reporter.resume_path is not None:
                state = torch.load(reporter.resume_path / "state.pt")
        """
        return self._files.find_resume()

    @property
    def checkpoint_dir(self) -> Path:
        """Return the directory that checkpoints are committed in, chosen when it is first read.

        It never raises and does not wait for the service: a save must not fail for that.
        """
        return self._files.directory.get()

    @property
    def is_rank_0(self) -> bool:
        """Return True if this process reports and commits; see the function `is_rank_0`."""
        return self._rank_0

    @property
    def is_reporting(self) -> bool:
        """Return True if reports of this process go to a service.

        False without one, on ranks other than 0, and in a process that is silent because another
        one reports on the run. An integration saves nothing of its own accord then.
        """
        return self._sender is not None

    @property
    def should_stop(self) -> bool:
        """Return True once a stop signal came or the service asked to stop: save and return.

        Read it once a step. From the first time on, SIGTERM and SIGINT set it instead of ending
        the process.

        Example:
            if reporter.should_stop:
                with reporter.checkpoint(step) as directory:
                    save(directory)
                return
        """
        self.stop_request.begin_loop()
        return self.stop_request.requested

    def listen(self) -> None:
        """Make SIGTERM and SIGINT set `should_stop` from the loop's begin on. May be repeated.

        For a training loop in another thread, and for frameworks that install handlers while they
        start (Hugging Face's just-in-time checkpoints): called after that, this joins them instead
        of replacing them. Does nothing outside the main thread.

        Example:
            class Report(TrainerCallback):
                def on_train_begin(self, *_, **__):
                    reporter.listen()
        """
        self.stop_request.listen()

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
        self.stop_request.begin_loop()
        if metrics is not None and not isinstance(metrics, Mapping):
            # The second argument of earlier versions.
            metrics, total_steps = None, metrics if total_steps is None else total_steps
        points, progress = self._values.read_log(
            step, {**metrics, **more} if metrics else more, total_steps
        )
        if self._sender and (points or progress):
            self._sender.add(points, **progress)
            self._step = progress.get("step", self._step)
            self._system.start()

    def _report_source(self) -> None:
        """Report what is run; in a thread, since git may be slow."""
        if self._sender:
            self._sender.add([], source=source.describe())

    def _log_system(self, values: dict[str, float]) -> None:
        """Report metrics of the machine, once at a step. They move no progress."""
        if self._sender and self._step > self._system_step:
            self._system_step = self._step
            now = time.time()
            self._sender.add([Point(key, self._step, value, now) for key, value in values.items()])

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
        used = self._values.read_hyperparams({**(hyperparams or {}), **more})
        if self._sender and used:
            self._sender.add([], effective_hyperparams=used)

    @contextmanager
    def checkpoint(
        self,
        step: SupportsIndex | float,
        name: str | None = None,
        *,
        metrics: Mapping[str, Any] | None = None,
        healthy: bool | None = None,
        background: bool = False,
    ) -> Iterator[Path]:
        """Save a checkpoint: write its files into the directory that this yields.

        Leaving the block commits and reports it; a block that raises leaves nothing behind. Only
        rank 0 may call this.

        Args:
            step: the step of the training loop.
            name: the checkpoint's name, `step-000100` by default. Characters that the service
                does not take are replaced, with a warning; where the name is taken, `.2` follows.
                After a stop request the first checkpoint without a name gets the one that the
                canceller was promised.
            metrics: numbers that say how good the model is, such as `{"eval_loss": 1.8}`: a recipe
                may keep the best. One with NaN or an infinity is never taken for a good one.
            healthy: False if the weights hold NaN or an infinity, with the same effect.
            background: hash the files and write them to disk in a thread while the training goes
                on. The next save waits for that, and so do `finish`, `close` and the process's
                end; an error is raised by the next save in the background, or by `finish`. After a
                stop request it is ignored: what answers a stop is there when this returns.

        Raises:
            CheckpointError, OSError: the checkpoint could not be committed; see `Saving.commit`.
            RuntimeError: this is not rank 0.

        Example:
            with reporter.checkpoint(step) as directory:
                torch.save(model.state_dict(), directory / "model.pt")
        """
        if background:
            self._files.commits.wait()
            self._files.commits.check()
        saving = self.begin_checkpoint(step, name, metrics=metrics, healthy=healthy)
        try:
            yield saving.path
        except BaseException:
            saving.abandon()
            raise
        if background and not self.stop_request.requested:
            saving.commit_in_background()
        else:
            saving.commit()

    def begin_checkpoint(
        self,
        step: SupportsIndex | float,
        name: str | None = None,
        *,
        metrics: Mapping[str, Any] | None = None,
        healthy: bool | None = None,
    ) -> Saving:
        """Begin a checkpoint that is committed later, or by another thread.

        For asynchronous saves, and for those that several ranks write together: rank 0 begins,
        broadcasts `path`, and commits when all ranks have written.

        Args:
            step, name, metrics, healthy: as in `checkpoint`.

        Returns:
            The checkpoint's `path` to write to, and `commit` and `abandon` to end it.

        Raises:
            OSError: the directory cannot be made.
            RuntimeError: this is not rank 0.

        Example:
            saving = reporter.begin_checkpoint(step) if reporter.is_rank_0 else None
            path = broadcast(saving and saving.path)
            save_shard(path / f"rank-{rank}.pt")
            barrier()
            if saving:
                saving.commit()
        """
        self.stop_request.begin_loop()
        if not self._rank_0:
            raise RuntimeError("call checkpoint() on rank 0 only: it commits one directory")
        at = self._values.read_checkpoint_step(step)
        quality = Quality(self._values.read_metrics(metrics or {}), healthy)
        return self._files.begin(at, name, quality, self._sender)

    def finish(self) -> None:
        """Report that the training loop reached its own end. Not for a training that was stopped.

        A trainer that the service launched keeps sending heartbeats until it exits (it may export
        a model), and signals act as before.

        Raises:
            CheckpointError, OSError: the last checkpoint was saved in the background and could not
                be committed.
        """
        self._files.commits.wait()
        self._files.commits.check()
        if not self._launched:
            self._files.wait_for_uploads()
        if self._sender:
            self._sender.add([], finished=True)
        if self._sender and self._launched:
            self.stop_request.stop_listening()
            self._sender.deliver(CLOSE_SECONDS)
        else:
            self.close()

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Deliver what is buffered; the rest stays in the spool. Runs at exit by itself.

        What is logged afterwards is dropped, and signals act as before.

        Args:
            timeout: the most seconds to wait for the service.
        """
        global _current
        if _current is self:
            _current = None
        self._files.commits.wait()
        self._system.close()
        if self._node:
            self._node.close()
        self.stop_request.stop_listening()
        self._files.wait_for_uploads()
        self._spec.close()
        if self._sender:
            self._sender.close(timeout)
            atexit.unregister(self.close)

    def __enter__(self: _Self) -> _Self:
        """Return the reporter; leaving the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the reporter."""
        self.close()

    def _after_fork(self) -> None:
        """Send nothing from a forked child (a DataLoader's worker), which SIGTERM ends as usual."""
        self._files.after_fork()
        if self._sender:
            self._sender.close_after_fork()
        self.stop_request.stop_listening()


def _after_fork() -> None:
    """Silence every reporter of the parent."""
    for reporter in list(_reporters):
        reporter._after_fork()


os.register_at_fork(after_in_child=_after_fork)


def _heartbeat_seconds(spec: dict[str, Any]) -> float:
    """Return the seconds between two heartbeats: three in the silence that would end the run."""
    allowed = spec.get("heartbeat_seconds")
    if not isinstance(allowed, (int, float)) or allowed <= 0:
        return HEARTBEAT_SECONDS
    return min(HEARTBEAT_SECONDS, allowed / 3)


def _if(condition: bool, **fields: Any) -> dict[str, Any]:
    """Return the fields, or none of them."""
    return fields if condition else {}
