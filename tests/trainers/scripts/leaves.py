"""A rank that leaves: it prints whether gloo has threads, while it works and at its end."""

import atexit
from pathlib import Path

import torch.distributed as dist
from llm_train.distributed import Ranks


def has_threads() -> bool:
    threads = Path("/proc/self/task").iterdir()
    return any((thread / "comm").read_text().startswith("pt_gloo") for thread in threads)


dist.init_process_group("gloo")
atexit.register(lambda: print("at its end", has_threads(), flush=True))  # after what comes later
ranks = Ranks()
assert ranks.any(ranks.rank == 1)
print("works", has_threads(), flush=True)
dist.destroy_process_group()
