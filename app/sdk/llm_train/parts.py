"""One checkpoint whose files are on several machines: each rank sends its own, rank 0 commits.

    plan = broadcast(parts.begin(reporter, step) if reporter.is_rank_0 else None)
    mine = parts.send(reporter, plan, directory)          # every rank; blocks while it uploads
    everything = gather(mine)                             # by the training's own means
    if reporter.is_rank_0:
        parts.commit(reporter, plan, everything)

For a service whose checkpoints are in an object store, and machines without a common file system.
`plan` and what `send` returns are JSON. Until the commit nothing is found under the name; a rank
that dies before it leaves no checkpoint.
"""

import os
import secrets
import stat
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llm_train import transfers
from llm_train.buffer import warn
from llm_train.checkpoint import CheckpointError
from llm_train.descriptors import open_directory, open_entry, read_sha256
from llm_train.manifest import File, build, check_path

if TYPE_CHECKING:
    from llm_train.reporter import Reporter

GIVE_UP_SECONDS = 600.0
"""For so long service and bucket may be away before a rank fails."""


def begin(reporter: "Reporter", step: int, name: str | None = None) -> dict[str, Any]:
    """Return the plan of a new checkpoint, on rank 0, for all ranks.

    Raises:
        RuntimeError: this is not rank 0, or the service has no object store.
    """
    if not reporter.is_rank_0:
        raise RuntimeError("begin on rank 0, and broadcast the plan")
    if not reporter.spec.get("store"):
        raise RuntimeError("the service keeps no checkpoints in an object store: share a directory")
    name, _ = reporter._files.name(step, name)
    service = reporter._files.get_service()
    return {"name": name, "step": step, "key": secrets.token_hex(16), **service.identity}


def send(reporter: "Reporter", plan: dict[str, Any], directory: Path) -> list[dict[str, Any]]:
    """Upload all files of this rank's directory; return the list of them for rank 0.

    Paths are relative to the directory, and no two ranks may have the same.

    Raises:
        CheckpointError: something in it is no plain file, or the service refuses.
        ConnectionError: service or bucket do not answer for GIVE_UP_SECONDS.
    """
    files = list_files(directory)
    if files:
        path = f"/checkpoints/{plan['name']}/uploads"
        _insist(reporter, plan, path, build(plan["step"], files), directory)
    return [file._asdict() for file in files]


def commit(
    reporter: "Reporter", plan: dict[str, Any], parts: Sequence[Sequence[dict[str, Any]]]
) -> str:
    """Commit what all ranks have sent; return the name that the checkpoint got.

    Raises like `send`; CheckpointError also if two ranks sent a file of the same path.
    """
    files = sorted(File(**entry) for part in parts for entry in part)
    if len({file.path for file in files}) != len(files):
        raise CheckpointError("two ranks have sent a file of the same path")
    content = build(plan["step"], files)
    answer = _insist(reporter, plan, f"/checkpoints/{plan['name']}/commit", content)
    return str(answer["name"])


def list_files(directory: Path) -> list[File]:
    """Return the files below a directory with their SHA-256, sorted by path."""
    files = []
    for path in sorted(directory.rglob("*")):
        status = path.lstat()
        if stat.S_ISDIR(status.st_mode):
            continue
        name = path.relative_to(directory).as_posix()
        check_path(name)
        with (
            open_directory(path.parent) as opened,
            open_entry(opened, path.name, name, stat.S_IFREG) as file,
        ):
            size = os.fstat(file).st_size
            files.append(File(name, size, read_sha256(file, size, name)))
    return sorted(files)


def _insist(
    reporter: "Reporter",
    plan: dict[str, Any],
    path: str,
    content: bytes,
    directory: Path | None = None,
) -> dict[str, Any]:
    """Ask until there is nothing more to send, or the commit is done."""
    own: dict[str, Any] = {key: plan[key] for key in ("attempt", "session") if key in plan}
    service = reporter._files.get_service()._replace(identity={**own, "key": plan["key"]})
    deadline, pause, warned = time.monotonic() + GIVE_UP_SECONDS, transfers.PAUSE_SECONDS[0], False
    while True:
        answer = service.ask(path, content)
        trouble = answer.reason
        if answer.delivered:
            uploads = answer.body.get("uploads")
            if not uploads:
                return answer.body
            assert directory is not None
            try:
                transfers.put_all(directory, answer.body, uploads)
                continue
            except transfers.Unreachable as error:
                trouble = str(error)
        elif not answer.is_retryable:
            raise CheckpointError(f"the checkpoint is not taken: {answer.reason}")
        if time.monotonic() > deadline:
            raise ConnectionError(f"the checkpoint cannot be sent: {trouble}")
        if not warned:
            warn(f"the checkpoint {plan['name']} waits: {trouble}")
            warned = True
        time.sleep(pause)
        pause = min(2 * pause, transfers.PAUSE_SECONDS[1])
