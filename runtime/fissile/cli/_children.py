"""The children of `fissile dev`: how they are started and ended, and what happens to them, as events for whoever supervises them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream
from attrs import define, frozen

from fissile.cli._child import Orders, Report
from fissile.cli._context import Context

_DRAIN_S = 1.5
"""How long a child may drain when a file has changed: the developer waits, and what is in progress is their own."""
_REPORT_BYTES = 1024 * 1024


@frozen
class Changed:
    """Files have changed."""

    paths: set[Path]


@frozen
class Told:
    """A child has reported."""

    child: Child
    report: Report


@frozen
class Ended:
    """A child has ended."""

    child: Child
    code: int


@frozen
class Signalled:
    """The developer wants to stop."""


Event = Changed | Told | Ended | Signalled


@define(eq=False)
class Child:
    """One run of the application.

    Attributes:
        process: Its process.
        link: The socket to it. It ends when this is closed.
        began: When its start was decided, on `perf_counter`.
        has_failed: Whether it has said why it ends.
        code: The exit code that it has told with that.
    """

    process: anyio.abc.Process
    link: anyio.abc.SocketStream
    began: float
    has_failed: bool = False
    code: int = 0

    @classmethod
    async def start(
        cls, settings: Mapping[str, Any], context: Context, began: float, *, process_name: str | None = None
    ) -> Child:
        """Start a child.

        Args:
            settings: Settings from the command line; Any: of the setting's type.
            context: What all commands are given.
            began: When its start was decided, on `perf_counter`.
            process_name: The process of the placement to run; what that writes comes through a pipe, so that it can be told from others.
        """
        ours, theirs = socket.socketpair()
        color, is_piped = context.output.color_err, process_name is not None
        with theirs:
            process = await anyio.open_process(
                [sys.executable, "-m", "fissile.cli._child", str(theirs.fileno())],
                stdin=subprocess.DEVNULL if is_piped else None,
                stdout=subprocess.PIPE if is_piped else None,
                stderr=subprocess.STDOUT if is_piped else None,
                env={**os.environ, "PYTHONUNBUFFERED": "1"} if is_piped else None,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        link = await anyio.abc.SocketStream.from_socket(ours)
        await give_orders(link, Orders(dict(settings), context.verbose, color, process_name))
        return cls(process, link, began)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.send_signal(number)

    async def stop(self) -> None:
        """Drain it shortly, then stop it at once, then kill it."""
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL):
            self.signal(number)
            with anyio.move_on_after(_DRAIN_S):
                await self.process.wait()
                return
        await self.process.wait()

    async def events(self) -> AsyncIterator[Event]:
        """Yield what it tells, and its end."""
        lines = BufferedByteReceiveStream(self.link)
        try:
            while True:
                line = await lines.receive_until(b"\n", _REPORT_BYTES)
                yield Told(self, msgspec.json.decode(line, type=Report))
        except (anyio.IncompleteRead, anyio.ClosedResourceError, anyio.BrokenResourceError, anyio.EndOfStream):
            pass
        yield Ended(self, await self.process.wait())


async def give_orders(link: anyio.abc.SocketStream, orders: msgspec.Struct) -> None:
    """Send a child what it is to do. One that has ended already is told of by its end."""
    with suppress(anyio.BrokenResourceError):
        await link.send(msgspec.json.encode(orders) + b"\n")


def how_it_ended(code: int) -> str:
    """Return what the exit code of a process says, as the end of a sentence."""
    return f"with exit code {code}" if code >= 0 else f"by the signal {signal.Signals(-code).name}"
