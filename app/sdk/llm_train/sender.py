"""Delivers what the training logs, in two daemon threads.

buffer (buffer.py) → one thread flushes it every second as a numbered batch → spool (spool.py)
spool → the other thread posts the batches in order (connection.py) → the service
response → acknowledged batches leave the spool; a stop request reaches stopping.py

Nothing that the network or the service does reaches the training thread.
"""

import json
import math
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from llm_train import checkpoint
from llm_train.buffer import BATCH_POINTS, Buffer, Point, warn
from llm_train.connection import ApiConnection, Response
from llm_train.refusals import BatchPoster
from llm_train.spool import Spool
from llm_train.stopping import StopRequest

FLUSH_SECONDS = 1.0
HEARTBEAT_SECONDS = 4.0
SILENCE_SECONDS = 10.0
BACKOFF_SECONDS = 0.25, 5.0  # first and longest pause between two tries
DISK_SECONDS = 1.0  # without progress of the spool's disk, which nobody waits for any longer
OTHER_SESSION_SECONDS = 30.0  # twice the silence after which the service lets another one report


class ReportSender:
    """Sends reports of one process to the service, and receives its stop request.

    `open` is False once nothing more is accepted: it is closed, the service refuses every report,
    or another process of this attempt reports already.
    """

    def __init__(
        self,
        stop: StopRequest,
        connection: ApiConnection,
        identity: dict[str, Any],
        directory: Path | None,
        address: Path | None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        """Open the spool and start the two threads.

        Args:
            stop: set when the service asks the trainer to stop.
            connection: to the run's reports.
            identity: the fields that begin every report.
            directory: the attempt's directory, for the spool; None keeps batches in memory.
            address: a file with the service's URL, read again when it does not respond.
            heartbeat_seconds: the longest time without a report.
        """
        self._buffer, self._stop, self._connection = Buffer(), stop, connection
        self._poster = BatchPoster(connection)
        self._identity, self._address = identity, address
        self._heartbeat_seconds = heartbeat_seconds
        self._delivering = True
        self._trouble = ""
        self._flushing = self._stalled = False
        self._other_since = math.inf  # when the service first said that another process reports
        self._flushed_at = -math.inf
        self._wake, self._closing = threading.Event(), threading.Event()
        self._ended = threading.Event()
        self.open = self._open_spool(directory)
        if self.open:
            self._start()

    def _start(self) -> None:
        """Start the two threads."""
        self._batch = self._spool.last_batch
        # An empty first batch: the service learns that the trainer lives, and a reporter
        # without a spool learns from the response which number an earlier one had reached.
        self._flush()
        for loop in (self._flush_forever, self._send_forever):
            threading.Thread(
                target=self._keep_running,
                args=(loop,),
                name=f"reporter{loop.__name__}",
                daemon=True,
            ).start()

    def add(self, points: list[Point], **news: Any) -> None:
        """Queue points, and fields of the next report that replace their older values."""
        if self.open:
            self._buffer.add(points, **news)
            if len(self._buffer) >= BATCH_POINTS and not self._spool.in_memory:
                self._wake.set()
                if not self._stalled:
                    self._apply_backpressure()

    def add_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Queue a committed checkpoint, and send it at once."""
        if self.open:
            self._buffer.add_checkpoint(checkpoint)
            self._wake.set()

    def deliver(self, timeout: float) -> None:
        """Deliver what is buffered, for at most `timeout` seconds; the rest stays in the spool.

        The spool's disk gets another second, and more while it makes progress. This thread only
        watches: the disk's file system may hang, and nothing here waits for it.
        """
        deadline = time.monotonic() + timeout
        left, moved = len(self._buffer), time.monotonic()
        while self.open:  # not in a forked child, where nobody would do the work
            # In the order in which a report moves on, or one could be in none of the three.
            unflushed = not self._buffer.empty or self._flushing
            owed = unflushed or len(self._spool) > 0
            now = time.monotonic()
            if len(self._buffer) < left:
                left, moved = len(self._buffer), now
            sending = owed and self._delivering and not self._other_reports and now < deadline
            writing = unflushed and not self._spool.in_memory and now < moved + DISK_SECONDS
            if not (sending or writing):
                return
            self._wake.set()
            time.sleep(0.01)

    def close(self, timeout: float) -> None:
        """Deliver for at most `timeout` seconds, then accept nothing more."""
        if not self.open:
            return
        if "session" in self._identity:
            self._buffer.add([], closing=True)
        self._closing.set()
        self.deliver(timeout)
        lost = not self._buffer.empty or self._flushing or len(self._spool) > 0
        if lost and self._delivering and self._spool.in_memory and not self._other_reports:
            why = f" ({self._trouble})" if self._trouble else ""
            warn(f"the service does not answer{why}: the last reports are lost")
        self.open = False
        self._wake.set()
        self._ended.wait(DISK_SECONDS)

    @property
    def _other_reports(self) -> bool:
        """Return True while the service says that another process reports on the run."""
        return self._other_since < math.inf

    def close_after_fork(self) -> None:
        """Accept nothing more in a forked child, which has neither the threads nor their locks."""
        if self.open:
            self.open = False
            self._spool.close_after_fork()

    def _open_spool(self, directory: Path | None) -> bool:
        """Open the spool. Return False if another process of this attempt reports already."""
        try:
            if directory:
                directory.mkdir(parents=True, exist_ok=True)
            self._spool = Spool(directory and directory / "reports.jsonl", self._identity)
        except BlockingIOError:
            warn("another process reports this attempt of the run; this one is silent")
            return False
        except OSError as error:
            warn(f"no spool ({error}): reports wait in memory")
            self._spool = Spool(None, self._identity)
        return True

    def _keep_running(self, loop: Callable[[], None]) -> None:
        """Run a loop again after an error: without it a healthy training would seem dead."""
        last_error = ""
        while self.open:
            try:
                loop()
            except Exception as error:
                if last_error != (last_error := repr(error)):
                    warn(f"reports are in trouble ({last_error}); trying again")
                self._pause(BACKOFF_SECONDS[1])
            else:
                break
        if loop == self._flush_forever:
            self._spool.close()
            self._ended.set()

    def _pause(self, seconds: float) -> None:
        """Wait; while closing, only briefly."""
        if self._closing.wait(seconds):
            time.sleep(BACKOFF_SECONDS[0])

    def _flush_forever(self) -> None:
        """Flush the buffer and check for a stop file, about every second."""
        while self.open:
            self._wake.wait(min(FLUSH_SECONDS, self._heartbeat_seconds))
            self._wake.clear()
            self._stop.check_file()
            self._flush()

    def _send_forever(self) -> None:
        """Post the spool's batches in order, with pauses while the service does not respond."""
        jitter = random.Random()  # noqa: S311 - the training owns the global generator's state
        pause, tried_since = BACKOFF_SECONDS[0], math.inf
        while self._delivering and self.open:
            line = self._spool.head(FLUSH_SECONDS)
            if line is None:
                continue
            response = self._poster.post(line)
            if response.delivered:
                self._acknowledge(json.loads(line)["batch"], response.body)
                self._other_since = math.inf
                pause, tried_since = BACKOFF_SECONDS[0], math.inf
            elif response.code == "session_active":
                if self._give_way():
                    break
                self._pause(max(pause, response.retry_after))
            elif response.is_retryable:
                self._trouble = response.reason
                tried_since = min(tried_since, time.monotonic())
                if tried_since > 0 and time.monotonic() - tried_since > SILENCE_SECONDS:
                    warn(
                        f"the service does not answer ({self._trouble}); training goes on, and "
                        "reports wait"
                    )
                    tried_since = -math.inf  # said once
                self._pause(max(pause * jitter.uniform(0.5, 1.0), response.retry_after))
                pause = min(pause * 2, BACKOFF_SECONDS[1])
                if not response.status:
                    self._reload_url()
            else:
                self._refused(response)
        self._connection.close()

    def _give_way(self) -> bool:
        """Handle that another process reports on this run. Return True to give up.

        The other process may be dead and this one its successor, so this waits until the
        service must have noticed that.
        """
        now = time.monotonic()
        if not self._other_reports:
            self._other_since = now
            warn(
                "another process reports on this run; this one is silent, unless that one has "
                "died. To report from here instead, use Reporter.from_env(take_over=True)"
            )
        if now - self._other_since < OTHER_SESSION_SECONDS:
            return False
        self._delivering = self.open = False
        self._spool.close()
        self._wake.set()
        return True

    def _reload_url(self) -> None:
        """Read the service's URL again: a server that took over writes it to the run directory."""
        if self._address:
            with suppress(OSError, ValueError):
                self._connection.set_url(self._address.read_text())

    def _acknowledge(self, batch: int, body: dict[str, Any]) -> None:
        """Remove an accepted batch from the spool, and take a stop request from the response."""
        if body.get("should_stop") is True:
            name = body.get("stop_checkpoint")
            if isinstance(name, str) and checkpoint.NAME.fullmatch(name):
                self._stop.checkpoint = name
            self._stop.requested = True
        reached = body.get("batch")
        if self._spool.in_memory and isinstance(reached, int):
            self._batch = max(self._batch, reached)
        self._spool.pop(batch)
        if len(self._buffer) >= BATCH_POINTS:
            self._wake.set()

    def _refused(self, response: Response) -> None:
        """Stop sending for good. A spool on disk goes on, unless the service refuses the run."""
        self._delivering = False
        if response.status == 409:
            self.open = False
            self._spool.close()
            self._wake.set()
        if response.code == "run_finished":
            own = (
                ", and start this trainer with that one's LLM_TRAIN_RUN_ID and LLM_TRAIN_RUN_TOKEN"
            )
            if "attempt" in self._identity:  # the service starts the new run's trainer
                own = ""
            return warn(
                f"the service refused a report, for the run is over ({response.reason}) "
                "Training goes on, and nothing of it is recorded "
                f"({len(self._buffer)} points and all that follow). To go on, resume the run from "
                f"a checkpoint, which makes a new run{own}"
            )
        warn(f"the service refused a report ({response.reason}); no more will be sent")

    def _apply_backpressure(self) -> None:
        """Block the training while points arrive faster than the spool's disk takes them.

        Only a replay of a whole history does that. The wait is for the local disk alone, and
        ends after a second.
        """
        deadline = time.monotonic() + 1
        while self._buffer.half_full and self.open and not self._spool.in_memory:
            if time.monotonic() > deadline:
                self._stalled = True  # the disk hangs: do not wait for it again
                return
            time.sleep(0.001)

    def _flush(self) -> None:
        """Move the buffer into the spool, batch by batch; in memory, only when all is sent."""
        try:
            while not (self._spool.in_memory and len(self._spool)):
                self._flushing = True
                body = self._buffer.take()
                rested = time.monotonic() - self._flushed_at
                if not body and (len(self._spool) or rested < self._heartbeat_seconds):
                    return
                self._batch += 1
                body = {**self._identity, "batch": self._batch, **body}
                self._spool.append(json.dumps(body, separators=(",", ":")).encode() + b"\n")
                self._flushed_at = time.monotonic()
                self._stalled = False
        finally:
            self._flushing = False
