"""The cause of a trainer's end, from its log: text in, `Clues` out.

A log ends with whatever was printed last: a launcher's footer, a warning of a library, another
rank's progress. So the last error before all that is searched for; errors that only follow from
the end of another rank count if there is no other.
"""

import re
import signal

from app.domain.evidence import Clues
from app.domain.text import on_one_line

MOST_CHARACTERS = 200
MOST_OF_A_LINE = 4000

_ESCAPE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[PX^_].*?\x1b\\|[ -/]*[0-~])"
)
# tqdm's ` 50%|#####     | 5/10 [00:01<00:01, 4.2it/s]`; it may stand before other output.
_BAR = re.compile(r"^.*?\d+%\|[^|]*\|\s*[^\s\[]*(?:\s*\[[^\]]*\])?")
# `[rank1]: ` of torch, `[default0]:` of torchrun --tee, `0: ` of srun, `(pid=1, ip=…) ` of Ray.
_RANK = re.compile(r"^(?:\[[A-Za-z]+\d+\]: ?|\d+: |\([\w ]*pid=[^)]*\) )")
_TRACEBACK = "Traceback (most recent call last):"
_RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:: .*|:? ?)$")
_ERROR = re.compile(
    r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt)(?:: .*|:? ?)$"
    r"|(?:Fatal Python error|CUDA error|NCCL error|slurmstepd: error): |\S+: error: |\s*what\(\): "
    r"|.*Watchdog caught collective operation timeout"
)
# Written by other ranks because one has ended, by launchers, and by interrupted processes.
_OF_A_PEER = re.compile(
    r"Connection (?:closed|reset) by|[Bb]roken ?[Pp]ipe|remote process exited"
    r"|communicator was aborted|DataLoader worker \(pid\(?s?\)? [\d, ]+\) exited unexpectedly"
)
_OF_A_LAUNCHER = re.compile(
    r"(?:[\w.]+\.)?(?:ChildFailedError|SignalException|CalledProcessError|ProcessExitedException"
    r"|ProcessRaisedException|KeyboardInterrupt|SystemExit)\b"
    r"|srun: error: .*: tasks? |slurmstepd\S*: error: \*\*\* (?:STEP|JOB) "
)
_NOISE = re.compile(
    r"[\W_]*$|[IWEF]\d{4} [\d:.]+ .*torch/distributed/|Failures:$|.* FAILED$"
    r"|\s*<NO_OTHER_FAILURES>$|Root Cause \(first observed failure\):$"
    r"|\s+(?:time|host|rank|exitcode|error_file|traceback) *:"
    r"|.*\.ChildFailedError:|\[\d+\]:$|.*destroy_process_group\(\)"
    r"|.*resource_tracker: There appear to be|\s+warnings\.warn\("
)
_SIGNALS = {
    "Killed": signal.SIGKILL, "Segmentation fault": signal.SIGSEGV, "Bus error": signal.SIGBUS,
    "Aborted": signal.SIGABRT,
}  # fmt: skip
# Of torchrun's footer the last one is the first failure that it saw, its "root cause".
_CHILD_ENDED = re.compile(
    r"exitcode *: (?P<code>-?\d+)|terminated with signal (?P<name>SIG\w+)"
    r"|died with <Signals\.(?P<python>SIG\w+)|return code = (?P<deepspeed>-\d+)"
    r"|(?:killed by signal:|line \d+: +\d+) (?P<words>Killed|Segmentation fault|Bus error|Aborted)"
)
# Of a GPU, or of an address space with a limit: the kernel killed nothing for these.
_OUT_OF_MEMORY = re.compile(r"(?:[A-Za-z_]\w*\.)*(?:OutOfMemoryError|_?(?:Array)?MemoryError)\b")
_LAUNCHER_STOPPED = re.compile(r"SignalException: Process \d+ got signal: (\d+)")
_WORKERS_KILLED = re.compile(r"Unable to shutdown process \d+ via .*, forcefully exiting via")
_SIGNAL_NOTED = re.compile(
    r"(?:received|caught|got|handling)\b.{0,40}?"
    r"\b(?:SIG(?:TERM|INT|USR1|USR2)|signal:? (?:2|10|12|15))\b"
    r"|\bSIG(?:TERM|INT|USR1|USR2)\b.{0,20}?\b(?:received|caught)",
    re.IGNORECASE,
)


def read_clues(log: str) -> Clues:
    """Return what a log, or its end, says of why its trainer ended."""
    lines = [_clean(line) for line in log.split("\n")]
    errors = [error for error in _find_errors(lines) if not _OF_A_LAUNCHER.match(error)]
    own = [error for error in errors if not _OF_A_PEER.search(error)]
    last = next((line.strip() for line in reversed(lines) if not _NOISE.match(line)), "")
    return Clues(
        error=_shorten(own[-1] if own else ""),
        follow_up=_shorten(errors[-1] if errors and not own else ""),
        last_line=_shorten(last or next((x.strip() for x in reversed(lines) if x.strip()), "")),
        child_signal=_find_child_signal(lines),
        launcher_signal=int(stopped[-1]) if (stopped := _LAUNCHER_STOPPED.findall(log)) else None,
        memory_error=bool(own and _OUT_OF_MEMORY.match(own[-1])),
        workers_killed=any(_WORKERS_KILLED.search(line) for line in lines),
        signal_noted=any(_SIGNAL_NOTED.search(line) for line in lines),
    )


def _find_errors(lines: list[str]) -> list[str]:
    """Return every error in order: what ends a traceback, and lines that are known to tell of one.

    Ranks write into one log: each line with the prefix of its rank belongs to that one's traceback.
    """
    errors: list[str] = []
    open_tracebacks: set[str] = set()
    for line in lines:
        rank = _RANK.match(line)
        prefix, rest = (rank[0].strip(), line[rank.end() :]) if rank else ("", line)
        if _TRACEBACK in rest:
            open_tracebacks.add(prefix)
        elif _ERROR.match(rest) or (
            prefix in open_tracebacks and not rest.startswith((" ", "\t")) and _RAISED.match(rest)
        ):
            open_tracebacks.discard(prefix)
            errors.append(rest.strip())
    return errors


def _find_child_signal(lines: list[str]) -> int | None:
    """Return the signal that the last process of a launcher was ended by, if it was by one."""
    for line in reversed(lines):
        match = _CHILD_ENDED.search(line)
        if match is None:
            continue
        if number := match["code"] or match["deepspeed"]:
            return -int(number) if int(number) < 0 else None
        if match["words"]:
            return int(_SIGNALS[match["words"]])
        known = signal.Signals.__members__.get(match["name"] or match["python"])
        return None if known is None else int(known)
    return None


def _clean(line: str) -> str:
    """Return what a terminal would show of a line, without colours and progress bars."""
    shown = [part for part in _ESCAPE.sub("", line[-MOST_OF_A_LINE:]).split("\r") if part.strip()]
    text = _BAR.sub("", shown[-1]) if shown else ""
    return on_one_line(text).rstrip()


def _shorten(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[: MOST_CHARACTERS - 1] + "…"
