"""Hugging Face Trainers (TRL's as well) report to the service, save, stop and resume.

Two lines in a script:

    trainer = Trainer(..., callbacks=[LLMTrainCallback()])
    trainer.train(resume_from_checkpoint=resume_path())

None in a script that is left as it is:

    python -m llm_train.hf --pass=learning_rate,max_steps train.py --output_dir out

on_train_begin  the learning rate of a resumed run, the hyperparameters in use
on_step_end     progress; the stop, on every rank at the same step
on_save         the Trainer has written `checkpoint-N`: commit it
on_train_end    finished, unless it was stopped

Needs transformers 5.0 or newer, and nothing of it where no service is: then it does nothing.
"""

import argparse
import runpy
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers import trainer as trainer_module

from llm_train.arguments import BadArgument, to_argument
from llm_train.buffer import warn
from llm_train.distributed import Ranks, all_finite
from llm_train.rates import rescale
from llm_train.reporter import Reporter

REPORTED = (
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_train_epochs", "max_steps",
    "warmup_steps", "weight_decay", "lr_scheduler_type", "optim", "seed", "bf16", "fp16",
    "max_grad_norm", "save_steps", "eval_steps",
)  # fmt: skip
"""Arguments of the Trainer that are always reported as effective hyperparameters."""

_RATES = ("learning_rate", "lr")
_UNFINISHED = "checkpoint-is-incomplete.txt"  # enable_jit_checkpoint's mark


def resume_path() -> str | None:
    """Return the checkpoint to start from, for `trainer.train(resume_from_checkpoint=…)`.

    None without a service, or where the run starts afresh. Raises like `Reporter.resume_path`.
    """
    path = Reporter.from_env().resume_path
    return None if path is None else str(path)


class LLMTrainCallback(TrainerCallback):
    """Connects a Trainer with the service. World rank 0 reports; all ranks need the callback.

    Example:
        trainer = SFTTrainer(model, args=config, callbacks=[LLMTrainCallback()])
        trainer.train(resume_from_checkpoint=resume_path())
    """

    _training: "tuple[Any, LLMTrainCallback] | None" = None  # the newest training and its callback

    def __init__(
        self,
        reporter: Reporter | None = None,
        *,
        reset_learning_rate: bool = True,
        move: bool = False,
        background: bool = False,
    ) -> None:
        """Report by `reporter`, or by `Reporter.from_env()`.

        Args:
            reset_learning_rate: let a resumed schedule go on from the learning rate that the run's
                hyperparameters name; Hugging Face would go on with the one in the checkpoint. False
                for parameter groups whose first is not at `args.learning_rate`.
            move: take the Trainer's own files instead of copying them, which costs no disk; its
                `output_dir` then has no checkpoints left.
            background: hash the files and write them to disk while the training goes on. What
                answers a stop, and a moved checkpoint that is the best, are committed at once.
        """
        self.reporter = reporter or Reporter.from_env()
        self.reset_learning_rate, self.move = reset_learning_rate, move
        self.background = background
        self._ranks: Ranks | None = None
        self._stopping = self._is_training = False
        self._saved_step = -1
        self._evaluated: tuple[int, dict[str, float]] = -1, {}

    def on_train_begin(
        self, args: Any, state: Any, control: Any, optimizer: Any = None, lr_scheduler: Any = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """Join the signal handlers, apply the learning rate, and report what is in use."""
        owner = LLMTrainCallback._training
        if owner is not None and owner[0] is state and owner[1] is not self:
            return  # another one of this Trainer, such as the runner's, reports already
        LLMTrainCallback._training = state, self
        self._is_training, self._stopping, self._saved_step = True, False, state.global_step
        self._ranks = self._ranks or Ranks(self.reporter)
        self.reporter.listen()  # enable_jit_checkpoint takes SIGTERM and passes it on to nobody
        args.logging_nan_inf_filter = False  # else a loss that is NaN is logged as 0.0
        overrides = [self._hyperparams().get(name) for name in _RATES]
        if self.reset_learning_rate and state.global_step > 0 and args.learning_rate in overrides:
            rescale(optimizer, lr_scheduler, args.learning_rate)
        if state.is_world_process_zero:
            self._report_effective(args, lr_scheduler)
            self.reporter.log(state.global_step, total_steps=state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report the progress, and stop with a save if any rank was asked to."""
        if not self._is_training:
            return
        if state.is_world_process_zero:
            self.reporter.log(state.global_step, total_steps=state.max_steps)
        if self._should_stop():
            self._stop(control, save=True)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save what an interrupted evaluation, or a just-in-time checkpoint, has not committed."""
        if self._is_training and self._stopping:
            self._stop(control, save=self._saved_step != state.global_step)

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """End an evaluation within a training that is asked to stop: the grace is for the save."""
        if self._is_training and self._should_stop():
            self._stop(control, save=self._saved_step != state.global_step)
            raise _EvaluationStopped

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any
    ) -> None:
        """Keep the metrics for the checkpoint of the same step."""
        numbers = {key: value for key, value in (metrics or {}).items() if _is_number(value)}
        self._evaluated = state.global_step, numbers

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Report the numbers that the Trainer logs, under its names."""
        if self._is_training and state.is_world_process_zero and logs:
            numbers = {key: value for key, value in logs.items() if _is_number(value)}
            self.reporter.log(state.global_step, numbers, total_steps=state.max_steps)

    def on_save(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Commit the checkpoint that the Trainer has written."""
        if not self._is_training or self._saved_step == state.global_step:
            return
        self._saved_step = state.global_step
        healthy = model is None or all_finite(model)
        if self._ranks is not None:
            # All ranks take part: the others' rng_state_R.pth may still be on its way.
            healthy = not self._ranks.any(not healthy)
        source = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if state.is_world_process_zero and self.reporter.is_reporting and source.is_dir():
            is_best = state.best_model_checkpoint == str(source)
            final = self._commit(source, state.global_step, healthy, is_best)
            if final is not None and self.move and is_best:
                state.best_model_checkpoint = str(final)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Report the training's own end."""
        if not self._is_training:
            return
        self._is_training = False
        stopped = self._stopping or self.reporter.stop_request.requested
        if state.is_world_process_zero and (not stopped or state.global_step >= state.max_steps):
            self.reporter.finish()

    def _should_stop(self) -> bool:
        """Return True on every rank if any rank was asked to stop."""
        if not self._stopping:
            self._stopping = self._ranks is not None and self._ranks.should_stop()
        return self._stopping

    def _stop(self, control: Any, *, save: bool) -> None:
        control.should_training_stop = True
        control.should_evaluate = False  # it may be longer than the grace
        control.should_save = save

    def _commit(self, source: Path, step: int, healthy: bool, is_best: bool) -> Path | None:
        """Commit a directory of the Trainer's. Only what answers the stop takes the stop's name.

        Returns where it is; None while it is committed in the background.
        """
        name = None if self._stopping else f"step-{step:06d}"
        at, metrics = self._evaluated
        saving = self.reporter.begin_checkpoint(
            step, name, metrics=metrics if at == step else None, healthy=healthy
        )
        moved = self.move and source.stat().st_dev == saving.path.stat().st_dev
        try:
            # Never hard links: the Trainer writes optimizer.pt and others in place if it saves the
            # same step again.
            if moved:
                _move(source, saving.path)
            else:
                ignored = shutil.ignore_patterns(_UNFINISHED)
                shutil.copytree(source, saving.path, dirs_exist_ok=True, ignore=ignored)
        except BaseException:
            saving.abandon()
            raise
        give_back = source if moved else None
        # Of a moved one that is the best the Trainer needs to know the place.
        if self.background and not self._stopping and not (moved and is_best):
            saving.commit_in_background(give_back=give_back)
            return None
        return saving.commit(give_back=give_back)

    def _report_effective(self, args: Any, scheduler: Any) -> None:
        names = {*REPORTED, *self._hyperparams()}
        used = {name: getattr(args, name) for name in sorted(names) if hasattr(args, name)}
        rates = getattr(scheduler, "base_lrs", None)
        used["learning_rate"] = rates[0] if rates else args.learning_rate
        if "lr" in self._hyperparams():
            used["lr"] = used["learning_rate"]
        self.reporter.effective(used)

    def _hyperparams(self) -> dict[str, Any]:
        with suppress(OSError):
            return self.reporter.hyperparams
        return {}


class _EvaluationStopped(Exception):
    """Ends an evaluation. The Trainer's `evaluate` returns without metrics then."""


class _NoMetrics(dict[str, float]):
    """The metrics of an interrupted evaluation: none is the best."""

    def __missing__(self, key: str) -> float:
        return float("nan")


def _evaluate(self: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return _trainers_evaluate(self, *args, **kwargs)
    except _EvaluationStopped:
        return _NoMetrics()


_trainers_evaluate = Trainer.evaluate
Trainer.evaluate = _evaluate


def install(**options: Any) -> None:
    """Give the callback to every Trainer of this process, and let it resume what the service says.

    Args:
        **options: of `LLMTrainCallback`.
    """

    class Installed(LLMTrainCallback):
        def __init__(self) -> None:
            super().__init__(**options)

    trainer_module.DEFAULT_CALLBACKS.append(Installed)
    train = Trainer.train

    def resuming(self: Any, resume_from_checkpoint: Any = None, *args: Any, **kwargs: Any) -> Any:
        return train(self, resume_path() or resume_from_checkpoint, *args, **kwargs)

    Trainer.train = resuming


def main(arguments: list[str]) -> None:
    """Run an unmodified script: `python -m llm_train.hf [OPTIONS] SCRIPT ARGS…`, or `-m MODULE`."""
    parser = argparse.ArgumentParser("python -m llm_train.hf", description=main.__doc__)
    parser.add_argument(
        "--pass", dest="names", default="", metavar="NAME,…",
        help="hyperparameters of the run that the script gets as --NAME=VALUE, and no others",
    )  # fmt: skip
    parser.add_argument("--move", action="store_true", help="move checkpoints instead of copying")
    parser.add_argument(
        "--background", action="store_true", help="commit checkpoints while the training goes on"
    )
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is a module's name")
    parser.add_argument("script")
    parser.add_argument("args", nargs=argparse.REMAINDER)
    options = parser.parse_args(arguments)
    names = [name for name in options.names.split(",") if name]
    try:
        passed = _passed(Reporter.from_env().hyperparams, names)
    except BadArgument as error:
        parser.error(str(error))
    install(move=options.move, background=options.background)
    sys.argv = [options.script, *options.args, *passed]
    if options.module:
        runpy.run_module(options.script, run_name="__main__", alter_sys=True)
        return
    sys.path[0] = str(Path(options.script).resolve().parent)
    runpy.run_path(options.script, run_name="__main__")


def _passed(hyperparams: dict[str, Any], names: list[str]) -> list[str]:
    """Return the arguments for a script. Of two options of one name, parsers take the last."""
    for name in sorted(hyperparams.keys() - set(names)):
        warn(f"hyperparameter {name!r:.80} is not passed to the script: --pass does not name it")
    return [
        f"--{name}={to_argument(name, hyperparams[name])}"
        for name in names
        if hyperparams.get(name) is not None
    ]


def _move(source: Path, target: Path) -> None:
    """Move what is in a directory into another one of the same file system."""
    (source / _UNFINISHED).unlink(missing_ok=True)
    for path in source.iterdir():
        path.rename(target / path.name)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


if __name__ == "__main__":
    # The package's own module, not this second copy of it: both would patch the Trainer.
    from llm_train import hf

    hf.main(sys.argv[1:])
