"""The training's use of its machine, as metrics `system/…` at the current step.

    system/cpu_percent        of all its processes; 100 is one core
    system/memory_mb          resident, of all its processes
    system/disk_read_mb_s, system/disk_write_mb_s        of all its processes
    system/network_received_mb_s, system/network_sent_mb_s    of this machine, without loopback
    system/host_cpu_percent, system/host_memory_percent  of this machine
    system/gpu0/utilization_percent, …/memory_mb, …/memory_percent, …/power_w, …/temperature_c

Those are of the machine that rank 0 is on; other machines' are `system/rank8@HOST/…` (nodes.py).

From /proc and, for GPUs, NVML by ctypes: no package and no CUDA context. Its processes are those
below the command that the service launched, torchrun and every rank on this machine included; for
a trainer that attached by itself, those below this one. Linux only; elsewhere there are no metrics.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

SECONDS = 10.0
MOST_OF_A_CORE = 0.005
PREFIX = "system/"
_NVML = "libnvidia-ml.so.1"


class SystemMetrics:
    """Calls `report` with values every `seconds`, in a thread of its own.

    Its own, because a driver may hang: that must not stop reports. Where one sample costs much
    (thousands of threads), they become fewer: they take at most 0.5 % of a core.
    """

    def __init__(
        self,
        report: Callable[[dict[str, float]], None],
        seconds: float,
        at_end: Callable[[], None] = lambda: None,
    ) -> None:
        """Start nothing yet. `at_end` is called when the thread ends, also after an error."""
        self._report, self._seconds, self._at_end = report, seconds, at_end
        self._closed = threading.Event()
        self._started = False

    def start(self) -> None:
        """Start the thread, once. Does nothing without /proc."""
        if not self._started and self._seconds > 0 and os.path.isdir("/proc/self/task"):
            self._started = True
            threading.Thread(target=self._run, name="reporter-system", daemon=True).start()

    def close(self) -> None:
        """End the thread soon."""
        self._closed.set()

    def _run(self) -> None:
        pause = self._seconds
        with suppress(Exception):  # metrics must not end anything
            sampler = Sampler()
            sampler.read()
            used = time.thread_time()
            while not self._closed.wait(pause):
                self._report(sampler.read())
                before, used = used, time.thread_time()
                pause = max(self._seconds, (used - before) / MOST_OF_A_CORE)
        with suppress(Exception):
            self._at_end()


class _Counts(NamedTuple):
    at: float
    cpu: float
    disk_read: float
    disk_write: float
    received: float
    sent: float
    host_idle: float
    host_cpu: float


class Sampler:
    """Reads values; rates are those since the last `read`."""

    def __init__(self, root: int | None = None, gpus: "list[Gpu] | None" = None) -> None:
        """Sample the processes from `root` down; None: those of this training."""
        self._root = root or find_root()
        self._gpus = find_gpus() if gpus is None else gpus
        self._tick, self._page = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
        self._before: _Counts | None = None

    def read(self) -> dict[str, float]:
        """Return the values by name. Processes that end meanwhile are left out."""
        cpu = memory = disk_read = disk_write = 0.0
        for pid in list_tree(self._root):
            with suppress(OSError, ValueError, IndexError):
                fields = _stat(pid)
                cpu += (int(fields[11]) + int(fields[12])) / self._tick
                memory += int(fields[21]) * self._page
                read, written = _io(pid)
                disk_read, disk_write = disk_read + read, disk_write + written
        values = {"system/memory_mb": memory / 1e6}
        now = _Counts(time.monotonic(), cpu, disk_read, disk_write, *_network(), *_host_cpu())
        if self._before is not None:
            values |= _rates(self._before, now)
        self._before = now
        with suppress(OSError, ValueError, KeyError):
            values["system/host_memory_percent"] = _host_memory()
        for number, gpu in enumerate(self._gpus):
            values |= {f"system/gpu{number}/{key}": value for key, value in gpu.read().items()}
        return values


def _rates(before: _Counts, now: _Counts) -> dict[str, float]:
    seconds = max(now.at - before.at, 1e-6)

    def rate(name: str, scale: float) -> float:
        # Never below 0: what a process did is not counted any more once it has ended.
        return float(max(0.0, getattr(now, name) - getattr(before, name)) / seconds * scale)

    values = {
        "system/cpu_percent": rate("cpu", 100),
        "system/disk_read_mb_s": rate("disk_read", 1e-6),
        "system/disk_write_mb_s": rate("disk_write", 1e-6),
        "system/network_received_mb_s": rate("received", 1e-6),
        "system/network_sent_mb_s": rate("sent", 1e-6),
    }
    total = now.host_cpu - before.host_cpu
    if total > 0:
        idle = now.host_idle - before.host_idle
        values["system/host_cpu_percent"] = max(0.0, 100 * (1 - idle / total))
    return values


def list_tree(root: int) -> list[int]:
    """Return a process and all below it."""
    processes, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        processes.append(pid)
        with suppress(OSError, ValueError):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:
                    waiting += map(int, file.read().split())
    return processes


def find_root() -> int:
    """Return the oldest ancestor below the agent that belongs to the same run: the command."""
    pid, nonce = os.getpid(), os.environ.get("LLM_TRAIN_NONCE", "")
    mark = f"LLM_TRAIN_NONCE={nonce}".encode()
    while nonce:
        try:
            parent = int(_stat(pid)[1])
            with open(f"/proc/{parent}/environ", "rb") as file:
                if mark not in file.read().split(b"\0"):
                    return pid
            with open(f"/proc/{parent}/cmdline", "rb") as file:
                if b"agent.main" in file.read():  # the agent, which has the same nonce
                    return pid
        except (OSError, ValueError, IndexError):
            return pid
        pid = parent
    return pid


def _stat(pid: int) -> list[bytes]:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rpartition(b")")[2].split()


def _io(pid: int) -> tuple[float, float]:
    """Return the bytes that a process has read from and written to disks; another user's: 0."""
    try:
        with open(f"/proc/{pid}/io", "rb") as file:
            fields = dict(line.split(b": ") for line in file.read().splitlines())
        return float(fields[b"read_bytes"]), float(fields[b"write_bytes"])
    except (OSError, ValueError, KeyError):
        return 0.0, 0.0


def _network() -> tuple[float, float]:
    received = sent = 0.0
    with suppress(OSError, ValueError, IndexError), open("/proc/net/dev") as file:
        for line in file.readlines()[2:]:
            name, _, numbers = line.partition(":")
            if name.strip() != "lo":
                fields = numbers.split()
                received, sent = received + int(fields[0]), sent + int(fields[8])
    return received, sent


def _host_cpu() -> tuple[float, float]:
    """Return the ticks that this machine was idle for, and all."""
    try:
        with open("/proc/stat", "rb") as file:
            ticks = [int(field) for field in file.readline().split()[1:9]]
        return float(ticks[3] + ticks[4]), float(sum(ticks))
    except (OSError, ValueError, IndexError):
        return 0.0, 0.0


def _host_memory() -> float:
    with open("/proc/meminfo") as file:
        fields = dict(line.split(":") for line in file)
    size, free = (int(fields[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return 100 * (1 - free / size)


class _Utilization(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class _Memory(ctypes.Structure):
    """nvmlMemory_t, whose `used` counts what the driver keeps for itself: 500 MB of an H100."""

    _fields_ = [
        ("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong),
    ]  # fmt: skip


class _MemoryApart(ctypes.Structure):
    """nvmlMemory_v2_t, of drivers since 510: `used` is what nvidia-smi shows."""

    _fields_ = [
        ("version", ctypes.c_uint), ("total", ctypes.c_ulonglong), ("reserved", ctypes.c_ulonglong),
        ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong),
    ]  # fmt: skip


class Gpu:
    """One GPU by NVML. Values that the driver does not have are left out."""

    def __init__(self, library: Any, handle: Any) -> None:
        """Keep the handle."""
        self._library, self._handle = library, handle

    def name(self) -> str:
        """Return its name, such as `NVIDIA H100 80GB HBM3`."""
        text = ctypes.create_string_buffer(96)
        if self._library.nvmlDeviceGetName(self._handle, text, ctypes.c_uint(len(text))):
            return "unknown"
        return text.value.decode(errors="replace")

    def read(self) -> dict[str, float]:
        """Return the values by name."""
        library, handle, values = self._library, self._handle, dict[str, float]()
        use, number = _Utilization(), ctypes.c_uint()
        if not library.nvmlDeviceGetUtilizationRates(handle, ctypes.byref(use)):
            values["utilization_percent"] = float(use.gpu)
        if (memory := self._read_memory()) and memory.total:
            values["memory_mb"] = memory.used / 1e6
            values["memory_percent"] = 100 * memory.used / memory.total
        if not library.nvmlDeviceGetPowerUsage(handle, ctypes.byref(number)):
            values["power_w"] = number.value / 1000
        if not library.nvmlDeviceGetTemperature(handle, 0, ctypes.byref(number)):
            values["temperature_c"] = float(number.value)
        return values

    def _read_memory(self) -> "_MemoryApart | _Memory | None":
        apart = _MemoryApart(version=ctypes.sizeof(_MemoryApart) | 2 << 24)
        read = getattr(self._library, "nvmlDeviceGetMemoryInfo_v2", None)
        if read is not None and not read(self._handle, ctypes.byref(apart)):
            return apart
        whole = _Memory()
        failed = self._library.nvmlDeviceGetMemoryInfo(self._handle, ctypes.byref(whole))
        return None if failed else whole


def name_gpus() -> list[str]:
    """Return the names of the GPUs of this process."""
    return [gpu.name() for gpu in find_gpus()]


def find_gpus() -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES names, or all; none without a driver."""
    try:
        library = ctypes.CDLL(_NVML)
        return list(_open_gpus(library, os.environ.get("CUDA_VISIBLE_DEVICES")))
    except (OSError, AttributeError):
        return []


def _open_gpus(library: Any, visible: str | None) -> Iterator[Gpu]:
    if library.nvmlInit_v2():
        return
    count = ctypes.c_uint()
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    names = map(str, range(count.value)) if visible is None else visible.split(",")
    for name in filter(None, map(str.strip, names)):
        handle = ctypes.c_void_p()
        if name.isdigit():
            number = ctypes.c_uint(int(name))
            missing = library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle))
        else:  # GPU-… or MIG-…
            missing = library.nvmlDeviceGetHandleByUUID(name.encode(), ctypes.byref(handle))
        if not missing:
            yield Gpu(library, handle)
