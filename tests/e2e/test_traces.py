"""What a collector of OpenTelemetry gets: real spans, over OTLP, of the caller's own trace.

Seen red: without the middleware's look at `traceparent`, the request began a trace of its own;
a trainer that got nothing of its launch.
"""

import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from tests.support.server import free_port, running_server, wait_until
from tests.support.service import home

QUICK = {"OTEL_BSP_SCHEDULE_DELAY": "100"}


class Collector(ThreadingHTTPServer):
    """Takes traces by OTLP over HTTP, and keeps their spans."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.spans: list[Span] = []
        self.services: set[str] = set()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, body: bytes) -> None:
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.services.add(attributes(of_resource.resource)["service.name"])
            for of_scope in of_resource.scope_spans:
                self.spans += of_scope.spans

    def named(self, *names: str) -> list[Span]:
        return [span for span in list(self.spans) if span.name in names]


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        assert self.headers["content-type"] == "application/x-protobuf"
        self.server.take(self.rfile.read(int(self.headers["content-length"])))
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(200)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, args=(0.05,))
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def attributes(of: Any) -> dict[str, Any]:
    """The attributes of a span or a resource."""
    kinds = {"string_value", "int_value", "bool_value", "double_value"}
    return {
        each.key: getattr(each.value, kind)
        for each in of.attributes
        if (kind := each.value.WhichOneof("value")) in kinds
    }


def test_a_request_is_part_of_its_callers_trace_and_its_transaction_of_it(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    trace, parent = secrets.token_bytes(16), secrets.token_bytes(8)
    sent = {"traceparent": f"00-{trace.hex()}-{parent.hex()}-01"}
    with home(tmp_path) as place, place.serve(OTLP_ENDPOINT=collector.url) as service:
        path = f"/experiments/{service.experiment}/runs"
        body = {"model": "amber", "recipe": "finishes", "hyperparams": {"steps": 3}}
        run = service.post(path, body, 201, **sent)["run_id"]
        service.ended(run)
        route = "/v1/experiments/{experiment_id}/runs"
        (request,) = wait_until(
            lambda: [s for s in collector.named(f"POST {route}") if s.trace_id == trace],
            lambda: f"the request: {sorted({span.name for span in collector.spans})}",
        )  # fmt: skip
        assert request.parent_span_id == parent and request.kind == Span.SPAN_KIND_SERVER
        known = attributes(request)
        assert (known["http.route"], known["http.response.status_code"]) == (route, 201)
        (write,) = wait_until(
            lambda: [s for s in collector.named("db.write") if s.parent_span_id == request.span_id],
            "its transaction",
        )  # fmt: skip
        assert write.trace_id == trace
        assert attributes(write)["db.system.name"] == "sqlite"
        assert request.start_time_unix_nano <= write.start_time_unix_nano
        assert write.end_time_unix_nano <= request.end_time_unix_nano

        launched = wait_until(
            lambda: [s for s in collector.named("launch")
                     if attributes(s)["llm_train.run_id"] == run],
            "its launch",
        )  # fmt: skip
        assert attributes(launched[0])["llm_train.recipe"] == "finishes"
        wait_until(
            lambda: [s for s in collector.named("launcher.submit")
                     if s.parent_span_id == launched[0].span_id],
            "its start",
        )  # fmt: skip
        wait_until(lambda: collector.named("supervisor.tick"), "a round that did something")
        service.http.get(f"{service.url}/v1/experiments/amber-secret/detail?amber=secret")
        missed = wait_until(
            lambda: [s for s in collector.named("GET /v1/experiments/{experiment_id}/detail")
                     if attributes(s)["http.response.status_code"] == 404],
            "a request that found nothing",
        )  # fmt: skip
        assert missed[0].status.code != Status.STATUS_CODE_ERROR
        assert collector.services == {"llm-train-api"}
        assert not any("amber" in str(span) for span in list(collector.spans))


def test_a_trainer_can_go_on_with_the_trace_of_its_launch(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    deed = "(run / 'trace').write_text(os.environ.get('TRACEPARENT', ''))"
    with home(tmp_path) as place:
        with place.serve(OTLP_ENDPOINT=collector.url) as service:
            run = service.submit("vandal", deed=deed, steps=5)
            service.ended(run)
            (launch,) = wait_until(
                lambda: [s for s in collector.named("launch")
                         if attributes(s)["llm_train.run_id"] == run],
                "its launch",
            )  # fmt: skip
            told = (service.data_dir / "runs" / run / "trace").read_text()
            version, trace, parent, flags = told.split("-")
            assert (version, int(flags, 16) & 1) == ("00", 1), "it is sampled"
            assert (trace, parent) == (launch.trace_id.hex(), launch.span_id.hex())
        with place.serve() as service:
            run = service.submit("vandal", deed=deed, steps=5)
            service.ended(run)
            assert (service.data_dir / "runs" / run / "trace").read_text() == ""


WRONG = [b"", b"00-xyz", b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", "ä".encode()]


def test_a_traceparent_that_is_wrong_begins_a_new_trace(
    tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    with home(tmp_path) as place, place.serve(OTLP_ENDPOINT=collector.url) as service:
        for sent in WRONG:
            headers = {b"traceparent": sent}
            answer = service.http.get(f"{service.url}/v1/experiments", headers=headers)
            assert answer.status_code == 200
        found = wait_until(
            lambda: (spans := collector.named("GET /v1/experiments"))[len(WRONG) - 1 :] and spans,
            "their spans",
        )  # fmt: skip
        assert not any(span.parent_span_id for span in found)
        assert len({span.trace_id for span in found}) == len(WRONG)


def test_a_collector_that_is_away_costs_no_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    with running_server(tmp_path, OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}") as server:
        import httpx

        for _ in range(20):
            assert httpx.get(f"{server.url}/v1/experiments", timeout=60).status_code == 200


def test_what_is_not_asked_for_is_not_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from app.main import create_app; from app.settings import Settings;"
        f" create_app(Settings(data_dir={str(tmp_path)!r}));"
        " print(*(name for name in ('sdk', 'exporter') if f'opentelemetry.{name}' in sys.modules))"
    )
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert found.stdout.strip() == ""
