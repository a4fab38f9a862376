"""A training loop of one's own, as nanoGPT's: one process, or DDP under torchrun."""

import os

import torch
import torch.distributed as dist
from deeds import after_step, prepare, spoil
from llm_train import Reporter
from llm_train.distributed import Ranks
from llm_train.rates import rescale
from torch.nn.parallel import DistributedDataParallel

distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
if distributed:
    dist.init_process_group("gloo")
reporter = Reporter.from_env(system_seconds=float(os.environ.get("SYSTEM_SECONDS", "10")))
ranks = Ranks(reporter)
hyperparams = reporter.hyperparams
steps = hyperparams["max_steps"]
torch.manual_seed(0)
model = torch.nn.Sequential(
    torch.nn.Embedding(128, 32), torch.nn.Flatten(), torch.nn.Linear(512, 128)
)
optimizer = torch.optim.AdamW(model.parameters(), lr=hyperparams["learning_rate"])
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1000)
start = 0
if reporter.resume_path is not None:
    state = torch.load(reporter.resume_path / "state.pt")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    start = state["step"]
    rescale(optimizer, scheduler, hyperparams["learning_rate"])
wrapped = DistributedDataParallel(model) if distributed else model
reporter.effective(learning_rate=scheduler.base_lrs[0], max_steps=steps)
prepare()


def save(step: int, name: str | None) -> None:
    with ranks.checkpoint(step, name) as directory:
        if ranks.rank == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(
                state | {"scheduler": scheduler.state_dict(), "step": step}, directory / "state.pt"
            )


for step in range(start + 1, steps + 1):
    tokens = torch.randint(0, 128, (64, 17))
    loss = torch.nn.functional.cross_entropy(wrapped(tokens[:, :16]), tokens[:, 16])
    loss = spoil(loss, step)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    rate = scheduler.get_last_lr()[0]
    scheduler.step()
    reporter.log(step, {"loss": loss, "learning_rate": rate}, total_steps=steps)
    stopping = ranks.should_stop()
    if stopping or step % hyperparams["save_steps"] == 0 or step == steps:
        save(step, None if stopping else f"step-{step:06d}")
    if stopping:
        break
    after_step(step)
else:
    reporter.finish()
if distributed:
    dist.destroy_process_group()
