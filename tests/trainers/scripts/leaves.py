"""A rank that leaves: it prints whether gloo has threads, while it works and at its end."""

import torch.distributed as dist
from deeds import has_gloo
from llm_train.distributed import Ranks

dist.init_process_group("gloo")
ranks = Ranks()
assert ranks.any(ranks.rank == 1)
print(f"works {has_gloo()}", flush=True)
dist.destroy_process_group()
