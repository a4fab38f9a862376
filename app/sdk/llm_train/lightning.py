"""Lightning Trainers report to the service, save, stop and resume. Two lines in a script:

    trainer = Trainer(..., logger=LLMTrainLogger(), callbacks=[LLMTrainCallback()])
    trainer.fit(model, ckpt_path=resume_path())

The logger reports metrics and hyperparameters and commits what ModelCheckpoint saves; the callback
reports progress, stops at the end of a batch on every rank, and saves what answers the stop.

Needs Lightning 2.5 or newer (as `lightning` or as `pytorch_lightning`).
"""

import atexit
import shutil
import sys
from argparse import Namespace
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch.distributed as dist

if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
    from pytorch_lightning.callbacks import Callback
    from pytorch_lightning.loggers.logger import Logger
    from pytorch_lightning.utilities.rank_zero import rank_zero_only
else:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers.logger import Logger
    from lightning.pytorch.utilities.rank_zero import rank_zero_only

from llm_train.distributed import all_finite
from llm_train.rates import rescale
from llm_train.reporter import Reporter

FILE = "lightning.ckpt"
"""What a checkpoint holds: Lightning's file, or its directory where a strategy shards."""

_RATES = ("learning_rate", "lr")


def resume_path() -> str | None:
    """Return the checkpoint to start from, for `trainer.fit(ckpt_path=…)`; None: start afresh.

    Raises like `Reporter.resume_path`.
    """
    directory = Reporter.from_env().resume_path
    return None if directory is None else str(directory / FILE)


class LLMTrainLogger(Logger):
    """Reports what is logged, and commits every checkpoint that ModelCheckpoint has written."""

    def __init__(self, reporter: Reporter | None = None, *, background: bool = False) -> None:
        """Report by `reporter`, or by `Reporter.from_env()`.

        Args:
            background: commit checkpoints while the training goes on.
        """
        super().__init__()
        self.background = background
        self.reporter = reporter or Reporter.from_env()
        self.is_muted = False
        self.stopped_at: int | None = None
        """The step that was saved to answer a stop, before ModelCheckpoint may save it, too."""

    @property
    def name(self) -> str:
        """Return the directory that ModelCheckpoint saves in, below the Trainer's root."""
        return "llm-train"

    @property
    def version(self) -> str:
        """Return the run's id."""
        return str(self.reporter.spec.get("run_id") or "local")

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Report the hyperparameters that the module has saved."""
        self.reporter.effective(vars(params) if isinstance(params, Namespace) else dict(params))

    @rank_zero_only  # type: ignore[untyped-decorator]
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Report metrics. Lightning counts their steps from 0, and those of checkpoints from 1."""
        if not self.is_muted:
            self.reporter.log((step or 0) + 1, metrics)

    def after_save_checkpoint(self, checkpoint_callback: Any) -> None:
        """Commit a copy of the file, or of the directory, that was saved last."""
        saved = checkpoint_callback._last_checkpoint_saved
        if self.is_muted or not saved or not self.reporter.is_reporting:
            return
        step = checkpoint_callback._last_global_step_saved
        if step == self.stopped_at:
            return  # the promised checkpoint holds the same: a second one would take of the grace
        score = checkpoint_callback.current_score
        metrics = {} if score is None else {checkpoint_callback.monitor: score}
        with self.reporter.checkpoint(
            step, f"step-{step:06d}", metrics=metrics, background=self.background
        ) as directory:
            copy = shutil.copytree if Path(saved).is_dir() else shutil.copyfile
            copy(saved, directory / FILE)


class LLMTrainCallback(Callback):
    """Reports progress, and stops the Trainer on every rank at the end of the same batch."""

    def __init__(
        self, reporter: Reporter | None = None, *, reset_learning_rate: bool = True
    ) -> None:
        """Report by `reporter`, or by `Reporter.from_env()`.

        Args:
            reset_learning_rate: let the schedules of a resumed training go on from the learning
                rate that the run's hyperparameters name, and not from the checkpoint's.
        """
        self.reporter = reporter or Reporter.from_env()
        self.reset_learning_rate = reset_learning_rate
        self._stopping = False
        self._total: int | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Join the signal handlers, apply the learning rate, and report what is in use."""
        self._stopping = False
        atexit.unregister(_leave_gloo)
        atexit.register(_leave_gloo)
        for logger in _loggers(trainer):
            logger.is_muted, logger.stopped_at = False, None
        # Lightning's own handler of SIGTERM broadcasts wherever a rank is: in the middle of another
        # collective that ends in an error, and nothing is saved.
        environment = getattr(trainer.strategy, "cluster_environment", None)
        if not getattr(environment, "auto_requeue", False):
            trainer._signal_connector.teardown()
        self.reporter.listen()
        total = trainer.estimated_stepping_batches
        self._total = int(total) if total not in (float("inf"), -1) else None
        if self.reset_learning_rate and trainer.global_step:
            self._reset(trainer)
        if trainer.is_global_zero:
            group = trainer.optimizers[0].param_groups[0]
            rate = group.get("initial_lr", group["lr"])
            names = [name for name in _RATES if name in self._hyperparams()] or [_RATES[0]]
            self.reporter.effective(dict.fromkeys(names, rate) | self._limits(trainer))
            self.reporter.log(trainer.global_step, total_steps=self._total)

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report the progress; save and stop if any rank was asked to."""
        if trainer.is_global_zero:
            self.reporter.log(trainer.global_step, total_steps=self._total)
        if not self._stopping and self._should_stop(trainer):
            self._answer_stop(trainer, pl_module)

    def on_validation_batch_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        """End a validation within a training that is asked to stop: the grace is for the save.

        Lightning also begins one, whatever the step, once it is asked to stop.
        """
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        if not self._stopping:
            if not self._should_stop(trainer):
                return
            self._answer_stop(trainer, trainer.lightning_module)
        for logger in _loggers(trainer):
            logger.is_muted = True  # the mean of a part of the validation is no metric
        raise StopIteration  # which ends the loop of a validation as its last batch does

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Report the training's own end."""
        at_end = self._total is not None and trainer.global_step >= self._total
        stopped = self._stopping or self.reporter.stop_request.requested
        if trainer.is_global_zero and (not stopped or at_end):
            self.reporter.finish()

    def _should_stop(self, trainer: Any) -> bool:
        asked = bool(trainer.strategy.reduce_boolean_decision(self.reporter.should_stop, all=False))
        if asked:
            self.reporter.stop_request.requested = True
        return asked

    def _answer_stop(self, trainer: Any, module: Any) -> None:
        """Save what the stop promised, and let the Trainer end after this batch."""
        self._stopping = trainer.should_stop = True
        self._save(trainer, module)
        for logger in _loggers(trainer):
            logger.stopped_at = trainer.global_step

    def _save(self, trainer: Any, module: Any) -> None:
        """Save under the promised name; every rank takes part, and rank 0 commits."""
        healthy = not trainer.strategy.reduce_boolean_decision(not all_finite(module), all=False)
        step = trainer.global_step
        saving = None
        if self.reporter.is_rank_0 and self.reporter.is_reporting:
            saving = self.reporter.begin_checkpoint(step, healthy=healthy)
        path = trainer.strategy.broadcast(None if saving is None else str(saving.path / FILE))
        if path is None:
            return
        try:
            trainer.save_checkpoint(path)
        except BaseException:
            if saving is not None:
                saving.abandon()
            raise
        trainer.strategy.barrier()
        if saving is not None:
            saving.commit()

    def _reset(self, trainer: Any) -> None:
        rate = next(filter(None, map(self._hyperparams().get, _RATES)), None)
        if rate is None:
            return
        schedules = {id(c.scheduler.optimizer): c.scheduler for c in trainer.lr_scheduler_configs}
        for optimizer in trainer.optimizers:
            inner = getattr(optimizer, "optimizer", optimizer)
            rescale(optimizer, schedules.get(id(inner), schedules.get(id(optimizer))), float(rate))

    def _limits(self, trainer: Any) -> dict[str, Any]:
        """Return the Trainer's own arguments that the run's hyperparameters name."""
        return {
            name: getattr(trainer, name)
            for name in self._hyperparams()
            if name in ("max_steps", "max_epochs", "accumulate_grad_batches", "gradient_clip_val")
        }

    def _hyperparams(self) -> dict[str, Any]:
        try:
            return self.reporter.hyperparams
        except OSError:
            return {}


def _leave_gloo() -> None:
    """End the process group at exit; Lightning ends that of NCCL only.

    A thread of gloo that lets go of its last tensor while the interpreter ends aborts the process
    (SIGABRT), and a training that has finished would have failed.
    """
    with suppress(Exception):  # the script has ended it already
        if dist.is_available() and dist.is_initialized() and dist.get_backend() == "gloo":
            dist.destroy_process_group()


def _loggers(trainer: Any) -> list[LLMTrainLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, LLMTrainLogger)]
