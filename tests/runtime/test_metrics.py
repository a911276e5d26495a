"""What a process measures, and the port where it tells it without a gateway."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from attrs import frozen

from fissile import (
    App,
    Bus,
    Command,
    Contract,
    DeclaredError,
    Event,
    Metric,
    Module,
    Process,
    Retry,
    StartupFailed,
    Topic,
)
from fissile._metrics import counter, gauge, histogram, labelled, merged
from fissile.testing import ManualClock
from tests.runtime.helpers import PATIENCE_S, app_of, quick, until


@frozen
class No(DeclaredError):
    pass


@frozen
class Do(Command[str], raises=(No,)):
    how: str


@frozen
class Done(Event):
    text: str


topic = Topic("measured.done", Done, key=lambda event: event.text)
contract = Contract("measured", messages=[No, Do, Done], topics=[topic])


def measured(hanging: anyio.Event | None = None) -> Module:
    module = Module(contract)

    @module.command(Do, idempotent=True)
    async def do(command: Do, bus: Bus) -> str:
        if command.how == "no":
            raise No
        if command.how == "fail":
            raise RuntimeError
        if command.how == "hang":
            assert hanging is not None
            hanging.set()
            await anyio.sleep_forever()
        await bus.publish(Done(command.how))
        return command.how

    @module.subscribe(topic, retry=Retry(attempts=2, first_s=1.0))
    async def on_done(event: Done) -> None:
        if event.text == "poison":
            raise RuntimeError

    return module


def read(app: App, name: str, **labels: str) -> float:
    """The value of a sample."""
    (value,) = [
        sample.value
        for metric in app.metrics()
        for sample in metric.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return value


async def test_outcomes_deliveries_and_dead_letters_are_counted() -> None:
    clock = ManualClock()
    async with app_of(measured(), clock=clock) as app:
        await app.bus.execute(Do("a"))
        await app.bus.execute(Do("poison"))
        for how in ("no", "fail"):
            with pytest.raises(Exception):  # noqa: B017
                await app.bus.execute(Do(how))
        await until(lambda: read(app, "fissile_deliveries_total", outcome="retried") == 1)

        def is_dead() -> bool:
            clock.advance(1.0)  # its pause may begin a moment after it was counted
            return read(app, "fissile_deliveries_total", outcome="dead") == 1

        await until(is_dead)
        message = {"module": "measured", "message": "measured.do"}
        assert read(app, "fissile_messages_total", **message, outcome="handled") == 2
        assert read(app, "fissile_messages_total", **message, outcome="declared") == 1
        assert read(app, "fissile_messages_total", **message, outcome="failed") == 1
        assert read(app, "fissile_consumer_lag", module="measured") == 0
        assert read(app, "fissile_consumer_rebalances_total", module="measured") == 1
        assert read(app, "fissile_check_ok", check="log") == 1
        assert read(app, "fissile_info", application="app", process="monolith", placement="monolith") == 1


async def test_handlers_that_run_and_calls_in_flight_are_told() -> None:
    hanging = anyio.Event()
    async with app_of(measured(hanging)) as app, anyio.create_task_group() as tasks:
        tasks.start_soon(app.bus.execute, Do("hang"))
        with anyio.fail_after(PATIENCE_S):
            await hanging.wait()
        assert read(app, "fissile_handlers_running", kind="command") == 1
        assert read(app, "fissile_handlers_running", kind="query") == 0
        assert read(app, "fissile_calls_in_flight", caller="outside") == 1
        tasks.cancel_scope.cancel()


async def test_calls_through_the_log_are_told() -> None:
    async with app_of(measured(), is_loopback=True) as app:
        await app.bus.execute(Do("a"))
        assert read(app, "fissile_remote_calls_total", outcome="replied") == 1
        assert read(app, "fissile_remote_calls_waiting") == 0


async def test_a_worker_adds_metrics_and_a_source_that_fails_leaves_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    module = Module(Contract("adds", messages=[]))

    def fails() -> Iterator[Metric]:
        raise ZeroDivisionError

    @module.worker
    async def work(process: Process) -> None:
        process.metrics.add(fails)
        process.metrics.add(lambda: [gauge("shelf_books", "Books on the shelf.", [({}, 7)])])
        await anyio.sleep_forever()

    async with app_of(module) as app:
        await until(lambda: any(metric.name == "shelf_books" for metric in app.metrics()))
        assert read(app, "shelf_books") == 7
        assert read(app, "fissile_ready") == 1
    assert "metrics cannot be read" in caplog.text


def test_the_buckets_of_a_histogram_add_up() -> None:
    metric = histogram("took_seconds", "How long.", (0.1, 1.0), [({"a": "b"}, [2, 0, 3], 9.5)])
    told = {(sample.name, sample.labels.get("le")): sample.value for sample in metric.samples}
    assert told == {
        ("took_seconds_bucket", "0.1"): 2,
        ("took_seconds_bucket", "1"): 2,
        ("took_seconds_bucket", "+Inf"): 5,
        ("took_seconds_sum", None): 9.5,
        ("took_seconds_count", None): 5,
    }


def test_metrics_of_several_processes_become_one_set() -> None:
    groups = [labelled([counter("done", "Done.", [({}, number)])], {"worker": str(number)}) for number in (0, 1)]
    (metric,) = merged(groups)
    assert [(sample.name, sample.labels, sample.value) for sample in metric.samples] == [
        ("done_total", {"worker": "0"}, 0),
        ("done_total", {"worker": "1"}, 1),
    ]


# --- the port --------------------------------------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@asynccontextmanager
async def with_port(**more: Any) -> AsyncGenerator[tuple[App, int]]:
    port = free_port()
    async with app_of(measured(), settings=quick(metrics_port=port, **more)) as app:
        yield app, port


async def send(port: int, request: bytes) -> str:
    """Send a request and return the whole answer."""
    with anyio.fail_after(PATIENCE_S):
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(request)
            answer = b""
            try:
                while True:
                    answer += await stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return answer.decode()


@pytest.mark.parametrize(
    ("request_", "status", "contains"),
    [
        (b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", "200 OK", "fissile_messages_total{"),
        (b"GET /metrics?a=b HTTP/1.0\r\nAccept: application/openmetrics-text;version=1.0.0\r\n\r\n", "200 OK", "# EOF"),
        (b"GET /livez HTTP/1.1\r\n\r\n", "200 OK", "ok\n"),
        (b"GET /readyz HTTP/1.1\r\n\r\n", "200 OK", "ok\n"),
        (b"HEAD /livez HTTP/1.1\r\n\r\n", "200 OK", "content-length: 3"),
        (b"GET /other HTTP/1.1\r\n\r\n", "404 Not Found", ""),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed", ""),
        (b"nonsense\r\n\r\n", "400 Bad Request", ""),
        (b"GET /livez HTTP/1.1\r\n" + b"x: y\r\n" * 3000, "431 Request Header Fields Too Large", ""),
    ],
)
async def test_the_port_answers_what_it_knows_and_refuses_the_rest(request_: bytes, status: str, contains: str) -> None:
    async with with_port() as (_, port):
        answer = await send(port, request_)
    assert answer.startswith(f"HTTP/1.1 {status}\r\n")
    assert contains in answer


async def test_the_port_is_open_and_says_not_ready_while_the_process_drains() -> None:
    clock = ManualClock()
    port = free_port()
    app = app_of(measured(), clock=clock, settings=quick(metrics_port=port, drain_delay_s=60.0))
    ready, stop = anyio.Event(), anyio.Event()
    async with anyio.create_task_group() as tasks:

        async def run() -> None:
            await app.run(on_ready=lambda _: ready.set(), stop=stop)

        tasks.start_soon(run)
        with anyio.fail_after(PATIENCE_S):
            await ready.wait()
            stop.set()
            while not (answer := await send(port, b"GET /readyz HTTP/1.1\r\n\r\n")).startswith("HTTP/1.1 503"):
                pass
            assert "process: it is starting or draining" in answer
            assert await app.bus.execute(Do("still")) == "still"
            clock.advance(61.0)


async def test_a_port_that_is_taken_ends_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartupFailed, match=f"the port {port} of 127.0.0.1 is taken"):
            async with app_of(measured(), settings=quick(metrics_port=port)):
                pass


async def test_a_client_that_says_nothing_keeps_nobody_waiting() -> None:
    async with with_port() as (_, port):
        silent = [await anyio.connect_tcp("127.0.0.1", port) for _ in range(10)]
        assert (await send(port, b"GET /livez HTTP/1.1\r\n\r\n")).startswith("HTTP/1.1 200")
        for stream in silent:
            await stream.aclose()
