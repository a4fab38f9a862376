"""A Lightning Trainer with the two lines of `llm_train.lightning`."""

import os

import torch
from deeds import after_step, prepare, spoil
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from llm_train import Reporter
from llm_train.lightning import LLMTrainCallback, LLMTrainLogger, resume_path

hyperparams = Reporter.from_env().hyperparams


class Model(LightningModule):
    def __init__(self, learning_rate: float):
        super().__init__()
        self.save_hyperparameters()
        self.layer = torch.nn.Linear(64, 64)

    def training_step(self, batch, index):
        loss = spoil((self.layer(batch) - batch).pow(2).mean(), self.global_step + 1)
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, index):
        self.log("val_loss", (self.layer(batch) - batch).pow(2).mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.learning_rate)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10_000)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


class Deeds(Callback):
    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        after_step(trainer.global_step)
        rate = trainer.optimizers[0].param_groups[0]["lr"]
        Reporter.from_env().log(trainer.global_step, {"learning_rate": rate})


data = torch.utils.data.DataLoader(torch.randn(100_000, 64), batch_size=16)
validation = torch.utils.data.DataLoader(
    torch.randn(hyperparams.get("validation", 16), 64), batch_size=1
)
save_steps = hyperparams["save_steps"]
device = os.environ.get("TRAINER_DEVICE", "cpu")
trainer = Trainer(
    accelerator=device,
    precision="bf16-mixed" if device == "cuda" else "32-true",
    devices=int(os.environ.get("WORLD_SIZE", "1")),
    strategy="ddp" if "WORLD_SIZE" in os.environ else "auto",
    max_steps=hyperparams["max_steps"],
    log_every_n_steps=1,
    val_check_interval=hyperparams.get("val_check_interval", 1000),
    num_sanity_val_steps=0,
    enable_progress_bar=False,
    default_root_dir=os.environ["LLM_TRAIN_RUN_DIR"],
    logger=LLMTrainLogger(background=bool(hyperparams.get("background"))),
    callbacks=[
        ModelCheckpoint(every_n_train_steps=save_steps, save_top_k=-1),
        Deeds(),
        LLMTrainCallback(),
    ],
)
prepare()
trainer.fit(Model(hyperparams["learning_rate"]), data, validation, ckpt_path=resume_path())
