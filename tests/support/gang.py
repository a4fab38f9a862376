"""A trainer of several nodes in plain Python: `python -m tests.support.gang` on each of them.

All ranks meet at MASTER_ADDR, print that, and step together. Rank 0 reports and saves. The rank
that the hyperparameter `dies` names exits with 3 at step 3.
"""

import json
import os
import socket
import sys
import time
from pathlib import Path

RANK, NODES = int(os.environ["NODE_RANK"]), int(os.environ["NNODES"])
os.environ["RANK"], os.environ["WORLD_SIZE"] = str(RANK), str(NODES)

from llm_train import Reporter  # noqa: E402 - it reads these variables


def meet() -> None:
    """Return when every rank is here."""
    address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if RANK == 0:
        with socket.create_server(address) as server:
            peers = [server.accept()[0] for _ in range(NODES - 1)]
            for peer in peers:
                peer.sendall(b"1")
                peer.close()
        return
    while True:
        try:
            with socket.create_connection(address, timeout=5) as peer:
                assert peer.recv(1) == b"1"
                return
        except OSError:
            time.sleep(0.1)


def print_line(text: str) -> None:
    """Print in one write: nodes share the log, and with PYTHONUNBUFFERED print makes two."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    reporter = Reporter.from_env()
    steps, dies = int(reporter.hyperparams["steps"]), reporter.hyperparams.get("dies")
    meet()
    print_line(f"met {RANK}/{NODES} on {os.environ['SLURMD_NODENAME']}")
    for step in range(1, steps + 1):
        time.sleep(0.1)
        if RANK == 0:
            reporter.log(step, total_steps=steps, loss=1 / step)
        if dies == RANK and step == 3:
            print_line(f"ValueError: rank {RANK} cannot go on")
            sys.exit(3)
        if reporter.should_stop or step == steps:
            if RANK == 0:
                with reporter.checkpoint(step) as directory:
                    Path(directory, "state.json").write_text(json.dumps({"step": step}))
            print_line(f"left {RANK} at {'its end' if step == steps else 'a stop'}")
            break
    if RANK == 0 and step == steps:
        reporter.finish()


if __name__ == "__main__":
    main()
