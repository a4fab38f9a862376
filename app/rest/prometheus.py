"""`/metrics`: what Prometheus reads of this server and of the runs that are under way.

Requests are counted in plain numbers as they pass (`RequestTimes`); everything else is read when
Prometheus asks, so that nothing is paid for where nobody does.
"""

import asyncio
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from fastapi import APIRouter, Request, Response
from sqlalchemy import Executable, func, literal_column, select
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.db import tally
from app.db.durations import Durations
from app.db.sql import Tx, columns, query
from app.db.tables import Run, WebhookDelivery
from app.domain.lifecycle import TERMINAL, RunStatus
from app.rest.parameters import DocumentedRoute
from app.rest.problems import describe_errors
from app.version import VERSION

if TYPE_CHECKING:
    from prometheus_client import Metric

router = APIRouter(tags=["service"], route_class=DocumentedRoute)

_run = columns(Run)
_LIVE = [status for status in RunStatus if status not in TERMINAL]


_delivery = columns(WebhookDelivery)


class Counts(NamedTuple):
    """The figures that are read from the database."""

    live: list[tuple[str, str | None, int]]
    """Runs that have not ended, by status and reason."""
    by_state: Mapping[tuple[str, str], int]
    """Runs and checkpoints, by table and state."""
    pending_deliveries: int


@query(tuple[int])
def _pending_deliveries() -> Executable:
    pending = _delivery.state == literal_column("'pending'")  # as the index has it
    return select(func.count()).select_from(WebhookDelivery).where(pending)


@query(tuple[str, str | None, int])
def _counts() -> Executable:
    return (
        select(_run.status, _run.status_reason, func.count())
        # In the words of the index ix_run_status: the ended runs, of which there may be a million,
        # are not read.
        .where(_run.status.in_([literal_column(f"'{status}'") for status in _LIVE]))
        .group_by(_run.status, _run.status_reason)
    )


class RequestTimes:
    """ASGI middleware that counts requests by operation and status, until the response starts.

    A stream that is followed for hours is no slow request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def _count_websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        open_ = scope["app"].state.open_connections
        open_["websocket"] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            open_["websocket"] -= 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            run = self._count_websocket if scope["type"] == "websocket" else self.app
            await run(scope, receive, send)
            return
        began = time.perf_counter()

        async def measure(message: Message) -> None:
            if message["type"] == "http.response.start":
                # Named by the route: a path would make a series of each id.
                name = getattr(scope.get("route"), "name", "none")
                key = (name, message["status"])
                scope["app"].state.request_times[key].add(time.perf_counter() - began)
            await send(message)

        await self.app(scope, receive, measure)


Times = defaultdict[tuple[str, int], Durations]


def request_times() -> Times:
    """Return an empty table for `app.state.request_times`."""
    return defaultdict(Durations)


@router.get("/metrics", response_class=Response, responses=describe_errors())
async def service_metrics(request: Request) -> Response:
    """Return measurements of this server and of live runs, in Prometheus's text format."""
    from prometheus_client import (  # few servers are asked
        CONTENT_TYPE_LATEST,
        CollectorRegistry,
        GCCollector,
        ProcessCollector,
        generate_latest,
    )

    state = request.app.state
    counts = await state.db.scan(_count)
    disk = await asyncio.to_thread(shutil.disk_usage, state.settings.data_dir)
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    registry.register(_Collector(state, counts, disk.free))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _count(tx: Tx) -> Counts:
    pending = tx.first(_pending_deliveries)
    return Counts(tx.all(_counts), tally.count_by_state(tx), pending[0] if pending else 0)


class _Collector:
    """Everything of one answer, in the form that `prometheus_client` renders."""

    def __init__(self, state: Any, counts: Counts, free_bytes: int) -> None:
        self._state = state
        self._counts = counts
        self._free_bytes = free_bytes

    def collect(self) -> "Iterator[Metric]":
        """Yield each metric with its samples."""
        from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

        yield InfoMetricFamily(
            "llm_train_service", "The version that serves.", value={"version": VERSION}
        )
        yield from self._rows()
        yield from self._work()
        supervisor, db = self._state.supervisor, self._state.db
        for name, help, value in (
            (
                "ready",
                "1 if the service can work, as /readyz says.",
                supervisor.describe_trouble() is None,
            ),
            ("leader", "1 if this server's supervisor works.", supervisor.state.leads),
            ("tick_age_seconds", "Since the supervisor's loop came round.", supervisor.tick_age()),
            ("data_dir_free_bytes", "Free space of the data directory's disk.", self._free_bytes),
            ("reports_waiting_bytes", "Bodies of reports in work.", self._state.inflow.held),
            ("database_writes_waiting", "Writes that wait, or are under way.", db.waiting_writes),
            ("subscribers", "Streams and steps that wait for a change.", db.changes.subscribers),
            ("websockets", "Open websockets.", self._state.open_connections["websocket"]),
        ):
            yield GaugeMetricFamily(f"llm_train_{name}", help, value=float(value))
        yield from self._durations()

    def _rows(self) -> "Iterator[Metric]":
        """Yield what is in the database. Labels are codes of the service's own: no ids."""
        from prometheus_client.core import GaugeMetricFamily

        runs = GaugeMetricFamily(
            "llm_train_runs", "Runs that have not ended, by status and reason.",
            labels=["status", "reason"],
        )  # fmt: skip
        for status, reason, count in self._counts.live:
            runs.add_metric([status, reason or ""], count)
        yield runs
        for listed, name, help, label in (
            ("run", "llm_train_runs_all", "All runs, by status.", "status"),
            ("checkpoint", "llm_train_checkpoints", "All checkpoints, by state.", "state"),
        ):
            family = GaugeMetricFamily(name, help, labels=[label])
            for (of, value), count in sorted(self._counts.by_state.items()):
                if of == listed:
                    family.add_metric([value], count)
            yield family
        yield GaugeMetricFamily(
            "llm_train_webhook_deliveries_pending", "Messages that are yet to be received.",
            value=self._counts.pending_deliveries,
        )  # fmt: skip

    def _work(self) -> "Iterator[Metric]":
        """Yield what this server's supervisor has done since its start."""
        from prometheus_client.core import CounterMetricFamily

        supervisor = self._state.supervisor
        measures = supervisor.measures
        for name, help, value in (
            ("ticks", "Rounds of the supervisor's loop.", measures.ticks),
            ("tick_seconds", "Time of the event loop that they took.", measures.tick_seconds),
        ):
            yield CounterMetricFamily(f"llm_train_{name}", help, value=value)
        for name, help, label, counts in (
            ("failed_steps", "Steps of a round that failed.", "step", measures.failed_steps),
            ("webhook_attempts", "Attempts to send messages.", "outcome", supervisor.state.sent),
        ):
            family = CounterMetricFamily(f"llm_train_{name}", help, labels=[label])
            for value, count in sorted(counts.items()):
                family.add_metric([value], count)
            yield family

    def _durations(self) -> "Iterator[Metric]":
        from prometheus_client.core import HistogramMetricFamily

        requests = HistogramMetricFamily(
            "llm_train_http_request_seconds",
            "Time until the response began, by operation and status.",
            labels=["operation", "status"],
        )
        # A copy: requests go on while this is rendered.
        for (operation, status), took in list(self._state.request_times.items()):
            requests.add_metric([operation, str(status)], took.cumulative(), took.seconds)
        yield requests
        database = HistogramMetricFamily(
            "llm_train_database_seconds",
            "Time until a transaction was over, its wait for a turn included.",
            labels=["kind"],
        )
        for kind, took in self._state.db.durations.items():
            database.add_metric([kind], took.cumulative(), took.seconds)
        yield database
