"""What a trainer shall do: from the spec.json of its run's directory, or asked of the service."""

import json
import time
from pathlib import Path
from typing import Any

from app.trainer.delivery import Link

PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 1.0


def read(run_dir: Path) -> dict[str, Any]:
    """The spec of a trainer that the service launched; empty where there is none.

    Raises ValueError for one that cannot be read as a JSON object.
    """
    path = run_dir / "spec.json"
    try:
        spec = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(spec, dict):
        raise ValueError(f"{path} is not a JSON object")
    return spec


def ask(link: Link) -> dict[str, Any]:
    """The spec of a trainer that attaches by itself.

    Raises ConnectionError after a minute without an answer, PermissionError when the service
    refuses: to train with other hyperparameters than were asked for would be worse.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not (reply := link.get()).delivered:
        why = reply.answer.get("detail") or f"status {reply.status}"
        if not reply.worth_retrying:
            raise PermissionError(f"the service does not say what this run shall do: {why}")
        if time.monotonic() > deadline:
            raise ConnectionError("the service does not answer, so what to do is not known")
        time.sleep(max(PAUSE_SECONDS, reply.retry_after))
    link.close()
    return reply.answer


def shared(spec: dict[str, Any]) -> bool:
    """Whether the service's data directory is this machine's too."""
    data_dir = spec.get("data_dir") or {"path": "", "name": ""}
    try:
        return bool((Path(data_dir["path"]) / "id").read_text() == data_dir["name"])
    except OSError:
        return False
