"""The spec of a run: from spec.json in its directory, or from the service.

LaunchedSpec    of a trainer that the service launched, or of one without a service: empty
RemoteSpec      of a trainer that attaches by itself
"""

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


class LaunchedSpec:
    """The spec.json of a run directory. Without a directory it is empty."""

    def __init__(self, run_dir: Path | None) -> None:
        """Read the file. Raises ValueError if it is not a JSON object."""
        self.run_dir = run_dir
        self._spec = _read(run_dir) if run_dir else {}

    @property
    def launched(self) -> dict[str, Any]:
        """Return what spec.json says, or an empty dictionary."""
        return self._spec or {}

    @property
    def missing_dir(self) -> Path | None:
        """Return the run directory if it has no spec.json: removed, or not mounted here."""
        return self.run_dir if self._spec is None else None

    def get(self) -> dict[str, Any]:
        """Return the spec. Raises FileNotFoundError if it is missing.

        Training with other hyperparameters than the submitted ones would be worse.
        """
        if self._spec is None:
            raise FileNotFoundError(
                f"{self.run_dir}/spec.json is not there, so what to do is not known: the run's "
                "directory has been removed, or is not mounted on this machine"
            )
        return self._spec

    def close(self) -> None:
        """Do nothing: there is no request to end."""


def _read(run_dir: Path) -> dict[str, Any] | None:
    """Return a run directory's spec.json, or None if there is none."""
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

    It is requested in the background from the start, because a save must not wait for it.
    """

    launched: dict[str, Any] = {}  # noqa: RUF012 - never written

    def __init__(self, api_url: str, run_id: str, token: str) -> None:
        """Request the spec in the background. Raises ValueError like ApiConnection."""
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
        """Return the spec if it has arrived, else an empty dictionary.

        Just after the start this waits for the first response, for a second at most.
        """
        while not self._tried and time.monotonic() < self._patient_until:
            time.sleep(0.01)
        return self._spec or {}

    def get(self) -> dict[str, Any]:
        """Return the spec, after waiting for it.

        Raises:
            ConnectionError: there is no response for a minute.
            PermissionError: the service refuses.
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
        """Stop requesting in the background."""
        self._closed = True

    def _fetch_in_background(self, connection: ApiConnection) -> None:
        """Request the spec until it comes, is refused or is no longer wanted."""
        with closing(connection), suppress(PermissionError):
            while not self._closed and self._spec is None and (pause := self._fetch(connection)):
                self._tried = True
                time.sleep(pause)
        self._tried = True

    def _fetch(self, connection: ApiConnection) -> float:
        """Request the spec once. Return 0 if it came, else the seconds until another try."""
        response = connection.get()
        if response.delivered:
            self._spec = response.body
            return 0
        self._trouble = response.reason
        if response.is_retryable:
            return max(RETRY_SECONDS, response.retry_after)
        why = response.body.get("detail") or f"status {response.status}"
        raise PermissionError(f"the service refused to send this run's spec: {why}")


def is_shared(spec: dict[str, Any]) -> bool:
    """Return True if the service's data directory is mounted on this machine."""
    data_dir = spec.get("data_dir") or {"path": "", "name": None}
    try:
        name = Path(data_dir["path"], "id").read_text(errors="replace")
    except OSError:
        return False
    return bool(name == data_dir["name"])


def get_verified_dir(spec: dict[str, Any]) -> Path | None:
    """Return where the service verifies checkpoints, if this process can write there."""
    if not is_shared(spec):
        return None
    directory = Path(spec["checkpoint_dir"])
    try:
        checkpoint.begin(directory, "trial").rmdir()
    except OSError as error:
        warn(f"checkpoints cannot be verified, for they cannot be saved in {directory} ({error})")
        return None
    return directory
