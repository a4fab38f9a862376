"""A Hugging Face Trainer with the two lines of `llm_train.hf`."""

import sys

import lean  # noqa: F401 - before what it leaves out
import torch
from deeds import after_step, prepare, spoil
from llm_train import Reporter
from llm_train.hf import LLMTrainCallback, resume_path
from transformers import (
    HfArgumentParser,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)


class Deeds(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        after_step(state.global_step)


class Spoiled(Trainer):
    def compute_loss(self, *args, **kwargs):
        return spoil(super().compute_loss(*args, **kwargs), self.state.global_step + 1)


model_path, *arguments = sys.argv[1:]
(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(arguments)
move = bool(Reporter.from_env().hyperparams.get("move"))
background = bool(Reporter.from_env().hyperparams.get("background"))
print("starts from", resume_path())
rows = torch.randint(3, 500, (256, 32), generator=torch.Generator().manual_seed(0))
data = [{"input_ids": row, "labels": row} for row in rows]
trainer = Spoiled(
    model=LlamaForCausalLM.from_pretrained(model_path),
    args=args,
    train_dataset=data,
    eval_dataset=data * int(args.run_name or 1),
    callbacks=[Deeds(), LLMTrainCallback(move=move, background=background)],
)
prepare()
trainer.train(resume_from_checkpoint=resume_path())
if args.load_best_model_at_end:
    print("loaded the best model", trainer.state.best_model_checkpoint)
