"""Spans: made where a tracer is configured, of handlers and of what is sent; nothing of it where none is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from fissile import HandlerFailed, _trace
from fissile._trace import ambient
from tests.gateway.serving import serving
from tests.runtime.helpers import app_of, until
from tests.runtime.test_metrics import Do, No, measured
from tests.runtime.test_traces import Outer, Seen, traced_module

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Configure a tracer, as an application does, and give what it has recorded."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    monkeypatch.setattr(_trace, "outside", ambient.get)
    yield exporter
    provider.shutdown()


def by_name(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {span.name: span for span in exporter.get_finished_spans()}


def parent_of(span: ReadableSpan, found: dict[str, ReadableSpan]) -> str:
    """The name of a span's parent."""
    assert span.parent is not None
    return next(
        other.name
        for other in found.values()
        if other.context is not None and other.context.span_id == span.parent.span_id
    )


@pytest.mark.parametrize("is_loopback", [False, True], ids=["local", "through-the-log"])
async def test_a_chain_is_one_tree_of_spans(spans: InMemorySpanExporter, is_loopback: bool) -> None:
    seen = Seen()
    async with app_of(traced_module(seen), is_loopback=is_loopback) as app:
        with trace.get_tracer("test").start_as_current_span("a script"):
            await app.bus.execute(Outer("x"), id="given")
        await until(lambda: {"process traced.told", "process traced.again"} <= set(by_name(spans)))
    found = by_name(spans)
    assert len({span.context.trace_id for span in found.values() if span.context is not None}) == 1
    outer = found["process traced.outer"]
    if is_loopback:
        assert parent_of(outer, found) == "send traced.outer"
        assert parent_of(found["send traced.outer"], found) == "a script"
        assert parent_of(found["process traced.inner"], found) == "send traced.inner"
        assert (outer.kind, found["send traced.outer"].kind) == (SpanKind.CONSUMER, SpanKind.CLIENT)
        assert outer.attributes is not None
        assert outer.attributes["messaging.destination.name"] == "traced.requests"
        assert outer.attributes["messaging.system"] == "fissile_memory"
        assert outer.attributes["messaging.message.id"] == "given"
    else:
        assert parent_of(outer, found) == "a script"
        assert parent_of(found["process traced.inner"], found) == "process traced.outer"
        assert (outer.kind, set(found) & {"send traced.outer", "send traced.inner"}) == (SpanKind.INTERNAL, set())
    for name in ("told", "again"):
        assert parent_of(found[f"process traced.{name}"], found) == f"create traced.{name}"
        assert parent_of(found[f"create traced.{name}"], found) == "process traced.outer"
        assert found[f"create traced.{name}"].kind is SpanKind.PRODUCER
    # What a handler sees, and what the log tells, is its span.
    assert outer.context is not None
    assert seen.traces["outer"].span_id == f"{outer.context.span_id:016x}"


@pytest.mark.parametrize("is_loopback", [False, True], ids=["local", "through-the-log"])
async def test_a_failure_is_an_error_of_its_span_and_a_declared_error_is_an_answer(
    spans: InMemorySpanExporter, is_loopback: bool
) -> None:
    async with app_of(measured(), is_loopback=is_loopback) as app:
        for how, error in (("no", No), ("fail", HandlerFailed)):
            spans.clear()
            with pytest.raises(error):
                await app.bus.execute(Do(how))
            handled = by_name(spans)["process measured.do"]
            assert handled.attributes is not None
            assert handled.attributes["error.type"] == ("No" if how == "no" else "RuntimeError")
            assert handled.status.status_code is (StatusCode.UNSET if how == "no" else StatusCode.ERROR)
            assert not handled.events  # no traceback, which may hold what is nobody's business


async def test_a_request_to_the_gateway_is_the_span_above_its_handlers(spans: InMemorySpanExporter) -> None:
    async with serving() as running:
        answer = await running.client.get("/api/shop/find", headers={"traceparent": PARENT})
        assert answer.status_code == 200
        await running.client.get("/nowhere")
        await running.client.post("/api/shop/behave", json={"how": "fail"})
    found = by_name(spans)
    request = found["GET /api/shop/find"]
    assert request.parent is not None
    assert request.context is not None
    assert f"{request.context.trace_id:032x}-{request.parent.span_id:016x}" == PARENT[3:52]
    assert (request.kind, parent_of(found["process shop.find"], found)) == (SpanKind.SERVER, "GET /api/shop/find")
    attributes = dict(request.attributes or {})
    assert (attributes["http.route"], attributes["http.response.status_code"]) == ("/api/shop/find", 200)
    assert "GET" in found  # a path that leads nowhere gives no name
    assert found["POST /api/shop/behave"].status.status_code is StatusCode.ERROR


def test_nothing_is_imported_where_no_tracer_is_configured() -> None:
    code = (
        "import sys, anyio, fissile, fissile_gateway\n"
        "from fissile_gateway import GatewaySettings\n"
        "async def main():\n"
        "    overrides = {GatewaySettings: GatewaySettings(port=0)}\n"
        "    async with fissile.App([fissile_gateway.module], overrides=overrides): pass\n"
        "anyio.run(main)\n"
        "print([name for name in ('opentelemetry', 'fissile._otel', 'prometheus_client') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
