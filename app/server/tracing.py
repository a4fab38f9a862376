"""ASGI middleware: a span for each request, within the trace of its caller (`traceparent`)."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import tracing

_CONTEXT = (b"traceparent", b"tracestate")


class TracedRequests:
    """Makes a span of each request, until its response has ended."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode(): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _CONTEXT
        }
        with tracing.request(scope["method"], headers) as span:

            async def note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if (route := scope.get("route")) is not None:
                        span.update_name(f"{scope['method']} {route.path}")
                        span.set_attribute("http.route", route.path)
                    if status >= 500:
                        from opentelemetry.trace import StatusCode

                        span.set_status(StatusCode.ERROR)
                await send(message)

            span.set_attribute("http.request.method", scope["method"])
            await self.app(scope, receive, note)
