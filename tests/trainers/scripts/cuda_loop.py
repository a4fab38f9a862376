"""A small GPT in bf16 with dropout, which draws its data and its dropout from the GPU's generator.

It saves that generator's state with the weights, so that a resumed training draws what an
uninterrupted one draws; with the hyperparameter `forgets` it does not take it up again.
"""

import os

os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # its sums are the same each time

import torch
from llm_train import Reporter
from torch import nn

reporter = Reporter.from_env(system_seconds=1)
hyperparams = reporter.hyperparams
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
print("device", device, "sees", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
torch.use_deterministic_algorithms(True)
torch.backends.cuda.enable_flash_sdp(False)
torch.backends.cuda.enable_mem_efficient_sdp(False)
torch.backends.cuda.enable_cudnn_sdp(False)
torch.manual_seed(0)
width, vocabulary, length = hyperparams.get("width", 64), 512, 64
layer = nn.TransformerEncoderLayer(
    width, 4, 4 * width, dropout=0.1, batch_first=True, norm_first=True
)
model = nn.Sequential(
    nn.Embedding(vocabulary, width), nn.TransformerEncoder(layer, 2), nn.Linear(width, vocabulary)
).to(device)
optimizer = torch.optim.AdamW(model.parameters(), lr=hyperparams["learning_rate"])


def random_state() -> torch.Tensor:
    on_gpu = device.type == "cuda"
    return torch.cuda.get_rng_state(device) if on_gpu else torch.get_rng_state()


def set_random_state(state: torch.Tensor) -> None:
    on_gpu = device.type == "cuda"
    torch.cuda.set_rng_state(state, device) if on_gpu else torch.set_rng_state(state)


start = 0
if reporter.resume_path is not None:
    state = torch.load(reporter.resume_path / "state.pt", map_location="cpu")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    start = state["step"]
    if not hyperparams.get("forgets"):
        set_random_state(state["random"])

steps = hyperparams["max_steps"]
for step in range(start + 1, steps + 1):
    tokens = torch.randint(vocabulary, (16, length), device=device)
    with torch.autocast(device.type, torch.bfloat16):
        logits = model(tokens)
    assert logits.dtype == torch.bfloat16
    loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), tokens.flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    reporter.log(step, {"loss": loss}, total_steps=steps)
    if step == hyperparams.get("out_of_memory_at"):
        held = []
        while True:  # until the card has no more
            held.append(torch.empty(1 << 30, dtype=torch.uint8, device=device))
    if reporter.should_stop or step == steps:
        with reporter.checkpoint(step) as directory:
            torch.save(
                {
                    "model": model.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "random": random_state(),
                    "step": step,
                },
                directory / "state.pt",
            )
        if step < steps:
            break
else:
    reporter.finish()
