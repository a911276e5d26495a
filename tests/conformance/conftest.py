"""The transports that the body of conformance is run against. Adding one is one more entry in `TRANSPORTS`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

import pytest
from attrs import frozen

from fissile._clock import SystemClock
from fissile.abc import Transport
from fissile.testing import ManualClock
from fissile.transports.memory import MemoryLog, MemoryTransport
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


def memory_on_a_clock(clock: ManualClock, retention_bytes: int) -> Log:
    return Memory(MemoryLog(clock, retention_bytes, MAX_RECORD_BYTES))


TRANSPORTS: dict[str, Callable[[], Log]] = {"memory": memory, "kafka": kafka, "embedded": embedded_kafka}


@pytest.fixture(params=TRANSPORTS)
def log(request: pytest.FixtureRequest) -> Log:
    """A log without topics."""
    skip_on_embedded(request)
    return TRANSPORTS[request.param]()


@pytest.fixture
async def transport(log: Log) -> AsyncIterator[Transport]:
    """A client of the log."""
    async with log.open() as transport:
        yield transport
