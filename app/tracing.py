"""Traces by OpenTelemetry, where the operator asks for them (the extra `otel`).

configure(…)   once, at the start; without it nothing is imported, and a span costs one look
span(…)        something that this process does, within what it is part of
request(…)     the same for a request, within the trace of its caller
tick()         a span that begins only if something within it does
environment()  what tells a trainer of the trace that it is started in

What a span says are names, codes and numbers of the service: never the text of an error, a body or
a query, which may hold secrets.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from app.errors import ServiceError, Unavailable
from app.version import VERSION

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

FLUSH_MILLISECONDS = 2_000
"""The time limit, at shutdown, for spans that were not sent yet."""

_provider: "TracerProvider | None" = None
_tracer: "Tracer | None" = None
_tick: ContextVar["_Tick | None"] = ContextVar("tick", default=None)


def configure(endpoint: str) -> None:
    """Send spans to a collector at this URL, by OTLP over HTTP, in the background.

    The standard variables (`OTEL_SERVICE_NAME`, `OTEL_TRACES_SAMPLER`, `OTEL_EXPORTER_OTLP_HEADERS`
    …) hold. Raises Unavailable if the extra is not installed.
    """
    global _provider, _tracer
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise Unavailable(
            "LLM_TRAIN_OTLP_ENDPOINT needs OpenTelemetry: pip install 'llm-train-api[otel]'"
        ) from error
    shutdown()
    own = Resource({"service.name": "llm-train-api", "service.version": VERSION})
    resource = Resource.create().merge(own).merge(OTELResourceDetector().detect())
    _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    _provider.add_span_processor(BatchSpanProcessor(exporter))
    _tracer = _provider.get_tracer("llm_train", VERSION)


def is_on() -> bool:
    """Return True if spans are sent."""
    return _tracer is not None


def shutdown() -> None:
    """Send what was not sent yet, and end. Blocks for about two seconds at most."""
    global _provider, _tracer
    provider, _provider, _tracer = _provider, None, None
    if provider is not None:
        provider.force_flush(FLUSH_MILLISECONDS)
        provider.shutdown()


class _Tick:
    """A span that is not begun yet."""

    def __init__(self) -> None:
        self.began = time.time_ns()
        self.span: Span | None = None
        self.is_over = False


@contextmanager
def tick() -> Iterator[None]:
    """Be a span `supervisor.tick`, if a span begins within it: most rounds find nothing to do."""
    if _tracer is None:
        yield
        return
    current = _Tick()
    token = _tick.set(current)
    try:
        yield
    finally:
        _tick.reset(token)
        current.is_over = True
        if current.span is not None:
            current.span.end()


def is_within() -> bool:
    """Return True within a span: what is read then is part of something."""
    if _tracer is None:
        return False
    from opentelemetry.trace import get_current_span

    return get_current_span().get_span_context().is_valid


def environment() -> dict[str, str]:
    """Return the variables by which a trainer goes on with the trace that it is started in.

    `TRACEPARENT`, and `TRACESTATE` where there is one: those of W3C's headers, in capitals.
    """
    if not is_within():
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return {name.upper(): value for name, value in carrier.items()}


@contextmanager
def span(name: str, **attributes: str | int | None) -> Iterator[None]:
    """Be a span. An error ends it with its code; one that is the caller's fault is none of ours."""
    if _tracer is None:
        yield
        return
    dotted = {key.replace("__", "."): value for key, value in attributes.items()}
    given = {key: value for key, value in dotted.items() if value is not None}
    with _started(_tracer, name, _parent(_tracer), attributes=given):
        yield


def _parent(tracer: "Tracer") -> Any:
    """Return the context of the tick under way, where there is nothing nearer; None: the nearest.

    A job that a tick has begun outlives it: its span belongs to no tick, unless that has a span.
    """
    current = _tick.get()
    if current is None or is_within():
        return None
    from opentelemetry.trace import set_span_in_context

    if current.span is None:
        if current.is_over:
            return None
        current.span = tracer.start_span("supervisor.tick", start_time=current.began)
    return set_span_in_context(current.span)


@contextmanager
def request(method: str, headers: Mapping[str, str]) -> Iterator["Span"]:
    """Be a span of a request. `headers`: those of a trace that its caller may have sent.

    Only where `is_on`.
    """
    from opentelemetry.trace import SpanKind
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    assert _tracer is not None
    caller = TraceContextTextMapPropagator().extract(headers)
    with _started(_tracer, method, caller, kind=SpanKind.SERVER) as span:
        yield span


@contextmanager
def _started(tracer: "Tracer", name: str, context: Any, **how: Any) -> Iterator["Span"]:
    from opentelemetry.trace import StatusCode

    with tracer.start_as_current_span(
        name, context, record_exception=False, set_status_on_exception=False, **how
    ) as span:
        try:
            yield span
        except ServiceError as error:
            span.set_attribute("error.type", error.code)
            if error.status >= 500:
                span.set_status(StatusCode.ERROR)
            raise
        except Exception as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(StatusCode.ERROR)
            raise
