"""A real Ray on 127.0.0.1: a head, and workers that are nodes of their own.

    with ray_cluster(directory) as ray:
        ray.get("/api/jobs/")

It is installed apart, since it is large and the product needs none of it:

    python3 -m venv .cache/ray && .cache/ray/bin/pip install 'ray[default]>=2.40'
"""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.support.server import REPOSITORY, command_line, free_port, wait_until

CPUS, GPUS, MEMORY = 8, 2, 4_000_000_000
TOKEN = "the-token-of-the-cluster-and-of-nobody-else"
_OWN = REPOSITORY / ".cache/ray/bin/ray"


def _port_options() -> list[str]:
    """Return options that give a node ports which no other cluster of this machine uses.

    Two heads with the usual ports share them, and the jobs of the second wait for ever.
    """
    names = (
        "dashboard-agent-listen-port", "dashboard-agent-grpc-port", "runtime-env-agent-port",
        "metrics-export-port",
    )  # fmt: skip
    own = [f"--{name}={free_port()}" for name in names]
    return [*own, "--min-worker-port=0", "--max-worker-port=0"]


class RayCluster:
    """A head with 8 CPUs and 2 A100s that are none; `root` must be short, it is for sockets."""

    def __init__(self, root: Path) -> None:
        program = str(_OWN) if _OWN.exists() else shutil.which("ray")
        assert program, __doc__
        self.root, self._program = root, program
        self.port, self.dashboard = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.dashboard}"
        self.token_file = root / "token"
        root.mkdir(parents=True, exist_ok=True)
        self.token_file.write_text(TOKEN + "\n")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("LLM_", "PYTHONPATH"))},
            "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_file), "RAY_LAB": str(root),
            "RAY_raylet_start_wait_time_s": "60",
        }  # fmt: skip

    def start_head(self) -> None:
        """Start the head, and wait until it answers."""
        self._start_node(
            "head", self._answers, "--head", "--node-ip-address=127.0.0.1", f"--port={self.port}",
            "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}",
            f"--ray-client-server-port={free_port()}", f"--num-cpus={CPUS}", f"--num-gpus={GPUS}",
            f"--memory={MEMORY}", '--resources={"accelerator_type:A100": 1}',
            f"--temp-dir={self.root}/t",
        )  # fmt: skip

    def start_worker(self, cpus: int, name: str = "worker") -> None:
        """Add a node, and wait until it is one."""
        before = {node["node_id"] for node in self.nodes()}  # one that died may still be among them
        self._start_node(
            name, lambda: bool({node["node_id"] for node in self.nodes()} - before),
            f"--address=127.0.0.1:{self.port}", f"--num-cpus={cpus}",
        )  # fmt: skip

    def _start_node(self, name: str, is_there: Callable[[], bool], *arguments: str) -> None:
        """Start a node. On a busy machine it may give up waiting for its daemons: once more.

        They come before others (nice), as raylet dies where one needs 15 seconds to be imported.
        """
        for is_last in (*[False] * 4, True):
            node = self._start(name, *arguments, *_port_options())
            wait_until(lambda node=node: node.poll() is not None or is_there(),  # type: ignore[misc]
                       self.logs, 240, 0.2)  # fmt: skip
            if node.poll() is None:
                return
            assert not is_last, self.logs()
            for left_over in self.members(name):
                with suppress(psutil.Error):
                    left_over.kill()

    def nodes(self) -> list[Any]:
        """The nodes that live."""
        rows = self.get("/api/v0/nodes?detail=1")["data"]["result"]["result"]
        return [row for row in rows if row["state"] == "ALIVE"]

    def kill_worker(self) -> None:
        """Kill the daemons of the added node at once, as a power cut would."""
        self._kill("worker")

    def _start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.root / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                ["nice", "-n", "-10", self._program, "start", "--block",
                 "--object-store-memory=80000000", "--disable-usage-stats", *arguments],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
                env=self._environment | {"RAY_LAB_NODE": name},
            )  # fmt: skip
        return self._processes[name]

    def _answers(self) -> bool:
        with suppress(OSError, ValueError):
            return bool(self.nodes())
        return False

    def get(self, path: str, token: str = TOKEN) -> Any:
        """The JSON at a path of the dashboard."""
        request = urllib.request.Request(
            self.url + path, headers={"Authorization": f"Bearer {token}"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)

    def jobs(self) -> dict[str, Any]:
        """The jobs that Ray lists, by their name."""
        return {job["submission_id"]: job for job in self.get("/api/jobs/")}

    def members(self, node: str | None = None) -> list[psutil.Process]:
        """The processes of this cluster, or of one node of it, and their jobs."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                its = process.environ()
                if its.get("RAY_LAB") == str(self.root) and node in (None, its.get("RAY_LAB_NODE")):
                    found.append(process)
        return found

    def daemon(self, word: str) -> psutil.Process:
        """The process of the head that has this word in its command line, or calls itself so."""
        head = psutil.Process(self._processes["head"].pid)
        (found,) = [p for p in head.children(recursive=True) if word in " ".join(command_line(p))]
        return found

    def kill_head(self) -> None:
        """Kill the head's daemons at once, and what its jobs had."""
        self._kill("head")

    def _kill(self, name: str) -> None:
        process = self._processes.pop(name)
        members = psutil.Process(process.pid).children(recursive=True)
        # One that still lives would take the next submission, or tell how the others have ended.
        for deed in (psutil.Process.suspend, psutil.Process.kill):
            for member in members:
                with suppress(psutil.Error):
                    deed(member)
        process.kill()
        process.wait(60)

    def logs(self) -> str:
        """The end of the output, for a failed assertion."""
        files = sorted(self.root.glob("*.out"))
        return "\n".join(f"--- {f.name}\n{f.read_text(errors='replace')[-3000:]}" for f in files)

    def stop(self) -> None:
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            with suppress(subprocess.TimeoutExpired):
                process.wait(60)
        self._end()

    def _end(self) -> None:
        for member in self.members():
            with suppress(psutil.Error):
                member.kill()
        for process in self._processes.values():
            process.wait(60)
        self._processes.clear()


def table(ray: RayCluster, folder: Path, token_file: Path | None = None) -> str:
    """The launcher of these tests."""
    return (
        f'[launchers.site]\nkind = "ray"\naddress = "{ray.url}"\nlook_seconds = 0.5\n'
        f'token_file = "{token_file or ray.token_file}"\npython = "{sys.executable}"\n'
        f'directory = "{folder}"\ncall_seconds = 5\ngpu_types = {{ "NVIDIA A100" = "A100" }}\n'
    )


@contextmanager
def ray_cluster(root: Path) -> Iterator[RayCluster]:
    """A cluster that is ready; nothing of it is left afterwards."""
    cluster = RayCluster(root)
    try:
        cluster.start_head()
        yield cluster
    finally:
        cluster.stop()
