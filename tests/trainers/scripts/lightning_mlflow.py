"""An unmodified Lightning training that MLflow follows, in one of three WAYS.

`logger`: Lightning's MLFlowLogger, which makes a run of its own; `checkpoints`: the same, and it
logs each checkpoint; `autolog`: `mlflow.autolog()` and nothing else.
"""

import os
import sys

import lightning
import mlflow
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import MLFlowLogger


class Line(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch, _):
        loss = (self.layer(batch) - 2 * batch).square().mean()
        self.log("loss", loss)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


folder, way = sys.argv[1:]
loader = torch.utils.data.DataLoader(torch.rand(16, 1), batch_size=4)
logger, callbacks = False, []
if way == "autolog":
    mlflow.autolog()
else:
    models = {"log_model": "all"} if way == "checkpoints" else {}
    logger = MLFlowLogger("logs", tracking_uri=os.environ["MLFLOW_TRACKING_URI"], **models)
    logger.log_hyperparams({"lr": 0.1})
if way == "checkpoints":
    callbacks = [ModelCheckpoint(folder, every_n_train_steps=4, save_top_k=-1)]
lightning.Trainer(
    max_steps=12, logger=logger, callbacks=callbacks, log_every_n_steps=1, accelerator="cpu",
    default_root_dir=folder, enable_checkpointing=bool(callbacks),
    enable_progress_bar=False, enable_model_summary=False,
).fit(Line(), loader)  # fmt: skip
