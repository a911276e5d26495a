"""The transports that the body of conformance is run against. Adding one is one more entry in `TRANSPORTS`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest
from attrs import frozen

from fissile._clock import Clock, SystemClock
from fissile.abc import Transport
from fissile.testing import ManualClock
from fissile.transports._sqlite_options import Options
from fissile.transports.memory import MemoryLog, MemoryTransport
from fissile.transports.sqlite import SqliteTransport
from tests.conformance.kafka import embedded_kafka, kafka, skip_on_embedded

MAX_RECORD_BYTES = 10_000


class Log(Protocol):
    """One log, as a broker is one; a test opens as many clients of it as a system has processes."""

    @property
    def fences_the_silent(self) -> bool:
        """Whether a member that does not receive loses its partitions after a while."""
        ...

    def open(self) -> AbstractAsyncContextManager[Transport]:
        """Connect a client."""
        ...

    def unopened(self) -> Transport:
        """Make a client that is not connected yet, for an application to connect."""
        ...

    def name(self, topic: str) -> str:
        """Return a name that no other test uses."""
        ...


@frozen
class Memory:
    """The log in memory."""

    log: MemoryLog
    fences_the_silent: bool = True

    def unopened(self) -> Transport:
        return MemoryTransport(self.log)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Transport]:
        async with self.unopened() as transport:
            yield transport

    def name(self, topic: str) -> str:
        return topic


def memory() -> Log:
    return Memory(MemoryLog(SystemClock(), 1_000_000, MAX_RECORD_BYTES, revoke_s=0.3))


@frozen
class Sqlite:
    """The log in a file."""

    options: Options
    clock: Clock
    fences_the_silent: bool = True

    def unopened(self) -> Transport:
        return SqliteTransport(self.options, self.clock)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Transport]:
        async with self.unopened() as transport:
            yield transport

    def name(self, topic: str) -> str:
        return topic


def sqlite(folder: Path, clock: Clock | None = None, retention_bytes: int = 1_000_000) -> Log:
    options = Options(
        folder / "log.sqlite3",
        retention_bytes=retention_bytes,
        max_record_bytes=MAX_RECORD_BYTES,
        revoke_s=0.3,
        heartbeat_s=0.05,
        housekeeping_s=0.02,
    )
    return Sqlite(options, clock or SystemClock())


@pytest.fixture(params=["memory", "sqlite"])
def log_on_a_clock(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[ManualClock, int], Log]:
    """Makes a log whose clock a test owns, and that keeps so many bytes per partition."""

    def make(clock: ManualClock, retention_bytes: int) -> Log:
        if request.param == "sqlite":
            return sqlite(tmp_path, clock, retention_bytes)
        return Memory(MemoryLog(clock, retention_bytes, MAX_RECORD_BYTES))

    return make


TRANSPORTS: dict[str, Callable[[Path], Log]] = {
    "memory": lambda _: memory(),
    "sqlite": sqlite,
    "kafka": lambda _: kafka(),
    "embedded": lambda _: embedded_kafka(),
}
"""Each is given a folder of its own."""


@pytest.fixture(params=TRANSPORTS)
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Log:
    """A log without topics."""
    skip_on_embedded(request)
    return TRANSPORTS[request.param](tmp_path)


@pytest.fixture
async def transport(log: Log) -> AsyncIterator[Transport]:
    """A client of the log."""
    async with log.open() as transport:
        yield transport
