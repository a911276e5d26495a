"""aiokafka in a thread: on Trio only, and noticed by nobody. Cancellation, the end, and a thread that dies."""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import anyio
import pytest

from fissile._errors import CallError, DeadlineExceeded, Unavailable
from fissile.abc import Stored
from fissile.transports._kafka_bridge import ThreadBridge
from fissile.transports.kafka import KafkaTransport
from tests.transports.helpers import assigned, numbers, opened, record, some, until

on_trio = pytest.mark.parametrize("anyio_backend", ["trio"])

WAITS = """
import sys, anyio
from fissile._settings import Settings
from fissile._clock import SystemClock
from fissile.abc import TopicSpec
from fissile.transports.kafka import transport

async def main():
    async with transport(Settings(bus="kafka://" + sys.argv[1], kafka_prefix=sys.argv[3]), SystemClock()) as kafka:
        await kafka.ensure([TopicSpec("t", 1, 60.0)])
        async with kafka.join("g", {"t": "earliest"}) as member:
            await member.receive()
            print("ready", flush=True)
            await member.receive()

anyio.run(main, backend=sys.argv[2])
"""


def _die(transport: KafkaTransport) -> None:
    """Let an error end the thread's loop, as no error of aiokafka's should."""

    def fail() -> None:
        raise SystemExit

    assert isinstance(transport._bridge, ThreadBridge)
    transport._bridge.loop.call_soon_threadsafe(fail)


@on_trio
async def test_there_is_one_thread_and_it_ends_with_the_transport(embedded_kafka: str) -> None:
    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if thread.name == "fissile-kafka"]

    assert threads() == []
    async with opened(embedded_kafka):
        assert threads() == ["fissile-kafka"]
    await until(lambda: not threads(), "the thread has ended")


@on_trio
@pytest.mark.parametrize("answer", ["goodbye", "nothing"])
async def test_the_thread_leaves_no_connection_with_tls_behind(tmp_path: Path, answer: str) -> None:
    """aiokafka does not wait for a broker's goodbye on the connection that it learns the cluster from. A loop that ends before warns of it."""
    make = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 2 -subj /CN=localhost"
    await anyio.run_process(make.split(), cwd=tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    said: list[str] = []
    is_over = threading.Event()

    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with context.wrap_socket(server.accept()[0], server_side=True) as connection:
                assert connection.recv(1) == b""  # the client's goodbye
                if answer == "goodbye":
                    time.sleep(0.2)  # a broker that is busy
                    said.append(answer)
                    connection.unwrap().close()
                else:
                    is_over.wait()

        thread = threading.Thread(target=serve)
        thread.start()

        async def connect() -> None:
            loop = asyncio.get_running_loop()
            port = server.getsockname()[1]
            transport, _ = await loop.create_connection(
                lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()),
                "127.0.0.1",
                port,
                ssl=trusting,
                server_hostname="localhost",
            )
            transport.close()

        async def nothing() -> None: ...

        bridge = ThreadBridge()
        await bridge.start(lambda: None, nothing)
        await bridge.call(connect)
        await bridge.stop()
        is_over.set()
        assert said == ([answer] if answer == "goodbye" else [])
        thread.join()
    gc.collect()


@on_trio
async def test_a_thread_that_dies_fails_everyone_who_waits(
    embedded_kafka: str, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Stored | CallError] = []
    failed: list[type[Exception]] = []
    async with (
        opened(embedded_kafka, partitions=1) as transport,
        transport.join("g", {"t": "earliest"}) as member,
        transport.read([("t", 0)], "latest") as reader,
    ):
        generation = (await assigned(member)).generation
        async with anyio.create_task_group() as tasks:

            async def fails(function: object, *arguments: object) -> None:
                assert callable(function)
                try:
                    await function(*arguments)
                except (CallError, OSError) as error:
                    failed.append(type(error))

            async def long_call() -> None:
                await transport._bridge.call(asyncio.sleep, 60)

            tasks.start_soon(fails, member.receive)
            tasks.start_soon(fails, reader.receive)
            tasks.start_soon(fails, long_call)
            await anyio.wait_all_tasks_blocked()
            transport.append_nowait([record(1, partition=0)], outcomes.append)
            _die(transport)
        assert failed == [Unavailable] * 3
        assert isinstance(outcomes[0], (Unavailable, DeadlineExceeded, list))
        assert "thread has ended" in (transport.check() or "")
        with pytest.raises(Unavailable):
            await transport.append([record(2)])
        with pytest.raises(Unavailable):
            await member.commit(generation, {("t", 0): 0})
    assert "ended" in caplog.text


async def test_joining_and_reading_that_are_cancelled_leave_nothing_behind(embedded_kafka: str) -> None:
    async with opened(embedded_kafka, partitions=1) as transport:

        async def tasks_of_loop() -> int:
            return len([task for task in asyncio.all_tasks() if "aiokafka" in repr(task) or "fissile" in repr(task)])

        await transport.append([record(0, partition=0)])  # the producer has all its connections
        connected_at = transport._probe._answered_at
        await until(lambda: transport._probe._answered_at != connected_at, "so has the probe")
        before = await transport._bridge.call(tasks_of_loop)
        for step in range(12):
            with anyio.move_on_after(step * 0.004):
                async with transport.join("g", {"t": "earliest"}) as member:
                    await member.receive()
            with anyio.move_on_after(step * 0.003):
                async with transport.read([("t", 0)], "earliest") as reader:
                    await reader.receive()
        await transport.append([record(1, partition=0)])
        async with transport.read([("t", 0)], "earliest") as reader:
            assert numbers(await some(reader, 2)) == [0, 1]
        with anyio.fail_after(10.0):
            while await transport._bridge.call(tasks_of_loop) > before:
                await anyio.sleep(0.01)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ctrl_c_reaches_home_and_everything_ends(embedded_kafka: str, backend: str, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", WAITS, embedded_kafka, backend, f"{tmp_path.name}."]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    assert "never" not in errors  # "was never awaited", "was never retrieved"
    assert "destroyed" not in errors  # "Task was destroyed but it is pending"
