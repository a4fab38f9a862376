"""Several ranks of one PyTorch training stop at the same step, and save one checkpoint together.

ranks = Ranks()                                  # on every rank, after init_process_group
for step in ...:
    if ranks.should_stop():                      # the same answer on every rank
        ...
"""

from typing import Any

import torch
import torch.distributed as dist

from llm_train.reporter import Reporter


class Ranks:
    """The ranks of this training. Without `torch.distributed`, or with one rank, it is that one.

    All methods are collective: every rank calls them in the same order. They use CPU tensors in a
    group of their own (gloo), so they neither wait for a GPU nor queue behind its collectives.
    """

    def __init__(self, reporter: Reporter | None = None) -> None:
        """Make the group. `reporter`: this process's; None: `Reporter.from_env()`."""
        self.reporter = reporter or Reporter.from_env()
        self._group: Any = None
        self.rank, self.size = 0, 1
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            self._group = dist.new_group(backend="gloo")
            self.rank, self.size = dist.get_rank(), dist.get_world_size()

    def should_stop(self) -> bool:
        """Return True on every rank if any rank was asked to stop; waits for all of them.

        A signal reaches ranks at different steps: a rank that left the loop alone would leave the
        others in a collective that never ends.
        """
        asked = self.reporter.should_stop
        if self._group is None:
            return asked
        flag = torch.tensor([int(asked)], dtype=torch.int32)
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        if flag.item():
            self.reporter.stop_request.requested = True
        return bool(flag.item())

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self._group is not None:
            dist.barrier(group=self._group)
