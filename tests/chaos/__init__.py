"""What survives: servers, trainers and agents killed at random, then an audit of everything.

    python -m tests.chaos --kills 50 [--seed N] [--minutes M] [--database postgresql]
    python -m tests.chaos --slurm [KILLS]     on a real Slurm: controllers and nodes as well
    python -m tests.chaos --cancels 1000      cancels racing with start, checkpoint, end
    python -m tests.chaos --restarts 200      of the server, while runs train
    python -m tests.chaos --damages 1000      of checkpoints, each then asked for

Each prints its seed first and its figures last, and exits with 1 if a promise was broken.
"""
