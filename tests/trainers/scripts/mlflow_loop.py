"""A training loop that knows MLflow and nothing of this service: `mlflow_loop.py STEPS DEED`."""

import sys

import mlflow
import torch
from deeds import do

steps, deed = int(sys.argv[1]), sys.argv[2]
model = torch.nn.Linear(32, 32)
with mlflow.start_run():
    mlflow.log_params({"max_steps": steps, "learning_rate": 0.001})
    for step in range(1, steps + 1):
        batch = torch.randn(16, 32)
        loss = (model(batch) - batch).pow(2).mean()
        if deed == "nan" and step >= 5:
            loss = loss * float("nan")
        loss.backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight -= 0.001 * weight.grad
                weight.grad = None
        mlflow.log_metric("loss", loss.item(), step=step)
        do(deed, step)
