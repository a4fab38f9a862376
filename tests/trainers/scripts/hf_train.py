"""A Hugging Face Trainer with the two lines of `llm_train.hf`."""

import sys

import torch
from deeds import after_step, prepare, spoil
from llm_train import Reporter
from llm_train.hf import LLMTrainCallback, resume_path
from transformers import (
    HfArgumentParser,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)


class Deeds(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        after_step(state.global_step)

    def on_save(self, args, state, control, **kwargs):
        print(f"the Trainer has saved step {state.global_step}", flush=True)


class Spoiled(Trainer):
    def compute_loss(self, *args, **kwargs):
        return spoil(super().compute_loss(*args, **kwargs), self.state.global_step + 1)


model_path, *arguments = sys.argv[1:]
(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses(arguments)
hyperparams = Reporter.from_env().hyperparams
move, background = bool(hyperparams.get("move")), bool(hyperparams.get("background"))
print("starts from", resume_path())
shape = (hyperparams.get("rows", 256), 32)
rows = torch.randint(3, 500, shape, generator=torch.Generator().manual_seed(0))
data = [{"input_ids": row, "labels": row} for row in rows]
set_seed(args.seed)
trainer = Spoiled(
    model=LlamaForCausalLM(LlamaConfig.from_pretrained(model_path)),  # its first weights: random
    args=args,
    train_dataset=data,
    eval_dataset=data * int(args.run_name or 1),
    callbacks=[Deeds(), LLMTrainCallback(move=move, background=background)],
)
prepare()
trainer.train(resume_from_checkpoint=resume_path())
if args.load_best_model_at_end:
    print("loaded the best model", trainer.state.best_model_checkpoint)
