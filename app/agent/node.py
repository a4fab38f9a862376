"""Several nodes: one agent on each, started by the agent that has claimed the attempt.

    claim on the batch host → PREFIX (such as srun) starts `main` on every node, with the claim's
    answer on its stdin → each has a directory of its own, asks the service for orders, and runs
    the command → the first that fails ends all

The command finds its peers by MASTER_ADDR, MASTER_PORT, NNODES and NODE_RANK, and torchrun by the
same in PET_…: a rendezvous on the batch host. PREFIX is never sent a signal: srun would kill all.
"""

import base64
import json
import os
import signal
import socket
import sys
from typing import Any

from .http import HttpMailbox
from .mailbox import ExitRecord, LaunchConfig

BOOT = (
    "import base64, json, os, sys, tempfile; answer = json.loads(sys.stdin.readline()); "
    "folder = tempfile.mkdtemp(prefix='llm-train-', dir=answer['base']); "
    "path = os.path.join(folder, 'agent.zip'); file = open(path, 'wb'); "
    "file.write(base64.b64decode(answer['bundle'])); file.close(); sys.path.insert(0, path); "
    "from agent.node import main; main(answer, folder)"
)
_EXTRA_SECONDS = 5.0
"""The nodes' own agents enforce the grace period; leftovers after it are killed with PREFIX."""
_OWN = "LLM_TRAIN_"


class GangMailbox(HttpMailbox):
    """The mailbox of the agent on the batch host: its trainer is PREFIX with the nodes' agents."""

    def __init__(self, prefix: "list[str]", bundle: str, *where: Any) -> None:
        """`bundle`: the agent's zip file."""
        super().__init__(*where)
        self._prefix, self._bundle = prefix, bundle

    def _take(self, answer: "dict[str, Any]") -> "LaunchConfig":
        """Return how to start the nodes' agents; each fetches for itself what it starts from."""
        config: LaunchConfig = answer["config"]
        self._output.limit = config["max_log_bytes"]
        self._output.offset = answer["log_offset"]
        self._shares_files = True  # what there is to upload, the nodes upload
        with open(self._bundle, "rb") as file:
            bundle = base64.b64encode(file.read()).decode()
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        base = os.path.dirname(self._directory)
        more = {"bundle": bundle, "base": base, "api_url": self._api_url}
        rendezvous = {"host": socket.gethostname(), "port": port}
        path = os.path.join(self._directory, "nodes.json")
        with open(path, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(json.dumps({**answer, **more, "rendezvous": rendezvous}) + "\n")
        own = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
        self._is_ready.set()
        return {
            **config,
            "input": path,
            "argv": [*self._prefix, sys.executable, "-I", "-S", "-c", BOOT],
            "env": {**own, "LLM_TRAIN_RUN_DIR": self.run_dir},
            "cwd": None,
            "stop_signal": 0,
            "grace_seconds": config["grace_seconds"] + _EXTRA_SECONDS,
        }


class NodeMailbox(HttpMailbox):
    """The mailbox of a node's agent, whose attempt is claimed: orders, and what is to deliver."""

    def __init__(self, answer: "dict[str, Any]", rank: int, directory: str) -> None:
        super().__init__(answer["api_url"], answer["run_id"], answer["attempt"], "", directory)
        self._answer, self._rank = answer, rank
        self.output = 1
        self.exit_code = 1

    def _ask_for_claim(self) -> "dict[str, Any]":
        return self._answer

    def _get_pulse_fields(self) -> "dict[str, Any]":
        return {"node": self._rank}

    def _end_unbegun(self, detail: str) -> None:
        _print(detail)

    def _report_exit(self, record: ExitRecord) -> None:
        """Keep the exit code, which ends the others if it is not 0."""
        code = record.exit_code if record.signal is None else 128 + record.signal
        self.exit_code = 1 if code is None else code
        if record.never_ran:
            _print(record.detail)

    def _localize_config(self, config: "LaunchConfig") -> "LaunchConfig":
        nodes = os.environ.get("SLURM_NNODES", "1")
        meeting = self._answer["rendezvous"]
        gang = {
            "MASTER_ADDR": meeting["host"], "MASTER_PORT": str(meeting["port"]),
            "NNODES": nodes, "NODE_RANK": str(self._rank),
            "PET_NNODES": nodes, "PET_NODE_RANK": str(self._rank), "PET_RDZV_BACKEND": "c10d",
            "PET_RDZV_ENDPOINT": f"{meeting['host']}:{meeting['port']}",
            "PET_RDZV_ID": f"{self._run_id}.{self._attempt}",
        }  # fmt: skip
        return super()._localize_config({**config, "env": {**gang, **config["env"]}})


def main(answer: "dict[str, Any]", folder: str) -> None:
    """Run the agent of one node, and end with its command's exit code."""
    from .main import run

    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    mailbox = NodeMailbox(answer, int(os.environ.get("SLURM_NODEID", "0")), folder)
    run(mailbox)
    mailbox.close()
    sys.exit(mailbox.exit_code)


def _print(text: str) -> None:
    """Write a line into the run's log, which is searched for the cause of a failure."""
    sys.stdout.write(f"llm-train agent: error: {text}\n")
    sys.stdout.flush()
