"""An unmodified Lightning training with its MLFlowLogger, which makes a run of its own."""

import os
import sys

import lightning
import torch
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


logger = MLFlowLogger("lightning_logs", tracking_uri=os.environ["MLFLOW_TRACKING_URI"])
logger.log_hyperparams({"lr": 0.1})
loader = torch.utils.data.DataLoader(torch.rand(64, 1), batch_size=4)
lightning.Trainer(
    max_steps=12, logger=logger, log_every_n_steps=1, accelerator="cpu",
    default_root_dir=sys.argv[1],
    enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
).fit(Line(), loader)  # fmt: skip
