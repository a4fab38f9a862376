"""A rank that leaves: it prints whether gloo has threads, while it works and at its end."""

import torch.distributed as dist
from deeds import has_gloo, print_line
from llm_train.distributed import Ranks

dist.init_process_group("gloo")
ranks = Ranks()
assert ranks.any(ranks.rank == 1)
print_line(f"works {has_gloo()}")
dist.destroy_process_group()
