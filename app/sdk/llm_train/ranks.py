"""Ranks: finds out whether this process of a distributed training reports and commits."""

import os

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
