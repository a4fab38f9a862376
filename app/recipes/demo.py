"""The built-in `demo` recipe, `python -m app.recipes.demo`: train charlm.py on real text.

The text is CPython's own help topics (`pydoc_data`), or the file that the operator names in
DEMO_TEXT. A checkpoint holds the parameters, Adam's moments and the random generator
that draws the batches, so a resumed run repeats bit for bit what one long run does.

Exit code 0: trained to the end, or stopped and saved. 2: asked for something it cannot do.
"""

import math
import os
import sys
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_train import checkpoint
from llm_train.reporter import Reporter

if TYPE_CHECKING:
    from app.recipes import charlm

EVALUATE_EVERY = 50
EVALUATE_WINDOWS = 2048
WARM_UP_STEPS = 20


@dataclass(frozen=True)
class Hyperparams:
    """The hyperparameters. `steps` is the total, counted from 0 also in a resumed run."""

    learning_rate: float = 0.008
    lr_schedule: str = "cosine"
    steps: int = 1200
    batch_size: int = 512
    context: int = 8
    hidden: int = 384
    seed: int = 0
    checkpoint_every: int = 100
    step_delay_ms: int = 0

    def learning_rate_at(self, step: int) -> float:
        """Return the rate: linear warm-up, then constant or a half cosine down to a tenth."""
        rate = self.learning_rate * min(1.0, step / WARM_UP_STEPS)
        if self.lr_schedule == "cosine":
            rate *= 0.55 + 0.45 * math.cos(math.pi * step / self.steps)
        return rate


ALLOWED: dict[str, tuple[float, float] | tuple[str, ...]] = {
    "learning_rate": (1e-6, 1.0),
    "lr_schedule": ("cosine", "constant"),
    "steps": (1, 1_000_000),
    "batch_size": (1, 8192),
    "context": (1, 128),
    "hidden": (1, 4096),
    "seed": (0, 2**32 - 1),
    "checkpoint_every": (1, 1_000_000),
    "step_delay_ms": (0, 5_000),
}


class CannotTrain(Exception):
    """The run asks for something that this recipe does not do; one sentence says what."""


def read_hyperparams(hyperparams: dict[str, Any]) -> Hyperparams:
    """Return checked hyperparameters. Raises CannotTrain for a bad name, type or value."""
    kinds = {field.name: type(field.default) for field in fields(Hyperparams)}
    for name, value in hyperparams.items():
        if name not in kinds:
            raise CannotTrain(f"unknown hyperparameter {name!r:.80}; there are {', '.join(kinds)}")
        kind, allowed = kinds[name], ALLOWED[name]
        if kind is str:
            if value not in allowed:
                raise CannotTrain(f"{name} must be one of {', '.join(map(str, allowed))}")
            continue
        low, high = allowed
        number = "a whole number" if kind is int else "a number"
        if type(value) not in (int, kind) or not low <= value <= high:
            raise CannotTrain(f"{name} must be {number} from {low} to {high}, not {value!r:.80}")
    return Hyperparams(**hyperparams)


def read_text(dataset: dict[str, Any]) -> tuple[str, str]:
    """Return the dataset's name and text. A client picks a name; only the operator names a file."""
    file = os.environ.get("DEMO_TEXT")
    names = ["pydoc-topics", *(["text-file"] if file else [])]
    name, split = dataset.get("name", names[-1]), dataset.get("split", "train")
    if name not in names or split != "train" or not dataset.keys() <= {"name", "split"}:
        raise CannotTrain(f"the demo trains on split train of dataset {' or '.join(names)} only")
    if name == "text-file" and file:
        try:
            return Path(file).name, Path(file).read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise CannotTrain(f"the operator's text file cannot be read: {error}") from None
    from pydoc_data.topics import topics

    return name, "\n\n".join(topics[key] for key in sorted(topics))


def train(reporter: Reporter) -> None:
    """Train as the reporter's spec says. Raises CannotTrain before the first step or not at all."""
    from app.recipes import charlm

    hyperparams = read_hyperparams(reporter.hyperparams)
    text, training = prepare(reporter, hyperparams)
    held_out = text.held_out(EVALUATE_WINDOWS)
    while training.step < hyperparams.steps:
        started = time.perf_counter()
        step, rate = training.step + 1, hyperparams.learning_rate_at(training.step + 1)
        loss = training.advance(hyperparams.batch_size, rate)
        speed = hyperparams.batch_size / (time.perf_counter() - started)
        metrics = {"loss": loss, "learning_rate": rate, "tokens_per_second": speed}
        if step % EVALUATE_EVERY == 0 or step == hyperparams.steps:
            metrics["val_loss"] = charlm.loss(training.params, *held_out)
            say(
                f"step {step}/{hyperparams.steps}  loss {loss:.4f}  "
                f"val_loss {metrics['val_loss']:.4f}  "
                f"learning_rate {rate:.2e}  {speed:,.0f} characters/s"
            )
        reporter.log(step, total_steps=hyperparams.steps, **metrics)
        time.sleep(hyperparams.step_delay_ms / 1000)

        stopping = reporter.should_stop  # read once: the checkpoint's name and the return agree
        if stopping or step == hyperparams.steps or step % hyperparams.checkpoint_every == 0:
            with reporter.checkpoint(step, None if stopping else f"step-{step:06d}") as directory:
                training.save(directory)
            say(f"saved at step {step}")
        if stopping and step < hyperparams.steps:
            return
    say(f"a sample: {charlm.sample(training.params, text, 200)!r}")
    reporter.finish()


def prepare(reporter: Reporter, hyperparams: Hyperparams) -> "tuple[charlm.Text, charlm.Training]":
    """Return the text and a model at its first step, or where the run resumes from."""
    from app.recipes import charlm

    dataset, characters = read_text(reporter.spec.get("dataset") or {})
    if len(characters) < 20 * hyperparams.context:
        raise CannotTrain(f"{dataset} is too short for a context of {hyperparams.context}")
    text = charlm.Text(characters, hyperparams.context)
    training = charlm.Training(text, hyperparams.context, hyperparams.hidden, hyperparams.seed)
    say(
        f"{sum(array.size for array in training.params.values()):,} parameters; {dataset}: "
        f"{len(characters):,} characters, {len(text.vocabulary)} different ones; "
        f"guessing by their frequency would cost {text.unigram_entropy():.3f} nats each"
    )
    if reporter.resume_path:
        resume(training, reporter.resume_path, hyperparams.steps)
        say(f"resumed at step {training.step} from {reporter.resume_path.name}")
    reporter.effective(**asdict(hyperparams), dataset=dataset)
    return text, training


def resume(training: "charlm.Training", directory: Path, steps: int) -> None:
    """Load a checkpoint. Raises CannotTrain if it is damaged, of another model, or at the end."""
    try:
        checkpoint.verify(directory)
        training.load(directory)
    except (checkpoint.CheckpointError, OSError, KeyError, TypeError, ValueError) as error:
        raise CannotTrain(f"cannot resume from {directory.name}: {error}") from None
    if training.step >= steps:
        raise CannotTrain(
            f"{directory.name} is at step {training.step} and steps, the total, is {steps}: "
            "nothing is left to train"
        )


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the recipe and return its exit code."""
    # One thread: the sums of a matrix product then have one order, on any number of cores.
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    try:
        import numpy  # noqa: F401
    except ImportError:
        sys.stderr.write('the demo needs NumPy: pip install "llm-train-api[demo]"\n')
        return 2
    try:
        with Reporter.from_env() as reporter:
            train(reporter)
    except CannotTrain as error:
        sys.stderr.write(f"demo: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
