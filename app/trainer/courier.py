"""From the training's buffer to the service: two daemon threads, for as long as it takes.

One seals the buffer into a numbered batch about every second and puts it into the spool; the other
sends the spool's batches in order. Nothing the network or the server does reaches the training.
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

from app.trainer import checkpoint
from app.trainer.buffer import BATCH_POINTS, Buffer, Point, warn
from app.trainer.delivery import Link, Reply, Spool
from app.trainer.stopping import StopRequest

SEAL_SECONDS = 1.0
HEARTBEAT_SECONDS = 4.0
SILENCE_SECONDS = 10.0
BACKOFF_SECONDS = 0.25, 5.0  # first and longest pause between two tries


class Courier:
    """Takes what the training says to the service, and brings a stop request back.

    `identity`: the fields that begin every report. `directory`: the attempt's, for the spool;
    None: batches wait in memory. `address`: a file with the server's address, should it move.
    `open` is False once nothing more will be taken: closed, refused, or another process of this
    attempt reports already. Without news it reports every `heartbeat_seconds`.
    """

    def __init__(
        self,
        stop: StopRequest,
        link: Link,
        identity: dict[str, Any],
        directory: Path | None,
        address: Path | None,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._buffer, self._stop, self._link = Buffer(), stop, link
        self._identity, self._address = identity, address
        self._heartbeat_seconds = heartbeat_seconds
        self._delivering, self._warned = True, False
        self.open = self._open_spool(directory)
        if not self.open:
            return
        self._batch = self._spool.last_batch
        self._sealing = threading.Lock()
        self._sealed_at = -math.inf
        self._wake, self._closing = threading.Event(), threading.Event()
        # An empty first batch: the service learns that the trainer lives, and a reporter
        # without a spool learns from the answer which number an earlier one had reached.
        self._seal()
        for duty in (self._seal_forever, self._deliver_forever):
            threading.Thread(
                target=self._see_to, args=(duty,), name=f"reporter{duty.__name__}", daemon=True
            ).start()

    def add(self, points: list[Point], **news: Any) -> None:
        """Points, and fields of the next report that replace their older values."""
        if self.open:
            self._buffer.add(points, **news)
            if len(self._buffer) >= BATCH_POINTS and not self._spool.in_memory:
                self._wake.set()
                self._keep_pace()

    def announce(self, checkpoint: dict[str, Any]) -> None:
        """The news of a committed checkpoint, to be told at once."""
        if self.open:
            self._buffer.announce(checkpoint)
            self._wake.set()

    def deliver(self, timeout: float) -> None:
        """Deliver what is buffered, for at most `timeout` seconds; the rest stays in the spool."""
        if not self.open:  # closed; in a forked child, whose locks nobody may ever release
            return
        deadline = time.monotonic() + timeout
        self._seal()
        while self._delivering and not self._drained() and time.monotonic() < deadline:
            self._spool.wait_empty(0.1)
            self._seal()

    def close(self, timeout: float) -> None:
        """Deliver, and say nothing more."""
        if not self.open:
            return
        self._closing.set()
        self.deliver(timeout)
        if self._delivering and self._spool.in_memory and not self._drained():
            warn("the service does not answer: the last reports are lost")
        self.open = False
        self._spool.close()
        self._wake.set()

    def abandon(self) -> None:
        """In a forked child, which has neither the threads nor their locks: say nothing more."""
        if self.open:
            self.open = False
            self._spool.abandon()

    def _open_spool(self, directory: Path | None) -> bool:
        """False when another process of this attempt reports already."""
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

    def _drained(self) -> bool:
        with self._sealing:  # else a batch on its way from the buffer to the spool is in neither
            return self._buffer.empty and not len(self._spool)

    def _see_to(self, duty: Callable[[], None]) -> None:
        """Whatever happens in a thread of ours, its end would silence a training that is well."""
        said = ""
        while self.open:
            try:
                return duty()
            except Exception as error:
                if said != (said := repr(error)):
                    warn(f"reports are in trouble ({said}); trying again")
                self._pause(BACKOFF_SECONDS[1])

    def _pause(self, seconds: float) -> None:
        if self._closing.wait(seconds):
            time.sleep(BACKOFF_SECONDS[0])

    def _seal_forever(self) -> None:
        while self.open:
            self._wake.wait(min(SEAL_SECONDS, self._heartbeat_seconds))
            self._wake.clear()
            self._stop.look()
            self._seal()

    def _deliver_forever(self) -> None:
        jitter = random.Random()  # noqa: S311 - the training owns the global generator's state
        pause, tried_since = BACKOFF_SECONDS[0], math.inf
        while self._delivering and self.open:
            line = self._spool.head(SEAL_SECONDS)
            if line is None:
                continue
            reply = self._post(line)
            if reply.delivered:
                self._acknowledge(json.loads(line)["batch"], reply.answer)
                pause, tried_since = BACKOFF_SECONDS[0], math.inf
            elif reply.worth_retrying:
                tried_since = min(tried_since, time.monotonic())
                if tried_since > 0 and time.monotonic() - tried_since > SILENCE_SECONDS:
                    warn("the service does not answer; training goes on, and reports wait")
                    tried_since = -math.inf  # said once
                self._pause(max(pause * jitter.uniform(0.5, 1.0), reply.retry_after))
                pause = min(pause * 2, BACKOFF_SECONDS[1])
                if not reply.status:
                    self._follow()
            else:
                self._refused(reply)
        self._link.close()

    def _post(self, line: bytes) -> Reply:
        """Of a batch that is not what the service takes, at least the rest shall arrive.

        Silence would end a training that is well, and so would an end that nobody heard of.
        """
        reply = self._link.post(line)
        for unwanted in ("effective_hyperparams", "metrics") if reply.of_batch else ():
            body = json.loads(line)
            if not self._warned:
                self._warned = True
                warn(
                    f"the service refused batch {body['batch']} ({_why(reply)}); "
                    "what it refuses is dropped"
                )
            if body.pop(unwanted, None) is not None:
                line = json.dumps(body).encode()
                reply = self._link.post(line)
                if not reply.of_batch:
                    break
        return Reply(200, {}) if reply.of_batch else reply

    def _follow(self) -> None:
        """Nobody answers. A server that took over has left its address in the run's directory."""
        if self._address:
            with suppress(OSError, ValueError):
                self._link.aim(self._address.read_text())

    def _acknowledge(self, batch: int, answer: dict[str, Any]) -> None:
        if answer.get("should_stop") is True:
            name = answer.get("stop_checkpoint")
            if isinstance(name, str) and checkpoint.NAME.fullmatch(name):
                self._stop.checkpoint = name
            self._stop.asked = True
        reached = answer.get("batch")
        if self._spool.in_memory and isinstance(reached, int):
            self._batch = max(self._batch, reached)
        self._spool.pop(batch)
        if len(self._buffer) >= BATCH_POINTS:
            self._wake.set()

    def _refused(self, reply: Reply) -> None:
        """Sending ends here; a spool on disk goes on, unless the service wants no more of us."""
        self._delivering = False
        if reply.status == 409:
            self.open = False
            self._spool.close()
        warn(f"the service refused a report ({_why(reply)}); no more will be sent")

    def _keep_pace(self) -> None:
        """Where points come faster than they are written down (a replay of a whole history), the
        training waits for the spool on its own disk, and for nobody else; a second at most."""
        deadline = time.monotonic() + 1
        while self._buffer.half_full and self.open and not self._spool.in_memory:
            if time.monotonic() > deadline:
                return
            time.sleep(0.001)

    def _seal(self) -> None:
        """Move the buffer into the spool, batch by batch; without one, only when all is sent."""
        with self._sealing:
            while not (self._spool.in_memory and len(self._spool)):
                body = self._buffer.take()
                rested = time.monotonic() - self._sealed_at
                if not body and (len(self._spool) or rested < self._heartbeat_seconds):
                    return
                self._batch += 1
                body = {**self._identity, "batch": self._batch, **body}
                self._spool.append(json.dumps(body, separators=(",", ":")).encode() + b"\n")
                self._sealed_at = time.monotonic()


def _why(reply: Reply) -> str:
    reason = reply.answer.get("detail") or reply.answer.get("code") or "no reason given"
    return f"{reply.status}: {reason}"
