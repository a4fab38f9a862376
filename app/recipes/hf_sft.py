"""The built-in recipes `hf-sft` and `torchrun`: supervised fine-tuning with TRL.

The run's `model` and its dataset's `name` are names below the folder that the operator gives in
HF_SFT_DIR (`models/NAME`, `datasets/NAME`), or ids of the Hugging Face hub. A client never names a
path. A dataset has the columns of TRL: `text`, `messages`, or `prompt` and `completion`.

`torchrun` is the same with one rank for each GPU of the run, or for each CPU where there is none.

Exit code 2: the run asks for something that this recipe does not do, or a package is missing.
"""

import os
import re
import sys
from pathlib import Path
from typing import Any

from llm_train import Reporter

HYPERPARAMS: dict[str, type] = {
    "learning_rate": float, "max_steps": int, "num_train_epochs": float, "seed": int,
    "per_device_train_batch_size": int, "gradient_accumulation_steps": int, "max_length": int,
    "warmup_steps": int, "weight_decay": float, "lr_scheduler_type": str, "save_steps": int,
    "logging_steps": int, "bf16": bool,
}  # fmt: skip
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class CannotTrain(Exception):
    """The run asks for something that this recipe does not do; one sentence says what."""


def resolve(kind: str, name: Any, folder: str | None) -> str:
    """Return the path or hub id of a model or data set. Raises CannotTrain."""
    if isinstance(name, str) and folder and _NAME.fullmatch(name):
        path = Path(folder, kind, name)
        if path.is_dir():
            return str(path)
    if isinstance(name, str) and _HUB_ID.fullmatch(name):
        return name
    where = f"a folder in {kind} of HF_SFT_DIR" if folder else "local: HF_SFT_DIR is not set"
    raise CannotTrain(f"{name!r:.80} is neither {where} nor an id of the hub like 'org/name'")


def read_hyperparams(hyperparams: dict[str, Any]) -> dict[str, Any]:
    """Return checked hyperparameters. Raises CannotTrain for a bad name or type."""
    for name, value in hyperparams.items():
        kind = HYPERPARAMS.get(name)
        if kind is None:
            known = ", ".join(HYPERPARAMS)
            raise CannotTrain(f"unknown hyperparameter {name!r:.80}; there are {known}")
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise CannotTrain(f"{name} must be of type {kind.__name__}, not {value!r:.80}")
    return hyperparams


def train(reporter: Reporter) -> None:
    """Train as the reporter's spec says. Raises CannotTrain before the first step or not at all."""
    spec, folder = reporter.spec, os.environ.get("HF_SFT_DIR")
    hyperparams = read_hyperparams(reporter.hyperparams)
    model = resolve("models", spec.get("model"), folder)
    dataset = spec.get("dataset") or {}
    if not dataset.keys() <= {"name", "split"}:
        raise CannotTrain("dataset has the fields name and split, and no others")
    data = resolve("datasets", dataset.get("name"), folder)

    from datasets import load_dataset
    from llm_train.hf import LLMTrainCallback, resume_path
    from trl import SFTConfig, SFTTrainer

    config = SFTConfig(
        output_dir=str(Path(os.environ.get("LLM_TRAIN_RUN_DIR", "."), "out")),
        **{"logging_steps": 1, "bf16": False, **hyperparams},
        report_to="none",
    )
    trainer = SFTTrainer(
        model=model,
        args=config,
        train_dataset=load_dataset(data, split=dataset.get("split", "train")),
        callbacks=[LLMTrainCallback(reporter, move=True)],
    )
    trainer.train(resume_from_checkpoint=resume_path())


def main() -> int:
    try:
        import trl  # noqa: F401
    except ImportError:
        sys.stderr.write('hf-sft needs TRL: pip install "trl>=1.0"\n')
        return 2
    try:
        train(Reporter.from_env())
    except CannotTrain as error:
        sys.stderr.write(f"hf-sft: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
