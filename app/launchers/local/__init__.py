"""Trainers on this machine, without a cluster: the launcher `local`.

    launcher.py    starts agents, and stops and watches them by their files and signals
    records.py     an attempt's files, as the service reads them
    processes.py   processes by pid, start time and nonce, so that a reused pid is never signalled
    gpus.py        the GPUs of this machine

`app/launchers/base.py` says how to add a launcher; `app/agent` is the agent that it starts.
"""
