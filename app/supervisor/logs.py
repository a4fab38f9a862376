"""The logs of a run: their ends are searched for the cause of a failure; they are removed as one.

train.log holds what the command and its ranks printed. A launcher may have written the ranks' own
logs below the run's directory as well (torchrun --log-dir): they are read where train.log names no
error. All of these files are the trainer's.
"""

import math
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from app.domain.evidence import Clues
from app.services import train_log
from app.storage import files

TAIL = 65_536
"""The most bytes of a log that are read."""
MOST_LOGS, MOST_ENTRIES, DEEPEST = 32, 1000, 5


def find_clues(run_dir: Path, attempt: int, log_start: int) -> Clues:
    """Return what the logs of an attempt say of its end.

    `log_start`: where its output begins in train.log, which holds that of all attempts.
    """
    from app.domain.clues import read_clues  # its patterns take a start 7 ms

    clues = read_clues(_read_tail(run_dir, "train.log", log_start))
    if clues.error or clues.child_signal is not None:
        return clues
    for log in _rank_logs(run_dir, attempt):
        of_rank = read_clues(_read_tail(run_dir, str(log.relative_to(run_dir)), 0))
        if of_rank.error:
            return clues._replace(error=of_rank.error)
    return clues


def remove_logs(run_dir: Path) -> None:
    """Remove train.log and the logs of ranks below the run's directory. Raises OSError.

    What the trainer puts in their place meanwhile, a link or a directory, leads nowhere.
    """
    for path in list(_list_logs(run_dir, math.inf)):
        *folders, name = path.relative_to(run_dir).parts
        with (
            suppress(FileNotFoundError, files.Unusable),
            files.directory(run_dir.parent, run_dir.name, *folders) as folder,
        ):
            if not files.is_directory(folder, name):
                files.remove(folder, name)
    train_log.remove(run_dir)


def _read_tail(run_dir: Path, name: str, start: int) -> str:
    """Return the end of a log from `start` on; of one that is shorter than that, of all of it."""
    *folders, file_name = Path(name).parts
    try:
        with files.directory(run_dir.parent, run_dir.name, *folders) as folder:
            log = files.open_file(folder, file_name)
        with os.fdopen(log, "rb") as file:
            size = os.fstat(log).st_size
            file.seek(max(0, start if start <= size else 0, size - TAIL))
            return file.read(TAIL).decode(errors="replace")
    except OSError:
        return ""


def _rank_logs(run_dir: Path, attempt: int) -> list[Path]:
    """Return the logs that this attempt wrote below the run's directory, the newest first.

    Those of earlier attempts were last written before the last of these had ended.
    """
    earlier = run_dir / f"attempt-{attempt - 1}" / "exit.json"
    since = earlier.stat().st_mtime_ns if earlier.exists() else 0
    logs = []
    for path in _list_logs(run_dir, MOST_ENTRIES):
        with suppress(OSError):
            status = path.lstat()
            if stat.S_ISREG(status.st_mode) and status.st_mtime_ns > since:
                logs.append((status.st_mtime_ns, path))
    return [path for _, path in sorted(logs, reverse=True)[:MOST_LOGS]]


def _list_logs(run_dir: Path, most_entries: float) -> Iterator[Path]:
    """Yield the logs in the directories of a run, but train.log; links are not followed."""
    entries = 0
    for folder, folders, names in os.walk(run_dir):
        entries += len(folders) + len(names)
        if entries > most_entries:
            return
        if len(Path(folder).relative_to(run_dir).parts) >= DEEPEST:
            folders.clear()
        for name in names:
            path = Path(folder, name)
            if name.endswith((".log", ".err")) and path != run_dir / "train.log":
                yield path
