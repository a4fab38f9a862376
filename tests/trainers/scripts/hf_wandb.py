"""An unmodified Hugging Face Trainer with `report_to="wandb"`."""

import sys

import torch
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

model_path, output = sys.argv[1:]
rows = torch.randint(3, 500, (64, 32), generator=torch.Generator().manual_seed(0))
data = [{"input_ids": row, "labels": row} for row in rows]
args = TrainingArguments(
    output_dir=output, max_steps=12, logging_steps=2, save_strategy="no", report_to="wandb",
    learning_rate=0.001, per_device_train_batch_size=2, use_cpu=True, disable_tqdm=True,
)  # fmt: skip
model = LlamaForCausalLM.from_pretrained(model_path)
Trainer(model=model, args=args, train_dataset=data).train()
