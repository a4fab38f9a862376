"""The small process between the server and one trainer.

It claims the attempt (at most one wrapper ever does), starts the trainer, passes a stop on,
enforces the grace, ends every descendant and writes down how it ended. It needs no server
for any of that. While it lives it renews the time of its identity.json: the pulse, by which
servers on other machines know that it does.

`COMMAND` starts it; its stdin is `marshal.dumps((code of this module, order))`. Sending the code
saves the time to find and compile it, and makes the wrapper the server's own version.

Every import delays the trainer and may be gone from the disk when the trainer ends, days
later: only modules that the interpreter has loaded anyway, and `_ctypes` at the start.
`posix` is the part of `os` that is loaded anyway; the rest of it costs 1.5 ms.
"""

import _signal as signal  # type: ignore[import-not-found]  # `signal` costs 6 ms for its enums
import _thread
import posix
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

STOP, KILL = signal.SIGTERM, signal.SIGUSR1
"""What a server of the same place sends to the wrapper."""

PULSE_SECONDS = 2.0
_RESERVED = ".exit.json"
_SAFE = posix.O_NOFOLLOW | posix.O_NONBLOCK  # for names that the trainer can put links or FIFOs at
_SWEEP_SECONDS = 0.02
_LOG_SECONDS = 0.25
_PUNCHES = True  # for tests: as if the file system could not make holes
_GIVE_UP_SECONDS = 5.0
_OOM_SECONDS = 60.0
_place = ""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_LINUX = sys.platform == "linux"


COMMAND = (
    sys.executable,
    "-I",
    "-S",
    "-X",
    "utf8",
    "-c",
    """
import marshal, sys
if order := sys.stdin.buffer.read():  # else the server died before it gave one
    code, order = marshal.loads(order)
    wrapper = {"__name__": "wrapper"}
    exec(code, wrapper)
    wrapper["main"](order)
""",
)


def main(order: "dict[str, Any]") -> None:
    """Carry out the order: `directory` (of the attempt), `nonce`, `argv`, `env`, `cwd`,
    `stop_signal`, `grace_seconds`, `max_log_bytes`, `failpoints`. Ends silently if the attempt is
    taken."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    signal.signal(signal.SIGCHLD, lambda *_: None)  # BSDs drop a blocked signal that is ignored
    null = posix.open("/dev/null", posix.O_RDWR)
    posix.dup2(null, 0)
    _failpoint(order, "wrapper.started")
    folder = open_directory(_text(order["directory"]))
    started = time.monotonic()
    identity = {
        "format": 1,
        "pid": posix.getpid(),
        "start_time": start_time(posix.getpid()),
        "place": place(),
        "nonce": order["nonce"],
        "stop_signal": order["stop_signal"],
        "grace_seconds": order["grace_seconds"],
        "started": started,
    }
    if not claim(folder, identity):
        return
    _failpoint(order, "wrapper.identity_saved")
    outcome = _train(folder, order, started)
    for _ in range(3600):  # a disk may be full for a while, and the exit code must not be lost
        try:
            return write_exit(folder, **outcome)
        except FileNotFoundError:
            return  # somebody deleted the run
        except OSError:
            time.sleep(1)


def _train(folder: int, order: "dict[str, Any]", started: float) -> dict[str, object]:
    """From the claim to the end of the last descendant; what exit.json shall say of it."""
    # The server writes stop.json, then looks for our identity; we do it the other way round,
    # so that one of the two always sees the other.
    if _exists("stop.json", folder):
        return {"detail": "Stopped before the trainer began."}
    started_at, log_start = now(), posix.fstat(1).st_size
    ooms = [_oom_kills()]
    try:
        trainer, error = _start(order["argv"], order["env"], order["cwd"])
    except (OSError, ImportError) as lack:  # of processes, descriptors, memory
        return {"started_at": started_at, "detail": f"The trainer could not be started: {lack}."}
    if error:
        posix.waitpid(trainer, 0)
        return {"started_at": started_at, "detail": error}
    _failpoint(order, "wrapper.spawned")
    reserve(folder)
    try:
        window = int((_OOM_SECONDS + order["grace_seconds"]) / PULSE_SECONDS)
        # Not earlier: that would delay the trainer.
        _thread.start_new_thread(_pulse, (folder, started, ooms, window))
        _thread.start_new_thread(
            _limit_log, (_text(order["directory"]).rpartition("/")[0], order["max_log_bytes"])
        )
    except RuntimeError:
        pass  # no more threads; for servers of this place nothing changes
    code, stop_sent, killed = _watch(trainer, order["stop_signal"], order["grace_seconds"])
    _failpoint(order, "wrapper.trainer_ended")
    ended_at = now()
    return {
        "exit_code": code if code >= 0 else None,
        "signal": -code if code < 0 else None,
        "stop_sent": stop_sent,
        "killed": killed,
        "oom": code != 0 and not killed and _oom_kills() > ooms[0],
        "log_start": log_start,
        "started_at": started_at,
        "ended_at": ended_at,
        "detail": _end_descendants(trainer),
    }


def open_directory(path: str) -> int:
    """Open an attempt's directory, not through a link. What is in it is opened relative to that:
    the trainer can swap directories and leave links in them."""
    return posix.open(path, posix.O_RDONLY | posix.O_DIRECTORY | posix.O_NOFOLLOW)


def claim(folder: int, identity: dict[str, object]) -> bool:
    """Publish identity.json, whole and at most once. False: the attempt is somebody else's."""
    draft = f".identity-{posix.urandom(8).hex()}"
    _write(folder, draft, _json(identity))
    try:
        posix.link(draft, "identity.json", src_dir_fd=folder, dst_dir_fd=folder)
    except FileExistsError:
        return False
    finally:
        posix.unlink(draft, dir_fd=folder)
    return True


def write_exit(folder: int, **outcome: object) -> None:
    """Publish exit.json: how it ended, as far as it is not the default. Raises OSError."""
    record = {
        "format": 1,
        "exit_code": None,
        "signal": None,
        "stop_sent": False,
        "killed": False,
        "oom": False,
        "log_start": 0,
        "started_at": None,
        "ended_at": now(),
        "detail": "",
    }
    text = _json(record | outcome)
    replace(folder, "exit.json", text, _RESERVED if _exists(_RESERVED, folder) else None)


def reserve(folder: int) -> None:
    """Take the room for exit.json: trainers fill the disk, and their end must be told all the
    same."""
    try:
        _write(folder, _RESERVED, " " * 4096)
    except OSError:
        return  # it is full already: as long as it is, the end is not told


def replace(folder: int, name: str, text: str, draft: "str | None" = None) -> None:
    """Write a file so that it is there whole, or not at all, whatever happens.

    `draft`: a file to write it over, before that becomes the one. Raises OSError.
    """
    draft = draft or f".{name}-{posix.urandom(8).hex()}"
    try:
        _write(folder, draft, text)
        try:
            posix.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        except IsADirectoryError:
            _discard(folder, name)
            posix.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        _discard(folder, draft)
        raise
    posix.fsync(folder)


def _discard(folder: int, name: str) -> None:
    """Remove a file; rename a directory that the trainer put in its place."""
    try:
        posix.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return
    except OSError:
        aside = f".{name}.aside-{posix.urandom(8).hex()}"
        posix.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)


def start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process; None where that cannot be known."""
    status = _stat(pid)
    return int(status[19]) if status else None


def place() -> str:
    """Names this boot of this machine and its space of pids: a container has its own.

    Only in the same place does a pid mean the same process.
    """
    global _place
    if not _place:
        try:
            with open("/proc/sys/kernel/random/boot_id") as file:
                _place = f"{file.read().strip()}/{posix.stat('/proc/self/ns/pid').st_ino}"
        except FileNotFoundError:
            _place = posix.uname().nodename
    return _place


def now() -> str:
    """UTC, ISO 8601 with offset."""
    seconds = time.time()
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1e6):06d}+00:00"


def _start(argv: list[bytes], env: dict[bytes, bytes], cwd: bytes | None) -> tuple[int, str]:
    """Fork the trainer into a process group of its own; its pid, and why it could not start."""
    prctl = _prctl()
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    reading, writing = posix.pipe()  # closed by a successful exec
    wrapper = posix.getpid()
    trainer = posix.fork()
    if trainer == 0:
        failure = f"Cannot run {_text(argv[0])!r}"
        try:
            posix.setpgid(0, 0)
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if posix.getppid() != wrapper:
                posix._exit(1)  # it died before the line above
            for number in signal.valid_signals():
                if signal.getsignal(number) == signal.SIG_IGN:
                    signal.signal(number, signal.SIG_DFL)
            if cwd is not None:
                failure = f"Cannot enter the working directory {_text(cwd)!r}"
                posix.chdir(cwd)
                failure = f"Cannot run {_text(argv[0])!r}"
            signal.pthread_sigmask(signal.SIG_SETMASK, ())
            _exec(argv, env)
        except BaseException as error:
            reason = getattr(error, "strerror", None) or error
            posix.write(writing, f"{failure}: {reason}.".encode(errors="replace"))
        finally:
            posix._exit(127)
    posix.close(writing)
    with open(reading, "rb") as pipe:
        return trainer, pipe.read().decode()


def _exec(argv: list[bytes], env: dict[bytes, bytes]) -> None:
    """Become the program, looked for in the PATH of `env`. Returns only by an OSError."""
    if b"/" in argv[0]:
        posix.execve(argv[0], argv, env)
    failure: OSError = FileNotFoundError(2, "No such file or directory")
    for folder in env.get(b"PATH", b"/bin:/usr/bin").split(b":"):
        try:
            posix.execve((folder or b".") + b"/" + argv[0], argv, env)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            failure = error
    raise failure


def _watch(trainer: int, stop_signal: int, grace_seconds: float) -> tuple[int, bool, bool]:
    """Wait for the trainer, and end it when told to: exit code (negative: by which signal),
    whether the stop signal was sent, whether it was killed."""
    stop_sent = killed = False
    while True:
        event = signal.sigwait({signal.SIGCHLD, signal.SIGALRM, STOP, KILL})
        if event == signal.SIGCHLD:
            code = _reap(trainer)[0]
            if code is not None:
                return code, stop_sent, killed
        elif event == STOP:
            if not stop_sent and not killed:
                stop_sent = True
                signal.setitimer(signal.ITIMER_REAL, max(grace_seconds, 1e-6))
                # Not the group: a data loader's workers would die of it, and the trainer of
                # them, before it can save. As under Kubernetes, the command's process decides.
                # It is not yet reaped, so the pid is still its own. Signal 0 is none.
                posix.kill(trainer, stop_signal)
                _signal_group(trainer, signal.SIGCONT)  # a paused trainer shall hear it too
        else:  # told to kill, out of grace, or time to sweep again
            killed = True
            _signal_group(trainer, signal.SIGKILL)
            _kill_children()
            signal.setitimer(signal.ITIMER_REAL, _SWEEP_SECONDS)


def _pulse(folder: int, started: float, ooms: list[int], window: int) -> None:
    """Show that we live, and look for what a server of another place asked, until we end.

    `ooms` keeps the last `window` counts of the kernel's kills: one of long ago, which other runs
    of this control group may have caused, does not explain the end of this one.

    In a thread, so that a disk that hangs holds up neither the grace nor a kill.
    """
    heard = None
    while True:
        time.sleep(PULSE_SECONDS)
        ooms.append(_oom_kills())
        del ooms[:-window]
        try:
            _write_age(folder, time.monotonic() - started)
        except OSError:
            pass  # such as a full disk: the pulse must go on
        try:
            posix.utime("identity.json", dir_fd=folder, follow_symlinks=False)
            # The listing, since a client of NFS remembers for long that a file is not there.
            if "stop.json" not in posix.listdir(folder):
                continue
            opened = posix.open("stop.json", posix.O_RDONLY | _SAFE, dir_fd=folder)
            try:
                request = KILL if b'"kill": true' in posix.read(opened, 4096) else STOP
            finally:
                posix.close(opened)
        except OSError:
            continue
        if request != heard:
            heard = request
            posix.kill(posix.getpid(), request)


def _limit_log(run_dir: str, most: int) -> None:
    """Keep what train.log takes of the disk near `most` bytes: its beginning and its end stay, what
    is between becomes a hole. So no offset changes, and no trainer waits for us as at a pipe.

    `dropped.json` says which bytes those are: {"start": …, "end": …}; just before the end stands
    how many, for people. Our stdout is the log; until we end.
    """
    head, tail = max(most // 8, 4096) & -4096, most // 2
    kept_from = 0
    while True:
        time.sleep(_LOG_SECONDS)
        try:
            size = posix.fstat(1).st_size
            if size - kept_from <= most - head:
                continue
            cut = (size - tail) & -4096
            if cut > head:
                _drop_output(run_dir, head, cut)
            kept_from = cut
        except (OSError, ImportError):
            continue  # such as a full disk: this makes room, so it is tried again


def _drop_output(run_dir: str, start: int, cut: int) -> None:
    """Make a hole of the log's bytes from `start` to `cut`, and say so in its last ones."""
    said = b"\n[%d bytes of output were dropped here: the recipe's max_log_mb]\n" % (cut - start)
    folder = open_directory(run_dir)
    try:
        # Our own descriptor appends whatever the offset.
        path = "/proc/self/fd/1" if _LINUX else "train.log"
        flags = posix.O_RDWR | (0 if _LINUX else _SAFE)
        log = posix.open(path, flags, dir_fd=folder)
        try:
            dropped: dict[str, object] = {"start": start, "end": cut - len(said)}
            replace(folder, "dropped.json", _json(dropped))  # first: a hole reads as zeros
            if not _punch_hole(log, start, cut - start):
                # What is printed between these lines is lost, uncounted: only file systems that
                # make no holes, such as NFS before 4.2, need them.
                size = posix.fstat(log).st_size
                kept = posix.pread(log, size - cut, cut)
                posix.truncate(log, start)
                posix.truncate(log, size)
                posix.pwrite(log, kept, cut)
            posix.pwrite(log, said, cut - len(said))
        finally:
            posix.close(log)
    finally:
        posix.close(folder)


def _punch_hole(file: int, start: int, length: int) -> bool:
    """Free these bytes of a file; False where the system or the file system cannot."""
    if not (_LINUX and _PUNCHES):
        return False
    import _ctypes

    class Long(_ctypes._SimpleCData):  # type: ignore[type-arg]
        _type_ = "l"

    keep_size_and_punch_hole = 3
    address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "fallocate")  # type: ignore[arg-type]
    arguments = (file, keep_size_and_punch_hole, Long(start), Long(length))
    return bool(_ctypes.call_cdeclfunction(address, arguments) == 0)


def _write_age(folder: int, seconds: float) -> None:
    """Record how long the attempt has run, for servers that cannot read this machine's clock.

    Always as many bytes: they are written over, so that this needs no room on the disk.
    """
    flags = posix.O_WRONLY | posix.O_CREAT | _SAFE
    descriptor = posix.open("age.json", flags, 0o600, dir_fd=folder)
    try:
        posix.write(descriptor, b'{"ran_seconds": %20.1f}\n' % seconds)
    finally:
        posix.close(descriptor)


def _end_descendants(trainer: int) -> str:
    """Kill what the trainer left behind, wherever it hid; says what could not be ended."""
    if not _LINUX:  # no subreaper: what left the process group is out of reach
        _signal_group(trainer, signal.SIGKILL)
    deadline = time.monotonic() + _GIVE_UP_SECONDS
    while _reap(trainer)[1]:
        if time.monotonic() > deadline:
            return f"Processes {_children()} of the trainer could not be ended."
        _kill_children()
        signal.setitimer(signal.ITIMER_REAL, _SWEEP_SECONDS)
        signal.sigwait({signal.SIGCHLD, signal.SIGALRM})
    return ""


def _reap(trainer: int) -> tuple[int | None, bool]:
    """Collect every ended child: the trainer's code if it is among them, and if any child lives."""
    code = None
    while True:
        try:
            pid, status = posix.waitpid(-1, posix.WNOHANG)
        except ChildProcessError:
            return code, False
        if pid == 0:
            return code, True
        if pid == trainer:
            code = posix.waitstatus_to_exitcode(status)


def _kill_children() -> None:
    """SIGKILL to the direct children. Their own children become ours as they die (subreaper):
    a child that we have not reaped cannot lose its pid to a stranger, a grandchild can."""
    for pid in _children():
        try:
            posix.kill(pid, signal.SIGKILL)
        except OSError:
            continue


def _children() -> list[int]:
    if not _LINUX:
        return []
    parent = str(posix.getpid()).encode()
    pids = [int(name) for name in posix.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if (status := _stat(pid)) and status[1] == parent]


def _signal_group(leader: int, number: int) -> None:
    try:
        posix.killpg(leader, number)
    except OSError:
        return  # already empty


def _stat(pid: int) -> list[bytes]:
    """What follows the name in /proc/PID/stat: state, parent, … Empty: no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return []  # and no other error: who lacks descriptors just now knows nothing
    return text[text.rindex(b")") + 2 :].split()


def _oom_kills() -> int:
    """How many processes the kernel has killed for memory: in our control group, or at all."""
    paths = []
    try:
        with open("/proc/self/cgroup") as file:
            for line in file:
                _, controllers, group = line.rstrip("\n").split(":", 2)
                if controllers == "memory":
                    paths.append(f"/sys/fs/cgroup/memory{group}/memory.oom_control")
                elif not controllers:
                    paths.append(f"/sys/fs/cgroup{group}/memory.events")
    except OSError:
        return 0
    # In a container without a namespace for them, groups have paths that are not there.
    here = ["/sys/fs/cgroup/memory.events", "/sys/fs/cgroup/memory/memory.oom_control"]
    for path in [*paths, *here, "/proc/vmstat"]:
        try:
            with open(path) as file:
                for line in file:
                    if line.startswith("oom_kill "):
                        return int(line.split()[1])
        except OSError:
            continue
    return 0


def _prctl() -> "Callable[[int, int], int]":
    """prctl(2) as a function of two numbers; does nothing where there is none."""
    if not _LINUX:
        return lambda option, value: 0
    import _ctypes  # `ctypes` itself costs 4 ms of start-up

    address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
    return lambda option, value: _ctypes.call_cdeclfunction(address, (option, value, 0, 0, 0))


def _text(name: bytes) -> str:
    return name.decode(errors="surrogateescape")  # as the file system's, under -X utf8


def _exists(path: str, folder: "int | None" = None) -> bool:
    try:
        posix.stat(path, dir_fd=folder, follow_symlinks=False)
    except OSError:
        return False
    return True


def _write(folder: int, name: str, text: str) -> None:
    flags = posix.O_WRONLY | posix.O_CREAT | _SAFE
    descriptor = posix.open(name, flags, 0o600, dir_fd=folder)
    try:
        data = text.encode()
        if posix.write(descriptor, data) < len(data):
            raise OSError("short write")
        posix.truncate(descriptor, len(data))  # fails where this is a FIFO
        posix.fsync(descriptor)
    finally:
        posix.close(descriptor)


def _json(record: dict[str, object]) -> str:
    """A flat record as JSON; importing `json` would cost 9 ms."""
    return "{%s}\n" % ", ".join(f"{_quoted(k)}: {_value(v)}" for k, v in record.items())


def _value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    plain = (
        f"\\u{ord(c):04x}" if c < " " or c in '"\\' or "\ud800" <= c <= "\udfff" else c
        for c in text
    )
    return '"' + "".join(plain) + '"'


def _failpoint(order: "dict[str, Any]", name: str) -> None:
    action = order["failpoints"].get(name)
    if action == "kill":
        posix.kill(posix.getpid(), signal.SIGKILL)
    if action and action.startswith("wait:"):
        while not _exists(action[5:]):
            time.sleep(0.005)
