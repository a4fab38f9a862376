"""What a trainer shall do: from the spec.json of its run's directory, or asked of the service."""

import json
import threading
import time
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

from llm_train import checkpoint
from llm_train.buffer import warn
from llm_train.connection import ApiConnection

SPEC_TIMEOUT_SECONDS = 60.0
RETRY_SECONDS = 1.0
FIRST_RESPONSE_SECONDS = 1.0


def read(run_dir: Path) -> dict[str, Any] | None:
    """The spec of a trainer that the service launched; None where there is none.

    Raises ValueError for one that cannot be read as a JSON object.
    """
    path = run_dir / "spec.json"
    try:
        spec = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(spec, dict):
        raise ValueError(f"{path} is not a JSON object")
    return spec


class RemoteSpec:
    """The spec of a trainer that attaches by itself.

    It is asked for from the start and in the background, because a save must not wait for it.
    """

    def __init__(self, api_url: str, run_id: str, token: str) -> None:
        """Raises ValueError like ApiConnection."""
        self._connect = partial(ApiConnection, api_url, f"/v1/runs/{run_id}/spec", token)
        self._spec: dict[str, Any] | None = None
        self._trouble = ""
        # Flags and no lock: a forked child could find it held by a thread that it does not have.
        self._tried, self._closed = False, False
        self._patient_until = time.monotonic() + FIRST_RESPONSE_SECONDS
        thread = threading.Thread(
            target=self._fetch_in_background, args=(self._connect(),), daemon=True
        )
        thread.start()

    def get_known(self) -> dict[str, Any]:
        """What is known by now, maybe nothing. Just after attaching, the first answer is due."""
        while not self._tried and time.monotonic() < self._patient_until:
            time.sleep(0.01)
        return self._spec or {}

    def get(self) -> dict[str, Any]:
        """Raises ConnectionError after a minute without an answer, PermissionError when the service
        refuses: to train with other hyperparameters than were asked for would be worse.
        """
        deadline = time.monotonic() + SPEC_TIMEOUT_SECONDS
        with closing(self._connect()) as connection:
            while self._spec is None and (pause := self._fetch(connection)):
                if time.monotonic() > deadline:
                    raise ConnectionError(
                        f"the service does not answer ({self._trouble}), so what to do is not known"
                    )
                time.sleep(pause)
        return self._spec or {}

    def close(self) -> None:
        """Ask no more in the background."""
        self._closed = True

    def _fetch_in_background(self, connection: ApiConnection) -> None:
        with closing(connection), suppress(PermissionError):
            while not self._closed and self._spec is None and (pause := self._fetch(connection)):
                self._tried = True
                time.sleep(pause)
        self._tried = True

    def _fetch(self, connection: ApiConnection) -> float:
        """0 with an answer, else the seconds until another try."""
        response = connection.get()
        if response.delivered:
            self._spec = response.body
            return 0
        self._trouble = response.reason
        if response.is_retryable:
            return max(RETRY_SECONDS, response.retry_after)
        why = response.body.get("detail") or f"status {response.status}"
        raise PermissionError(f"the service does not say what this run shall do: {why}")


def shared(spec: dict[str, Any]) -> bool:
    """Whether the service's data directory is this machine's too."""
    data_dir = spec.get("data_dir") or {"path": "", "name": None}
    try:
        name = Path(data_dir["path"], "id").read_text(errors="replace")
    except OSError:
        return False
    return bool(name == data_dir["name"])


def verified_dir(spec: dict[str, Any]) -> Path | None:
    """Where the service verifies checkpoints, if this process shares it and can write there."""
    if not shared(spec):
        return None
    directory = Path(spec["checkpoint_dir"])
    try:
        checkpoint.begin(directory, "trial").rmdir()
    except OSError as error:
        warn(f"checkpoints cannot be verified, for they cannot be saved in {directory} ({error})")
        return None
    return directory
