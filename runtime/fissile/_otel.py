"""Spans (extra `otel`): made where the application has configured a tracer, and absent where it has not.

The library only uses `opentelemetry-api`; what records and exports spans is the application's to choose. A tracer is configured by
`opentelemetry-instrument`, or by `opentelemetry.trace.set_tracer_provider` before the process is built: when a module is imported, or in a
resource. Where neither has happened, nothing here is imported.

Names and attributes follow OpenTelemetry's conventions for messaging. A span is called after the message, whose names are few, and not after the
topic of requests, which all messages of a module share.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any

from fissile import _trace
from fissile._bus import Queries, Route
from fissile._errors import Forbidden
from fissile._identity import NotAllowed
from fissile._messages import DeclaredError
from fissile._trace import Trace, ambient, parent_of, trace_of

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

    from fissile._handler import Handler

_SCOPE = "fissile"


def tracer_in_use() -> Tracer | None:
    """Return the tracer that the application has configured, or None; imports nothing where nobody has."""
    api = sys.modules.get("opentelemetry.trace")
    if api is None:
        return None
    provider = api.get_tracer_provider()
    if isinstance(provider, (api.ProxyTracerProvider, api.NoOpTracerProvider)):
        return None
    tracer: Tracer = provider.get_tracer(_SCOPE)
    return tracer


def trace_of_span(span: Span) -> Trace | None:
    """Return the place of a span in its trace, or None if it has none."""
    from opentelemetry.trace import format_span_id, format_trace_id

    context = span.get_span_context()
    if not context.is_valid:
        return None
    state = ",".join(f"{key}={value}" for key, value in context.trace_state.items())
    return Trace(format_trace_id(context.trace_id), format_span_id(context.span_id), int(context.trace_flags), state)


@cache
def _no_parent() -> Any:  # Any: a Context, which is theirs
    from opentelemetry.context import Context

    return Context()


def context_of(trace: Trace | None) -> Any:  # Any: likewise
    """Return the context in which a span begins whose parent is elsewhere."""
    if trace is None or not trace.span_id:
        return _no_parent()
    from opentelemetry.trace import (
        NonRecordingSpan,
        SpanContext,
        TraceFlags,
        TraceState,
        set_span_in_context,
    )

    state = TraceState.from_header([trace.state]) if trace.state else None
    context = SpanContext(
        int(trace.trace_id, 16),
        int(trace.span_id, 16),
        is_remote=True,
        trace_flags=TraceFlags(trace.flags),
        trace_state=state,
    )
    return set_span_in_context(NonRecordingSpan(context), _no_parent())


def _outside() -> Trace | None:
    """Return the trace of code outside of all handlers: the gateway's request, or the span that is current there."""
    trace = ambient.get()
    if trace is not None:
        return trace
    from opentelemetry.trace import get_current_span

    return trace_of_span(get_current_span())


class Spans:
    """Makes spans of handlers and of what is sent.

    Args:
        tracer: The application's tracer.
        system: What carries messages, such as `kafka`.
    """

    def __init__(self, tracer: Tracer, system: str) -> None:
        self._tracer = tracer
        self._system = system
        self._calling: ContextVar[Trace | None] = ContextVar("fissile.calling", default=None)
        _trace.outside = _outside

    # --- handlers ----------------------------------------------------------------------------------------------------

    def handling(
        self, handler: Handler, call: Callable[[Any, Queries], Coroutine[Any, Any, Any]]
    ) -> Callable[[Any, Queries], Coroutine[Any, Any, Any]]:
        """Wrap what handles a message in a span."""
        # Any, here and below: a message, and its reply.
        from opentelemetry.trace import SpanKind, use_span

        name = f"process {handler.name}"

        async def handle(message: Any, bus: Queries) -> Any:
            delivery = bus._delivery
            kind = SpanKind.INTERNAL if delivery is None else SpanKind.CONSUMER
            span = self._tracer.start_span(
                name, context_of(_given(bus)), kind, {**self._of_handler(handler), **self._of_delivery(bus)}
            )
            bus._trace = trace_of_span(span) or bus._trace
            with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
                try:
                    return await call(message, bus)
                except Exception as error:
                    note(span, error)
                    raise

        return handle

    def _of_handler(self, handler: Handler) -> Mapping[str, str]:
        return {"fissile.module": handler.module, "fissile.message": handler.name, "fissile.kind": handler.kind}

    def _of_delivery(self, bus: Queries) -> Mapping[str, str | int]:
        told: dict[str, str | int] = {"messaging.message.id": bus._message_id()}
        delivery = bus._delivery
        if delivery is None:
            return told
        record = delivery.record
        return {
            **told,
            "messaging.system": self._system,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": record.topic,
            "messaging.destination.partition.id": str(record.partition),
            "messaging.consumer.group.name": delivery.subscription.handler.module,
            "messaging.message.body.size": len(record.value),
            "messaging.kafka.offset": record.offset,
            "fissile.attempt": bus._attempt,
        }

    # --- what is sent ------------------------------------------------------------------------------------------------

    def calling(self, name: str, topic: str, route: Route) -> Route:
        """Wrap the way to a message that is handled elsewhere in a span, from the request to its outcome."""
        from opentelemetry.trace import SpanKind, use_span

        attributes = {**self._of_sending("send", topic), "fissile.message": name}

        async def call(bus: Queries, message: Any, message_id: str | None) -> Any:
            span = self._tracer.start_span(f"send {name}", context_of(trace_of(bus)), SpanKind.CLIENT, attributes)
            token = self._calling.set(trace_of_span(span))
            with use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
                try:
                    return await route(bus, message, message_id)
                except Exception as error:
                    note(span, error)
                    raise
                finally:
                    self._calling.reset(token)

        return call

    def carried(self, bus: Queries, message_id: str, name: str) -> Trace | None:
        """Return the trace that a message carries: that of its call, or of a span of its own."""
        from opentelemetry.trace import SpanKind

        calling = self._calling.get()
        if calling is not None:
            return calling
        attributes = {**self._of_sending("create", None), "messaging.message.id": message_id, "fissile.message": name}
        span = self._tracer.start_span(f"create {name}", context_of(trace_of(bus)), SpanKind.PRODUCER, attributes)
        span.end()
        return trace_of_span(span) or trace_of(bus)

    def _of_sending(self, operation: str, topic: str | None) -> dict[str, str]:
        told = {
            "messaging.system": self._system,
            "messaging.operation.name": operation,
            "messaging.operation.type": operation,
        }
        return told if topic is None else {**told, "messaging.destination.name": topic}


def _given(bus: Queries) -> Trace | None:
    """Return the parent of a handler's span; a chain that was given no trace begins one with its own ids."""
    return parent_of(bus) if bus._trace is None else bus._trace


def note(span: Span, error: BaseException) -> None:
    """Note how something ended: an error that its contract declares is an answer, any other is a failure."""
    from opentelemetry.trace import Status, StatusCode

    if isinstance(error, NotAllowed):
        error = error.error
    span.set_attribute("error.type", type(error).__qualname__)
    if not isinstance(error, (DeclaredError, Forbidden)):
        span.set_status(Status(StatusCode.ERROR, f"{type(error).__name__}"))
