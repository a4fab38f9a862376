"""The mailbox over HTTP, for a machine that does not see the service's files.

    claim → run directory made here, checkpoint downloaded → pulse and output while the trainer
    runs, each committed checkpoint uploaded → the rest of them, undelivered reports, exit record

The trainer finds what one on the service's machine finds: spec.json, `attempt-N/`, a directory for
checkpoints; it reports to the service itself, with the token of its attempt. The service's side is
app/rest/attempts.py; requests are in `client.py`, checkpoints in `transfer.py`.
"""

import json
import os
import shutil
import sys
import threading
import time
from contextlib import suppress
from typing import Any

from .client import TIMEOUT_SECONDS, Client, Refused, Unreachable
from .directory import punch_hole
from .mailbox import Directive, ExitRecord, LaunchConfig, now
from .transfer import DownloadError, Uploads, download

CLAIM_SECONDS = 600.0
WAIT_SECONDS = 12.0
"""How long the service may hold back the answer to a pulse while there is nothing to do."""
LATE_SECONDS = 3.0
"""How much later an answer may come. A pulse that is lost, and the next one, which then takes as
long, still come before the service takes the silence for an end (AGENT_SILENT_SECONDS)."""
PULSE_SECONDS = 2.0
UPLOAD_SECONDS = 1.0
PIECE_BYTES = 256 * 1024
FREE_BYTES = 4 << 20
_OWN = "LLM_TRAIN_"


class HttpMailbox:
    """The agent's side of one attempt. Everything of it lies in a directory of its own."""

    def __init__(self, api_url: str, run_id: str, attempt: int, code: str, directory: str) -> None:
        """`code`: the claim code of the job. `directory`: is made if it is missing."""
        self.run_dir = os.path.join(os.path.abspath(directory), "runs", run_id)
        self._attempt_dir = os.path.join(self.run_dir, f"attempt-{attempt}")
        self._run_id, self._attempt, self._code = run_id, attempt, code
        self._api_url = api_url
        self._client = Client(api_url, f"/v1/runs/{run_id}")
        self._path = f"/attempts/{attempt}"
        self._agent = os.urandom(16).hex()
        os.makedirs(self._attempt_dir, exist_ok=True)
        self._output = Output(self._client, self._path, os.path.join(self._attempt_dir, "output"))
        self.output = self._output.file
        self._checkpoints = os.path.join(os.path.abspath(directory), "ckpts", run_id)
        self._uploads = Uploads(self._client, self._path, self._checkpoints)
        self._began = time.monotonic()
        self._last_order: Directive = "go"
        self._spool_offset = 0
        self._directory = os.path.abspath(directory)
        self._shares_files = False
        self._is_stopping = False
        self._is_ready = threading.Event()

    def claim(self) -> "LaunchConfig | None":
        """Take the attempt, make its directory, and download what it starts from.

        The service may be away for CLAIM_SECONDS. Raises OSError after that.
        """
        answer = self._ask_for_claim()
        if answer is None:
            self._remove()
            return None
        self._client.token = answer["token"]
        return self._take(answer)

    def _take(self, answer: "dict[str, Any]") -> "LaunchConfig | None":
        """Make the run's directory of what the claim has answered; None if it cannot begin."""
        config, spec = answer["config"], answer["spec"]
        self._shares_files = spec.get("files") != "http"
        self._output.limit = config["max_log_bytes"]
        self._output.offset = answer["log_offset"]
        if not self._shares_files:
            os.makedirs(self._checkpoints, exist_ok=True)
            spec["checkpoint_dir"] = self._checkpoints
            if spec.get("resume") and not self._download(spec):
                return None
        with open(os.path.join(self.run_dir, "spec.json"), "w") as file:
            json.dump(spec, file, indent=1)
        self._is_ready.set()
        self._uploads.is_shared_work = bool(spec.get("store"))
        if not self._shares_files and not self._uploads.is_shared_work:
            self._start(self._upload)
        return self._localize_config(config)

    def _ask_for_claim(self) -> "dict[str, Any] | None":
        """Return the answer to the claim; None if the attempt is not ours."""
        body = {"agent": self._agent, "host": os.uname().nodename[:255]}
        deadline, pause = time.monotonic() + CLAIM_SECONDS, 0.25
        while True:
            try:
                return self._client.post(f"{self._path}/claim", body, token=self._code)
            except Refused:
                return None
            except Unreachable as error:
                if time.monotonic() > deadline:
                    raise
                time.sleep(max(pause, error.retry_after))
                pause = min(2 * pause, 8.0)

    def _download(self, spec: "dict[str, Any]") -> bool:
        """Download the checkpoint that the attempt starts from; the attempt ends if it cannot be.

        The trainer must not begin from nothing instead.
        """
        directory = os.path.join(self.run_dir, "resume")
        self._start(self._pulse_meanwhile)
        try:
            download(self._client, f"{self._path}/resume", directory)
        except DownloadError as error:
            detail = f"The checkpoint {spec['resume']['ckpt_path']} cannot be used: {error}."
            self._is_ready.set()
            self._end_unbegun(detail)
            return False
        spec["resume"]["path"] = directory
        return True

    def _end_unbegun(self, detail: str) -> None:
        """Report that no trainer ran, for as long as the service may be away."""
        deadline = time.monotonic() + CLAIM_SECONDS
        while time.monotonic() < deadline:
            try:
                return self.finish(ExitRecord(ended_at=now(), detail=detail))
            except OSError:
                time.sleep(1)

    def _pulse_meanwhile(self) -> None:
        while not self._is_ready.wait(PULSE_SECONDS):
            with suppress(OSError):
                self.pulse(time.monotonic() - self._began)

    def _localize_config(self, config: "LaunchConfig") -> "LaunchConfig":
        """Return the launch config with this machine's environment, paths and interpreter."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(_OWN)}
        env = {**own, **config["env"], "LLM_TRAIN_RUN_DIR": self.run_dir}
        first, *rest = config["argv"]
        argv = [sys.executable if first == "{python}" else first, *rest]
        return {**config, "argv": argv, "env": env}

    def pulse(self, ran_seconds: float) -> Directive:
        """Tell the service that the agent lives, and return what it wants.

        Only the service's own word ends a trainer: without an answer it goes on.
        """
        heard = self._last_order if self._last_order in ("stop", "kill") else None
        body = {"ran_seconds": round(ran_seconds, 1), "heard": heard, **self._get_pulse_fields()}
        # The first pulse looks for a stop, and the trainer waits for its answer.
        wait = WAIT_SECONDS if ran_seconds and self._is_ready.is_set() else 0
        try:
            path = f"{self._path}/pulse?wait={wait:g}"
            timeout = wait + LATE_SECONDS if ran_seconds else TIMEOUT_SECONDS
            answer = self._client.post(path, body, timeout=timeout)
        except Refused as error:
            if error.status in (404, 409):
                return "over"
            raise Unreachable(str(error)) from error
        order: Directive = answer["order"]
        if order in ("stop", "kill") and order != self._last_order:
            self._write_stop()
        self._last_order = order
        return order

    def _get_pulse_fields(self) -> "dict[str, Any]":
        """Return what else a pulse tells."""
        return {"stopping": True} if self._is_stopping else {}

    def begin_stop(self) -> None:
        """Tell the service with the next pulse that the trainer was asked to stop."""
        self._is_stopping = True

    def _write_stop(self) -> None:
        """Write the stop request that trainers without a stop signal look for."""
        with suppress(OSError):
            draft = os.path.join(self._attempt_dir, f".stop-{os.urandom(8).hex()}")
            with open(draft, "w") as file:
                json.dump({"kill": False}, file)
            os.replace(draft, os.path.join(self._attempt_dir, "stop.json"))

    def log(self) -> None:
        """Send the output that has not arrived."""
        self._output.send()

    def prepare_finish(self) -> None:
        """Do nothing: the exit record needs no room on this machine's disk."""

    def finish(self, record: ExitRecord) -> None:
        """Deliver the rest of the output, reports, checkpoints, and then the exit record.

        Called again after an OSError, it goes on where it was. Removes the attempt's directory.
        """
        try:
            self._output.send()
            self._deliver_reports()
            if not self._shares_files:
                self._uploads.run()
            self._report_exit(record)
        except Refused as error:
            if error.status not in (404, 409):
                raise Unreachable(str(error)) from error
            _say(f"the service takes nothing more of this attempt: {error}")
        self._remove()

    def _report_exit(self, record: ExitRecord) -> None:
        self._client.post(f"{self._path}/exit", record.to_dict())

    def close(self) -> None:
        """Remove what an attempt has left that another one has replaced."""
        if self._last_order == "over":
            self._remove()

    def _remove(self) -> None:
        """Remove what this attempt has on this machine: the service has it, or wants none."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _deliver_reports(self) -> None:
        """Send the reports that the trainer could not, in order; each counts once."""
        try:
            spool = open(os.path.join(self._attempt_dir, "reports.jsonl"), "rb")
        except FileNotFoundError:
            return
        with spool:
            spool.seek(self._spool_offset)
            while (line := spool.readline()).endswith(b"\n"):
                try:
                    self._client.post("/reports", line)
                except Refused as error:
                    _say(f"a report is not taken: {error}")
                self._spool_offset = spool.tell()

    def _upload(self) -> None:
        while True:
            time.sleep(UPLOAD_SECONDS)
            try:
                self._uploads.run()
            except (OSError, Refused) as error:
                time.sleep(getattr(error, "retry_after", 0.0) or UPLOAD_SECONDS)

    def _start(self, work: Any) -> None:
        try:
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError:
            return  # no more threads; the rest is sent at the end


class Output:
    """The trainer's output: a file here, of which the service gets every byte once, in order.

    `offset`: how much the service has. What it has is freed here; while it is away, the middle of
    what is more than `limit` bytes is dropped.
    """

    def __init__(self, client: Client, path: str, file: str) -> None:
        self._client, self._path = client, f"{path}/log"
        self.file = os.open(file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.offset, self.limit = 0, 256 << 20
        self._local = 0
        self._since = 0  # from here on, a byte here is a byte there
        self._freed = 0
        self._lock = threading.Lock()

    def send(self) -> None:
        """Send what has not arrived. Raises OSError; Refused when the attempt is over."""
        with self._lock:
            while piece := self._read_next():
                try:
                    answer = self._client.post(f"{self._path}?offset={self.offset}", piece[0])
                    arrived = answer["offset"]
                except Refused as error:
                    if error.code != "log_offset":
                        raise
                    arrived = error.answer["offset"]
                self._advance(piece, arrived)
            self._free_disk()

    def _read_next(self) -> "tuple[bytes, int] | None":
        """Return what comes next, and how much of the file that is."""
        size = os.fstat(self.file).st_size
        if size - self._local > self.limit:
            dropped = size - self._local - self.limit // 2
            said = b"\n[%d bytes of output were dropped here: the service was away]\n" % dropped
            return said, dropped
        content = os.pread(self.file, PIECE_BYTES, self._local)
        return (content, len(content)) if content else None

    def _advance(self, piece: "tuple[bytes, int]", arrived: int) -> None:
        content, length = piece
        moved = arrived - self.offset
        if len(content) != length:  # the line about what was dropped
            if moved >= len(content):
                self._local += length
                self._since = self._local
        elif -(self._local - self._since) <= moved <= length:
            self._local += moved
        self.offset = arrived

    def _free_disk(self) -> None:
        """Free the disk of what the service has, now and then."""
        if self._local - self._freed > FREE_BYTES:
            end = self._local & -4096
            punch_hole(self.file, 0, end)
            self._freed, self._since = end, max(self._since, end)


def _say(text: str) -> None:
    sys.stderr.write(f"llm-train agent: {text}\n")
    sys.stderr.flush()
