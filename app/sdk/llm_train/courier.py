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

from llm_train import checkpoint, splitting
from llm_train.buffer import BATCH_POINTS, Buffer, Point, warn
from llm_train.delivery import Link, Reply, Spool
from llm_train.stopping import StopRequest

SEAL_SECONDS = 1.0
HEARTBEAT_SECONDS = 4.0
SILENCE_SECONDS = 10.0
BACKOFF_SECONDS = 0.25, 5.0  # first and longest pause between two tries
DISK_SECONDS = 1.0  # without progress of the spool's disk, which nobody waits for any longer
OTHER_SESSION_SECONDS = 30.0  # twice the silence after which the service lets another one report
REFUSALS_PER_BATCH = 64


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
        self._delivering, self._warned = True, set[str]()
        self._trouble = ""
        self._unwanted: set[str] = set()  # metrics that are more than the run may have
        self._in_transit = self._stalled = False
        self._other_since = math.inf  # when the service first said that another process reports
        self.open = self._open_spool(directory)
        if not self.open:
            return
        self._batch = self._spool.last_batch
        self._sealed_at = -math.inf
        self._wake, self._closing = threading.Event(), threading.Event()
        self._ended = threading.Event()
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
                if not self._stalled:
                    self._keep_pace()

    def announce(self, checkpoint: dict[str, Any]) -> None:
        """The news of a committed checkpoint, to be told at once."""
        if self.open:
            self._buffer.announce(checkpoint)
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
            unsealed = not self._buffer.empty or self._in_transit
            owed = unsealed or len(self._spool) > 0
            now = time.monotonic()
            if len(self._buffer) < left:
                left, moved = len(self._buffer), now
            sending = owed and self._delivering and not self._other_reports and now < deadline
            writing = unsealed and not self._spool.in_memory and now < moved + DISK_SECONDS
            if not (sending or writing):
                return
            self._wake.set()
            time.sleep(0.01)

    def close(self, timeout: float) -> None:
        """Deliver, and say nothing more."""
        if not self.open:
            return
        if "session" in self._identity:
            self._buffer.add([], closing=True)
        self._closing.set()
        self.deliver(timeout)
        lost = not self._buffer.empty or self._in_transit or len(self._spool) > 0
        if lost and self._delivering and self._spool.in_memory and not self._other_reports:
            why = f" ({self._trouble})" if self._trouble else ""
            warn(f"the service does not answer{why}: the last reports are lost")
        self.open = False
        self._wake.set()
        self._ended.wait(DISK_SECONDS)

    @property
    def _other_reports(self) -> bool:
        """True while the service says that another process reports on the run."""
        return self._other_since < math.inf

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

    def _see_to(self, duty: Callable[[], None]) -> None:
        """Whatever happens in a thread of ours, its end would silence a training that is well."""
        said = ""
        while self.open:
            try:
                duty()
            except Exception as error:
                if said != (said := repr(error)):
                    warn(f"reports are in trouble ({said}); trying again")
                self._pause(BACKOFF_SECONDS[1])
            else:
                break
        if duty == self._seal_forever:
            self._spool.close()
            self._ended.set()

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
                self._other_since = math.inf
                pause, tried_since = BACKOFF_SECONDS[0], math.inf
            elif reply.code == "session_active":
                if self._yield():
                    break
                self._pause(max(pause, reply.retry_after))
            elif reply.worth_retrying:
                self._trouble = reply.why
                tried_since = min(tried_since, time.monotonic())
                if tried_since > 0 and time.monotonic() - tried_since > SILENCE_SECONDS:
                    warn(
                        f"the service does not answer ({self._trouble}); training goes on, and "
                        "reports wait"
                    )
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
        if self._unwanted:
            body = json.loads(line)
            for key in self._unwanted & body.get("metrics", {}).keys():
                del body["metrics"][key]
            line = json.dumps(body).encode()
        reply = self._link.post(line)
        if reply.of_batch or reply.too_large:
            self._refusals = 0
            reply = self._post_in_parts(json.loads(line), reply)
        return reply

    def _post_in_parts(self, body: dict[str, Any], reply: Reply) -> Reply:
        """Send a report in halves, down to the items that the service refuses; these are dropped.

        What only a proxy refuses is never dropped.
        """
        self._refusals += reply.of_batch
        halves = splitting.split(body) if self._refusals <= REFUSALS_PER_BATCH else None
        if halves is None and not reply.of_batch:
            return reply
        rest = splitting.rest_of(body)
        if halves is None:
            self._drop(body, reply)
            if rest is None or rest == body:
                return Reply(200, {})
        for half in halves or filter(None, (rest,)):
            reply = self._link.post(json.dumps(half).encode())
            if reply.of_batch or reply.too_large:
                reply = self._post_in_parts(half, reply)
            if not reply.delivered:
                break
        return reply

    def _drop(self, body: dict[str, Any], reply: Reply) -> None:
        if reply.code == "run_limit" and len(body.get("metrics", {})) == 1:
            self._unwanted |= body["metrics"].keys()
        name = splitting.name_of(body)
        anonymous = splitting.rest_of(body) == body  # the rest of one of which was told
        if name in self._warned or (anonymous and self._warned) or len(self._warned) >= 20:
            return
        self._warned.add(name)
        warn(f"the service refused {name} ({reply.why}); what it refuses is dropped")

    def _yield(self) -> bool:
        """Another process reports on this run. True when this one gives up.

        That other one may also be dead, and this one its successor: it is waited for until the
        service must have noticed.
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
            self._wake.set()
        if reply.code == "run_finished":
            own = (
                ", and start this trainer with that one's LLM_TRAIN_RUN_ID and LLM_TRAIN_RUN_TOKEN"
            )
            if "attempt" in self._identity:  # the service starts the new run's trainer
                own = ""
            return warn(
                f"the service refused a report, for the run is over ({reply.why}) Training goes "
                f"on, and nothing of it is recorded ({len(self._buffer)} points and all that "
                "follow). To go on, resume the run from a checkpoint, which makes a new run" + own
            )
        warn(f"the service refused a report ({reply.why}); no more will be sent")

    def _keep_pace(self) -> None:
        """Where points come faster than they are written down (a replay of a whole history), the
        training waits for the spool on its own disk, and for nobody else; a second at most."""
        deadline = time.monotonic() + 1
        while self._buffer.half_full and self.open and not self._spool.in_memory:
            if time.monotonic() > deadline:
                self._stalled = True  # the disk hangs: the training waits for it once
                return
            time.sleep(0.001)

    def _seal(self) -> None:
        """Move the buffer into the spool, batch by batch; without one, only when all is sent."""
        try:
            while not (self._spool.in_memory and len(self._spool)):
                self._in_transit = True
                body = self._buffer.take()
                rested = time.monotonic() - self._sealed_at
                if not body and (len(self._spool) or rested < self._heartbeat_seconds):
                    return
                self._batch += 1
                body = {**self._identity, "batch": self._batch, **body}
                self._spool.append(json.dumps(body, separators=(",", ":")).encode() + b"\n")
                self._sealed_at = time.monotonic()
                self._stalled = False
        finally:
            self._in_transit = False
