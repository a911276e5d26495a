"""The span of a request, where the application has configured a tracer (extra `otel`); see `fissile._otel`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

    from fissile_gateway._exchange import Exchange, Scope


def request_spans() -> RequestSpans | None:
    """Return what makes the spans of requests; None where no tracer is configured."""
    if "opentelemetry.trace" not in sys.modules:
        return None
    from fissile._otel import tracer_in_use

    tracer = tracer_in_use()
    return None if tracer is None else RequestSpans(tracer)


class RequestSpans:
    """Makes the spans of requests: names and attributes follow OpenTelemetry's conventions for HTTP servers.

    Args:
        tracer: The application's tracer.
    """

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin(self, exchange: Exchange, scope: Scope, path: str) -> None:
        """Begin the span of a request, and let what is done for it be part of it."""
        from opentelemetry.trace import SpanKind

        from fissile._otel import context_of, trace_of_span

        attributes: dict[str, str] = {
            "http.request.method": scope["method"],
            "url.path": path,
            "url.scheme": scope.get("scheme", "http"),
            "network.protocol.version": scope.get("http_version", "1.1"),
            "fissile.request_id": exchange.request_id,
        }
        if scope.get("client"):
            attributes["client.address"] = scope["client"][0]
        span = self._tracer.start_span(scope["method"], context_of(exchange.trace), SpanKind.SERVER, attributes)
        exchange.trace = trace_of_span(span) or exchange.trace
        exchange.span = span

    def end(self, exchange: Exchange, method: str, status: int) -> None:
        """End the span of a request that has been answered."""
        from opentelemetry.trace import Status, StatusCode

        span = exchange.span
        if span is None:
            return
        span.set_attribute("http.response.status_code", status)
        if exchange.route is not None:
            span.set_attribute("http.route", exchange.route)
            span.update_name(f"{method} {exchange.route}")
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end()
