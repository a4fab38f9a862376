"""Two torchruns on this machine make one training, as on two nodes: `two_nodes.py SCRIPT …`."""

import os
import signal
import socket
import subprocess
import sys

with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
nodes = [
    subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1",
         f"--node-rank={node}", "--master-addr=127.0.0.1", f"--master-port={port}", *sys.argv[1:]],
        env=os.environ | {"SYSTEM_SECONDS": "1"},
    )
    for node in range(2)
]  # fmt: skip


def stop(number: int, frame: object) -> None:
    for node in nodes:
        node.send_signal(number)


signal.signal(signal.SIGTERM, stop)
sys.exit(max(abs(node.wait()) for node in nodes))
