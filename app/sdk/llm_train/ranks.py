"""Ranks: finds out whether this process of a distributed training reports and commits."""

import os
from collections.abc import Iterable

_LAUNCHERS = (
    "OMPI_COMM_WORLD_RANK",
    "PMI_RANK",
    "MV2_COMM_WORLD_RANK",
    "PMIX_RANK",
    "SLURM_PROCID",
)


def is_rank_0() -> bool:
    """Return True if this process is rank 0, as its launcher says, or the only one.

    RANK decides if it is set: by torchrun, accelerate, DeepSpeed, or by hand (RANK=0 where each
    task of one srun is a training of its own). Next come the variables of an MPI, and Slurm's
    last: below an mpirun it counts that one's daemons, and in a batch script, an interactive shell
    or a single task it is 0. LOCAL_RANK alone is what Lightning gives to processes that it starts.

    Example:
        if is_rank_0():
            print("training starts")
    """
    get = os.environ.get
    if rank := get("RANK"):
        return rank == "0"
    rank = next(filter(None, map(get, _LAUNCHERS)), "0")
    return rank == "0" and (get("LOCAL_RANK") or "0") == "0"


_LOCAL = (
    "LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "MV2_COMM_WORLD_LOCAL_RANK",
    "SLURM_LOCALID",
)


def get_node_rank() -> int | None:
    """Return the rank of the first process on a machine that rank 0 is not on; others: None."""
    if is_rank_0() or _first(_LOCAL) != "0":
        return None
    rank = _first(("RANK", *_LAUNCHERS)) or ""
    return int(rank) if rank.isascii() and rank.isdigit() and int(rank) > 0 else None


def _first(names: Iterable[str]) -> str | None:
    return next(filter(None, map(os.environ.get, names)), None)
