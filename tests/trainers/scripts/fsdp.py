"""FSDP2 with sharded checkpoints (torch.distributed.checkpoint), saved by all ranks."""

import os

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from deeds import after_step, print_line, spoil
from llm_train import Reporter
from llm_train.distributed import Ranks, all_finite
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

device = os.environ.get("TRAINER_DEVICE", "cpu")
dist.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
reporter = Reporter.from_env()
ranks = Ranks(reporter)
hyperparams = reporter.hyperparams
steps, asynchronous = hyperparams["max_steps"], hyperparams.get("asynchronous", False)
torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.Linear(64, 64)).to(
    device
)
mesh = init_device_mesh(device, (dist.get_world_size(),))
for layer in (model[0], model[2], model):
    fully_shard(layer, mesh=mesh)
optimizer = torch.optim.AdamW(model.parameters(), lr=hyperparams["learning_rate"])


def state(step: int) -> dict[str, object]:
    of_model, of_optimizer = get_state_dict(model, optimizer)
    return {"model": of_model, "optimizer": of_optimizer, "step": torch.tensor(step)}


start = 0
if reporter.resume_path is not None:
    loaded = state(0)
    dcp.load(loaded, checkpoint_id=reporter.resume_path)
    set_state_dict(
        model, optimizer, model_state_dict=loaded["model"], optim_state_dict=loaded["optimizer"]
    )
    start = int(loaded["step"])
reporter.effective(max_steps=steps)
for step in range(start + 1, steps + 1):
    batch = torch.randn(16, 64, device=device)
    loss = spoil((model(batch) - batch).pow(2).mean(), step)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    reporter.log(step, {"loss": loss}, total_steps=steps)
    stopping = ranks.should_stop()
    fails = hyperparams.get("deed") == "save fails" and step == 8
    if stopping or step == steps or (step % hyperparams["save_steps"] == 0 and not asynchronous):
        healthy = not ranks.any(not all_finite(model))
        name = None if stopping else f"step-{step:06d}"
        try:
            with ranks.checkpoint(step, name, healthy=healthy) as directory:
                dcp.save(state(step), checkpoint_id=directory)
                if fails and ranks.rank == 1:
                    raise OSError("rank 1 has no room")
        except Exception as error:
            if not fails:
                raise
            print_line(f"rank {ranks.rank}: {error!r}")
    elif step % hyperparams["save_steps"] == 0:
        saving = ranks.begin(step)
        future = dcp.async_save(
            state(step), checkpoint_id=saving.path, process_group=ranks.background_group
        )
        saving.commit_after(future)
    if stopping:
        break
    after_step(step)
else:
    ranks.wait()
    reporter.finish()
ranks.wait()
dist.barrier()  # a rank that leaves early ends the others' connections under them
dist.destroy_process_group()
