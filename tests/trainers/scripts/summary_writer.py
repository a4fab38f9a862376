"""Scalars by PyTorch's writer of TensorBoard's files, of both of its kinds, among other things."""

import math
import sys

import torch
from torch.utils.tensorboard import SummaryWriter

with SummaryWriter(f"{sys.argv[1]}/runs/one") as writer:
    writer.add_text("notes", "hello")
    writer.add_histogram("weights", torch.rand(100), 1)
    writer.add_hparams({"lr": 0.1}, {"final": 1.0}, run_name="hparams")
    for step in range(1, 31):
        writer.add_scalar("loss/train", math.nan if step == 7 else 1 / step, step)
        writer.add_scalar("loss/new", 1 / step, step, new_style=True, double_precision=True)
