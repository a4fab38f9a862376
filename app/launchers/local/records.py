"""The files of an attempt (app/agent/directory.py) as the service reads them.

The trainer can put anything in their place, so each record is bounded and checked field by field.
"""

import json
import os
import signal
from typing import Any, TypeGuard

from app.agent.mailbox import ExitRecord
from app.agent.process import host_namespace
from app.launchers.local.processes import Identity
from app.storage import files

_MOST_RECORD = 1 << 16


def read_record(folder: int, name: str) -> dict[str, Any] | None:
    """Return a record that was published whole, with its file's `mtime`; None: there is none.

    Empty: what is there is no record; its trainer wrote it, or a disk broke.
    """
    try:
        with os.fdopen(files.open_file(folder, name), "rb") as file:
            record = json.loads(file.read(_MOST_RECORD))  # opened, NFS tells the time as it is now
            mtime = os.fstat(file.fileno()).st_mtime_ns
    except FileNotFoundError:
        return None
    except (files.Unusable, ValueError, RecursionError):
        return {}
    return {**record, "mtime": mtime} if isinstance(record, dict) else {}


def get_number(record: dict[str, Any], key: str) -> float | None:
    """Return a number of a record; None if it has none there, as those of earlier versions."""
    value = record.get(key)
    return float(value) if isinstance(value, int | float) and abs(value) < 1e15 else None


def read_identity(record: dict[str, Any]) -> Identity | None:
    """Return the agent that a record names. None: the attempt was claimed without one, or the
    record is not what an agent wrote."""
    pid, began, nonce = record.get("pid"), record.get("start_time"), record.get("nonce")
    namespace = record.get("place")
    if namespace is None:  # of an agent of the first version: it told the boot alone
        here = host_namespace()
        namespace = here if record.get("boot_id") in (None, here.partition("/")[0]) else ""
    if not _is_number(pid) or not isinstance(nonce, str) or not isinstance(namespace, str):
        return None
    if not 0 < pid < 2**31 or not (began is None or _is_number(began)):
        return None
    return Identity(pid, began, namespace, nonce)


def read_exit(record: dict[str, Any] | None) -> ExitRecord | None:
    """Return the end that exit.json records; None if no agent can have written it."""
    record = record or {}
    code, number, detail = (record.get(key) for key in ("exit_code", "signal", "detail"))
    if (
        not (code is None or (_is_number(code) and 0 <= code < 2**31))
        or not (number is None or (_is_number(number) and 0 < number < signal.NSIG))
        or not isinstance(detail, str)
    ):
        return None
    stop_sent, killed, oom = (record.get(key) is True for key in ("stop_sent", "killed", "oom"))
    return ExitRecord(
        exit_code=code,
        signal=number,
        stop_sent=stop_sent,
        killed=killed,
        oom=oom,
        detail=detail,
        log_start=int(get_number(record, "log_start") or 0),
    )


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
