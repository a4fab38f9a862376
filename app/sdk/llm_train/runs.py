"""`Run`: watch and steer one run, and read its curves.

    Run → watch, wait, metrics, log, cancel, resume, mark, update

`run.data` is the service's last answer; the most used fields are attributes.
"""

import math
import sys
import time
from collections.abc import Sequence
from html import escape
from typing import Any

from llm_train.requests import ApiError, Connection
from llm_train.tables import Metrics, table

ENDED = ("succeeded", "failed", "cancelled")
POLL_SECONDS = 0.5


class RunFailed(Exception):
    """A run that was waited for did not succeed; `run` is it."""

    def __init__(self, run: "Run") -> None:
        detail = run.data.get("status_detail") or run.data.get("status_reason") or ""
        super().__init__(f"run {run.id} {run.status}: {detail}".rstrip(": "))
        self.run = run


class Run:
    """One run. `data` is the service's last answer about it; `refresh` asks again."""

    def __init__(self, connection: Connection, data: "dict[str, Any]") -> None:
        """Wrap an answer of the service.

        Args:
            connection: where it came from.
            data: the answer.
        """
        self.connection = connection
        self.data = data

    @property
    def id(self) -> str:
        """Return its id."""
        return str(self.data["run_id"])

    @property
    def experiment_id(self) -> str:
        """Return the id of its experiment."""
        return str(self.data["experiment_id"])

    @property
    def parent_id(self) -> "str | None":
        """Return the id of the run that it was resumed from."""
        parent: str | None = self.data["parent_run_id"]
        return parent

    @property
    def status(self) -> str:
        """Return its status, as of the last answer."""
        return str(self.data["status"])

    @property
    def ended(self) -> bool:
        """Return True if it has ended, as of the last answer."""
        return self.status in ENDED

    @property
    def path(self) -> str:
        """Return the path of its REST resource."""
        return f"/v1/experiments/{self.experiment_id}/runs/{self.id}"

    def __repr__(self) -> str:
        return f"Run({self.id!r}, {self.status})"

    def refresh(self) -> "Run":
        """Ask for it again, and return it."""
        self.data = self.connection.request("GET", self.path)
        return self

    def wait(self, timeout: "float | None" = None, *, check: bool = True) -> "Run":
        """Wait until it has ended, and return it.

        Args:
            timeout: seconds at most; None: as long as it takes.
            check: raise RunFailed if it failed or was cancelled.

        Raises:
            TimeoutError: it has not ended by then.
            RunFailed: it did not succeed.
        """
        end = math.inf if timeout is None else time.monotonic() + timeout
        while not self.refresh().ended:
            if time.monotonic() >= end:
                raise TimeoutError(f"run {self.id} is still {self.status}")
            time.sleep(POLL_SECONDS)
        if check and self.status != "succeeded":
            raise RunFailed(self)
        return self

    def watch(self) -> "Run":
        """Print its progress until it has ended: one line that changes, where output can."""
        live = sys.stdout.isatty()
        line = ""
        while True:
            now = self.refresh()._line()
            if now != line:
                sys.stdout.write(f"\r\033[K{now}" if live else f"{now}\n")
                sys.stdout.flush()
            line = now
            if self.ended:
                sys.stdout.write("\n" if live else "")
                return self
            time.sleep(POLL_SECONDS)

    def _line(self) -> str:
        data = self.data
        parts = [self.id[-6:], self.status, f"step {data['step']}"]
        if data["total_steps"]:
            parts[-1] += f" of {data['total_steps']}"
        for key, metric in list(data["metrics"].items())[:4]:
            parts.append(
                f"{key} {'NaN' if metric['value'] is None else format(metric['value'], '.4g')}"
            )
        return "  ".join(parts)

    def metrics(self, *keys: str, points: "int | None" = 1000) -> "Metrics":
        """Return its curves, which go on from those of the run that it was resumed from.

        Args:
            keys: the metrics; left out: all.
            points: at most so many points of each, spikes kept; None: every point.

        Example:
            >>> curve = Client().run("@last:succeeded").metrics("loss")["loss"]
            >>> len(curve["steps"]) == len(curve["values"]) > 0
            True
        """
        query = {"keys": list(keys), "points": points}
        curves: dict[str, Any] = {}
        while True:
            answer = self.connection.request("GET", f"{self.path}/metrics", query=query)
            more = []
            for series in answer["series"]:
                kept = curves.setdefault(series["key"], series)
                if kept is not series:
                    for name in ("steps", "values", "wall_times", "special"):
                        kept[name] += series[name]
                if series["next_after_step"] is not None:
                    more.append(series["next_after_step"])
            if not more:
                return Metrics(curves)
            # Of each curve as far as the shortest: what is read twice is dropped below.
            after = min(more)
            for series in curves.values():
                cut = sum(step <= after for step in series["steps"])
                for name in ("steps", "values", "wall_times"):
                    del series[name][cut:]
                series["special"] = [row for row in series["special"] if row["step"] <= after]
            query = {"keys": list(keys), "after_step": after, "limit": 100_000}

    def log(self, tail: int = 65_536) -> str:
        """Return the end of what its trainer printed.

        Args:
            tail: at most so many bytes.
        """
        query = {"offset": -tail}
        with self.connection.open("GET", f"{self.path}/logs", query=query) as response:
            return response.read().decode("utf-8", "replace")

    def cancel(self, *, wait: bool = True) -> "dict[str, Any]":
        """Stop it without losing its work; return the checkpoint that it leaves.

        Args:
            wait: until the trainer has saved and ended.

        Raises:
            ApiError: it has already succeeded or failed.
        """
        answer = self.connection.request("POST", f"{self.path}/cancel")
        while wait and answer["status"] not in ENDED:
            time.sleep(POLL_SECONDS)
            answer = self.connection.request("POST", f"{self.path}/cancel")
        self.data["status"] = answer["status"]
        checkpoint: dict[str, Any] = answer["checkpoint"]
        return checkpoint

    def resume(
        self,
        *,
        ckpt_path: "str | None" = None,
        hyperparams: "dict[str, Any] | None" = None,
        resources: "dict[str, Any] | None" = None,
        name: "str | None" = None,
        notes: "str | None" = None,
        **params: Any,
    ) -> "Run":
        """Submit a run that goes on from a checkpoint of this one, and return it.

        Args:
            ckpt_path: the checkpoint; left out: the newest good one.
            hyperparams: hyperparameters to change, where their names are no Python names.
            resources: resources to change.
            name: name for people.
            notes: free text.
            params: hyperparameters to change, by name.

        Raises:
            ApiError: there is no such checkpoint, or none at all.
        """
        body = {
            "ckpt_path": ckpt_path,
            "override_hyperparams": {**(hyperparams or {}), **params},
            "resources": resources,
            "name": name,
            "notes": notes,
        }
        path = f"{self.path}/resume"
        return Run(self.connection, self.connection.request("POST", path, body))

    def rerun(self) -> "Run":
        """Submit a run with all that this one was submitted with, and return it.

        Raises:
            ApiError: its recipe, or the checkpoint that it started from, is no longer there.
        """
        path = f"{self.path}/rerun"
        return Run(self.connection, self.connection.request("POST", path, {}))

    def mark(
        self,
        tag: str,
        *,
        release: "str | None" = None,
        ckpt_path: "str | None" = None,
        metrics: "dict[str, float] | None" = None,
    ) -> "dict[str, Any]":
        """Mark a checkpoint, such as a candidate or a release; return the checkpoint.

        Args:
            tag: a lower-case slug such as `candidate` or `release`.
            release: a release tag, unique in the experiment.
            ckpt_path: the checkpoint; left out: the newest good one.
            metrics: numbers to keep with it.

        Raises:
            ApiError: there is no such checkpoint, or the release tag is taken.
        """
        path = ckpt_path or self.refresh().data["newest_ckpt_path"]
        if path is None:
            raise ApiError(f"Run {self.id} has no checkpoint to mark.", 409, "conflict")
        body = {
            "run_id": self.id,
            "ckpt_path": path,
            "tag_type": tag,
            "release_tag": release,
            "metrics": metrics or {},
        }
        mark = f"/v1/experiments/{self.experiment_id}/checkpoints/mark"
        checkpoint: dict[str, Any] = self.connection.request("POST", mark, body)
        return checkpoint

    def update(self, **changes: Any) -> "Run":
        """Change `name`, `notes`, `tags`, `priority` or `archived`, and return it.

        Args:
            changes: the new values; None removes a name or notes.
        """
        self.connection.request("PATCH", self.path, changes)
        return self.refresh()

    def redact(
        self,
        *,
        hyperparams: "Sequence[str]" = (),
        metrics: "Sequence[str]" = (),
        notes: bool = False,
    ) -> "dict[str, Any]":
        """Take out what should never have been sent, everywhere it was copied.

        Args:
            hyperparams: their names.
            metrics: their keys.
            notes: the notes as well.

        Raises:
            ApiError: it has no such hyperparameter, or a run that has it has not ended.
        """
        body = {"hyperparams": list(hyperparams), "metrics": list(metrics), "notes": notes}
        answer: dict[str, Any] = self.connection.request("POST", f"{self.path}/redact", body)
        return answer

    def delete(self) -> "dict[str, Any]":
        """Delete it for good, with its points, logs, artifacts and checkpoints; return the record.

        Raises:
            ApiError: it has not ended, or a release or a resumed run needs it.
        """
        deletion: dict[str, Any] = self.connection.request("DELETE", self.path)
        return deletion

    def _repr_html_(self) -> str:
        data = self.data
        rows = [("status", f"{self.status} {data.get('status_detail') or ''}")]
        if "step" in data:
            rows.append(("step", f"{data['step']} of {data['total_steps'] or '?'}"))
        rows += [(key, metric["value"]) for key, metric in data.get("metrics", {}).items()]
        return f"<b>{escape(self.id)}</b>" + table(rows)
