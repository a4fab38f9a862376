"""Trainers as jobs of Slurm: `[launchers.NAME]` with `kind = "slurm"`.

    launcher.py   the decisions: what is submitted, what a job's state means, what is ended
    client.py     Slurm's commands and their output
    job.py        one job, built purely: the arguments of sbatch and its script
    states.py     Slurm's states and what they mean here

A job's identity is its name, `<run>.<attempt>`: ids repeat on a new cluster. Slurm owns the queue.
The job starts the agent, which claims the attempt over HTTP: no command, token or environment
travels through Slurm, and of two jobs of one attempt one starts a trainer.
"""
