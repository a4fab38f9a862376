"""A real Slurm on this machine: munged, slurmctld, and several slurmd, each a node of its own.

    with slurm_cluster(directory, nodes=2) as slurm:
        slurm.run("sinfo")

Needs root, as slurmd does, and the packages slurmctld, slurmd, slurm-client and munge. Everything
lives under one directory, and what is left of it at the end is killed by pid.
"""

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from tests.support.network import Network
from tests.support.server import free_port, wait_until

CPUS, MEMORY_MB = 4, 2000
FAR = "far"
"""The node in a network of its own."""
READY = ("idle", "mixed", "allocated", "completing")

# Without NoInAddrAny daemons would listen everywhere; without batch_sched_delay each start and
# end of a job takes 2 to 3 seconds.
_CONFIG = """\
ClusterName=lab
SlurmctldHost={host}({address})
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.sock
CredType=cred/munge
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
{listens}
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=10
MessageTimeout=5
KillWait=15
PreemptType=preempt/partition_prio
PreemptMode=CANCEL
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=20
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


_LOCAL = "CommunicationParameters=NoCtldInAddrAny,NoInAddrAny"


class SlurmCluster:
    """Nodes n1, n2, …, each with 4 CPUs and 2 GPUs that are none; partitions main and urgent."""

    def __init__(self, root: Path, nodes: int, far: Network | None = None) -> None:
        self.root, self.names = root, [f"n{i + 1}" for i in range(nodes)]
        self.environment = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "SLURM_CONF": str(root / "slurm.conf"),
        }
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._far = far
        if far is not None:
            self.names.append(FAR)

    def start(self) -> None:
        self._write()
        self._start_munge()
        self.start_controller("-c")
        for name in self.names:
            self.start_node(name)
        self.wait_ready()

    def _write(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        for name in ("state", "spool", "dev"):
            (self.root / name).mkdir(parents=True)
        self.root.chmod(0o755)
        for number in range(2):  # slurmd counts these device files, and opens none
            os.mknod(self.root / "dev" / f"gpu{number}", 0o020666, os.makedev(1, 3))
        host, ports = socket.gethostname(), free_ports(len(self.names) + 2)
        address = "127.0.0.1" if self._far is None else self._far.here
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr={self._address(name)} Port={port} "
            f"CPUs={CPUS} RealMemory={MEMORY_MB} Gres=gpu:a100:2 State=UNKNOWN"
            for name, port in zip(self.names, ports[2:], strict=True)
        )
        config = _CONFIG.format(
            host=host,
            address=address,
            ports=ports,
            root=self.root,
            nodes=nodes,
            listens=_LOCAL if self._far is None else "",
        )
        (self.root / "slurm.conf").write_text(config)
        every = ",".join(self.names)
        gpus = (
            f"AutoDetect=off\nNodeName={every} Name=gpu Type=a100 File={self.root}/dev/gpu[0-1]\n"
        )
        (self.root / "gres.conf").write_text(gpus)

    def _address(self, name: str) -> str:
        return self._far.address if self._far and name == FAR else "127.0.0.1"

    def _start_munge(self) -> None:
        key, at = self.root / "munge.key", self.root / "munge.sock"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._spawn(
            "munged", "munged", "--foreground", "--force", f"--socket={at}", f"--key-file={key}",
            f"--pid-file={self.root}/munged.pid", f"--log-file={self.root}/munged.log",
            f"--seed-file={self.root}/munge.seed",
        )  # fmt: skip
        wait_until(at.exists, self.logs)

    def start_controller(self, *arguments: str) -> None:
        self._spawn("slurmctld", "slurmctld", "-D", *arguments)

    def start_node(self, name: str) -> None:
        command = ("slurmd", "-D", "-N", name)
        far = self._far if name == FAR else None
        self._spawn(name, *(far.command(*command) if far else command))

    def _spawn(self, name: str, *command: str) -> None:
        with (self.root / f"{name}.out").open("ab") as out:
            self._processes[name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=self.environment,
                start_new_session=True,
            )  # fmt: skip

    def wait_ready(self, *names: str) -> None:
        """Wait until the nodes (by default all) can take jobs."""
        wanted = names or tuple(self.names)

        def ready() -> bool:
            lines = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %T", check=False)
            states = dict(line.split() for line in lines.splitlines() if " " in line)
            return all(states.get(name, "").rstrip("*") in READY for name in wanted)

        wait_until(ready, self.logs, every=0.1)

    def run(self, *command: str, check: bool = True, script: str | None = None) -> str:
        """Run one of Slurm's commands; its output."""
        done = subprocess.run(
            command, input=script, capture_output=True, text=True, env=self.environment, timeout=60
        )
        assert not check or done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def jobs(self) -> list[str]:
        """The names of all jobs that have not ended.

        A job that is completing has: where its node's last message was lost, as at a restart of
        the controller, Slurm asks again after minutes.
        """
        return self.run("squeue", "-h", "-t", "PENDING,RUNNING,SUSPENDED", "-o", "%j").split()

    def job_id(self, name: str) -> str:
        """The id of the job of this name."""
        return self.run("squeue", "-h", "-t", "all", "-n", name, "-o", "%i").split()[-1]

    def is_up(self, name: str) -> bool:
        """Return True if nobody has ended this daemon; it may be frozen."""
        return name in self._processes

    def daemon(self, name: str) -> psutil.Process:
        """slurmctld, munged or a node's slurmd."""
        return psutil.Process(self._processes[name].pid)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """End a daemon, and wait for that."""
        process = self._processes.pop(name)
        process.send_signal(number)
        process.wait(60)

    def kill_node(self, name: str) -> None:
        """Kill all of a node at once, as a power cut would: slurmd, its steps and their jobs."""
        self.kill(name)
        members = self.members(f"SLURMD_NODENAME={name}")
        steps = set()
        for process in members:
            with suppress(psutil.Error):  # one that has ended by now
                parent = process.parent()
                if parent and "slurmstepd" in parent.name():
                    steps.add(parent)
        whole = [*(steps - set(members)), *members]
        # One after the other, those that are left would still report how the first ones ended.
        for deed in (psutil.Process.suspend, psutil.Process.kill):
            for process in whole:
                with suppress(psutil.Error):
                    deed(process)

    def members(self, mark: str = "") -> list[psutil.Process]:
        """The processes of this cluster and its jobs, without the test's own."""
        conf = f"SLURM_CONF={self.root / 'slurm.conf'}"
        found = []
        for process in psutil.process_iter():
            try:
                environment = Path(f"/proc/{process.pid}/environ").read_text(errors="replace")
            except OSError:
                continue
            variables = environment.split("\0")
            if conf in variables and (not mark or mark in variables):
                found.append(process)
        return found

    def logs(self) -> str:
        """The end of every log, for a failed assertion."""
        files = sorted([*self.root.glob("*.log"), *self.root.glob("*.out")])
        return "\n".join(f"--- {f.name}\n{f.read_text(errors='replace')[-1500:]}" for f in files)

    def stop(self) -> None:
        for name in [*self.names, "slurmctld", "munged"]:
            if name in self._processes:
                with suppress(subprocess.TimeoutExpired):
                    self.kill(name, signal.SIGTERM)
        # The steps of jobs that have not ended outlive their slurmd.
        for process in self.members():
            with suppress(psutil.Error):
                process.kill()


def free_ports(number: int) -> list[int]:
    """Ports that were free a moment ago, each another one."""
    ports: set[int] = set()
    while len(ports) < number:
        ports.add(free_port())
    return sorted(ports)


@contextmanager
def slurm_cluster(root: Path, nodes: int, far: Network | None = None) -> Iterator[SlurmCluster]:
    """A cluster that is ready, with a node more in the network `far`; nothing of it is left
    afterwards."""
    cluster = SlurmCluster(root, nodes, far)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def in_path(environment: Mapping[str, str]) -> bool:
    """Return True if Slurm's daemons are installed."""
    return all(shutil.which(each, path=environment["PATH"]) for each in ("slurmctld", "slurmd"))
