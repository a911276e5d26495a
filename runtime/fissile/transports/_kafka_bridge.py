"""The bridge between the runtime's event loop ("home") and the asyncio loop that aiokafka lives in ("the loop").

On asyncio they are one loop, and a crossing is a call. On Trio the loop runs in a thread of its own, and a crossing costs a wake-up of another
thread; so each direction has one queue and one wake-up per burst. (trio-asyncio instead reaches an eighth of the request rate.)

A flag is lowered *before* its queue is emptied: what comes in between makes one wake-up too many, and never one too few.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from importlib import import_module
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple

import anyio
import sniffio

from fissile._errors import Unavailable
from fissile._parking import Parked, parking

if TYPE_CHECKING:
    import trio

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")
Call = tuple[Callable[..., object], tuple[Any, ...]]  # Any: a function and its arguments, whatever they are

_logger = logging.getLogger("fissile.kafka")

CANCEL_S = 3.0
"""How long a cancelled call is waited for, in seconds. It may be in the middle of a request."""
GOODBYE_S = 1.0
"""How long a broker may take to say goodbye on a connection with TLS, in seconds."""
END_S = 3.0
"""How long the thread may take to end, in seconds."""


class Bridge(ABC):
    """Takes calls from home to the loop and back.

    Attributes:
        loop: The loop that aiokafka lives in.
        is_apart: Whether it runs in a thread of its own.
        is_dead: Whether it has ended although nobody asked it to.
    """

    loop: asyncio.AbstractEventLoop
    is_apart: bool
    is_dead: bool = False

    def __init__(self) -> None:
        # Tasks of the loop outlive the handler whose message made them: they must not carry its context.
        self.context = contextvars.Context()

    @abstractmethod
    async def start(self, on_death: Callable[[], None], last: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start the loop.

        Args:
            on_death: Called at home if the loop ends although nobody asked it to.
            last: Run in the loop then, within a bound, after all its tasks.
        """  # Any: a coroutine's other two types, which nobody uses

    @abstractmethod
    async def stop(self) -> None:
        """End the loop, within a bound."""

    @abstractmethod
    def to_loop(self, function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        """From home: call a function in the loop. It must not raise. Nothing happens if the loop is dead."""

    @abstractmethod
    def to_home(self, function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        """From the loop: call a function at home. It must not raise."""

    @abstractmethod
    async def call(
        self, function: Callable[[*Arguments], Coroutine[Any, Any, T]], *arguments: *Arguments
    ) -> T:  # Any: a coroutine's other two types, which nobody uses
        """From home: run a coroutine function in the loop, as a task of its own, and wait for it.

        If the caller is cancelled, so is the task, which is then waited for within a bound: aiokafka sees one cancellation, as asyncio
        has them, and never AnyIO's, which come again and again.

        Raises:
            Unavailable: The task was cancelled in the loop, or the loop is dead.
        """

    def create_task(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:  # Any: as above
        """In the loop: start a task."""
        return self.loop.create_task(coroutine, context=self.context.copy())


def open_bridge() -> Bridge:
    """Return the bridge for the event loop that runs."""
    return ThreadBridge() if sniffio.current_async_library() == "trio" else SameLoop()


class SameLoop(Bridge):
    """Home is an asyncio loop, and aiokafka lives in it."""

    is_apart = False

    async def start(  # Any: as above
        self,
        on_death: Callable[[], None],  # noqa: ARG002 -- home cannot outlive itself
        last: Callable[[], Coroutine[Any, Any, None]],  # noqa: ARG002
    ) -> None:
        self.loop = asyncio.get_running_loop()

    async def stop(self) -> None:
        return None

    def to_loop(self, function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        function(*arguments)

    def to_home(self, function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        function(*arguments)

    async def call(self, function: Callable[[*Arguments], Coroutine[Any, Any, T]], *arguments: *Arguments) -> T:
        task = self.create_task(function(*arguments))
        try:
            await asyncio.wait((task,))
        except BaseException:
            task.cancel()
            with anyio.CancelScope(shield=True):
                await asyncio.wait((task,), timeout=CANCEL_S)
            forget(task)
            raise
        return result_of(task)


class ThreadBridge(Bridge):
    """Home is a Trio loop; aiokafka lives in an asyncio loop in a thread. Ctrl-C reaches home only."""

    is_apart = True

    def __init__(self) -> None:
        super().__init__()
        self._outward: deque[Call] = deque()
        self._inward: deque[Call] = deque()
        self._outward_armed = False
        self._inward_armed = False
        self._is_stopping = False
        self._has_ended = False
        self._parked: set[Parked] = set()

    async def start(
        self, on_death: Callable[[], None], last: Callable[[], Coroutine[Any, Any, None]]
    ) -> None:  # Any: as above
        import trio

        self._token: trio.lowlevel.TrioToken = trio.lowlevel.current_trio_token()
        self._run_finished_error = trio.RunFinishedError
        self._park = parking()
        self._on_death = on_death
        self._last = last
        self._ended = anyio.Event()
        self.loop, self._connections = _new_loop()
        started = self._park()
        self.loop.call_soon(self.to_home, started.set, None)
        # A daemon: a thread that hangs in spite of all bounds must not hold up the end of the process.
        self._thread = threading.Thread(target=self._main, name="fissile-kafka", daemon=True)
        self._thread.start()
        with anyio.CancelScope(shield=True):  # what is begun is there to be stopped
            await started.wait()

    async def stop(self) -> None:
        self._is_stopping = True
        if not self._has_ended:
            self.to_loop(self.loop.stop)
        with anyio.move_on_after(END_S, shield=True) as scope:
            await self._ended.wait()
        if scope.cancelled_caught:
            _logger.warning("the Kafka thread does not end; it is left behind")

    def to_loop(self, function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        self._outward.append((function, arguments))
        if not self._outward_armed:
            self._outward_armed = True
            with suppress(RuntimeError):  # the loop is closed; whoever waits has been or will be told
                self.loop.call_soon_threadsafe(self._drain_outward, context=self.context)

    def _drain_outward(self) -> None:
        self._outward_armed = False
        _drain(self._outward)

    def to_home(self, function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
        self._inward.append((function, arguments))
        if not self._inward_armed:
            self._inward_armed = True
            with suppress(self._run_finished_error):  # Trio has ended: nobody waits any more
                self._token.run_sync_soon(self._drain_inward)

    def _drain_inward(self) -> None:
        self._inward_armed = False
        _drain(self._inward)

    async def call(self, function: Callable[[*Arguments], Coroutine[Any, Any, T]], *arguments: *Arguments) -> T:
        if self._has_ended:
            raise _dead()
        parked = self._park()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = self.create_task(function(*arguments))
            tasks.append(task)
            task.add_done_callback(lambda task: self.to_home(parked.set, task))

        def cancel() -> None:
            for task in tasks:
                task.cancel()

        self._parked.add(parked)
        try:
            self.to_loop(begin)
            try:
                task: asyncio.Task[T] | None = await parked.wait()
            except BaseException:
                self.to_loop(cancel)
                with anyio.move_on_after(CANCEL_S, shield=True):
                    await parked.wait()
                for task in tasks:
                    forget(task)
                raise
        finally:
            self._parked.discard(parked)
        if task is None:
            raise _dead()
        return result_of(task)

    # --- the thread --------------------------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self.loop.run_forever()
        except BaseException:
            _logger.critical("the Kafka thread has failed", exc_info=True)
        finally:
            try:
                _close(self.loop, self._connections, None if self._is_stopping else self._last)
            except BaseException:
                _logger.critical("the Kafka thread could not be left in good order", exc_info=True)
            finally:
                # Not through the queue: its wake-up may have been asked for by a callback that never ran.
                with suppress(self._run_finished_error):
                    self._token.run_sync_soon(self._end)

    def _end(self) -> None:
        """At home: the thread has ended. Nobody may wait for it any longer."""
        self._has_ended = True
        _drain(self._inward)
        for parked in tuple(self._parked):
            parked.set(None)
        if not self._is_stopping:
            self.is_dead = True
            _logger.critical("the Kafka thread has ended; this process can neither send nor receive")
            self._on_death()
        self._ended.set()


def _drain(queue: deque[Call]) -> None:
    while queue:
        function, arguments = queue.popleft()
        function(*arguments)


def _dead() -> Unavailable:
    return Unavailable("The Kafka thread of this process has ended.")


def _new_loop() -> tuple[asyncio.AbstractEventLoop, set[asyncio.WriteTransport]]:
    """Return a new loop, and the connections that were opened in it and are not lost yet.

    A connection with TLS that is closed waits for the broker's goodbye. aiokafka does not, on the connection that it learns the cluster from,
    so the end of the loop must: a loop that is closed before fails, or leaves the socket to the garbage collector.
    """
    base: Any = asyncio.SelectorEventLoop  # Any: one of two classes, which have all that matters in common
    with suppress(ImportError):
        base = import_module("uvloop").Loop
    connections: set[asyncio.WriteTransport] = set()

    async def create_connection(loop: Any, *arguments: Any, **options: Any) -> Any:  # Any: as the loop has it
        transport: Any
        protocol: Any
        transport, protocol = await base.create_connection(loop, *arguments, **options)
        connections.add(transport)
        lost: Callable[[Exception | None], None] = protocol.connection_lost

        def forget_it(error: Exception | None) -> None:
            connections.discard(transport)
            lost(error)

        protocol.connection_lost = forget_it
        return transport, protocol

    loop: asyncio.AbstractEventLoop = type("Watched", (base,), {"create_connection": create_connection})()
    return loop, connections


def _close(
    loop: asyncio.AbstractEventLoop,
    connections: set[asyncio.WriteTransport],
    last: Callable[[], Coroutine[Any, Any, None]] | None,
) -> None:  # Any: as above
    """End what still runs in a loop, within a bound, and close it."""
    try:
        _end_tasks(loop)
        if last is not None:
            loop.run_until_complete(asyncio.wait((loop.create_task(last()),), timeout=END_S))
            _end_tasks(loop)
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(_lose(connections))
    finally:
        loop.close()


async def _lose(connections: set[asyncio.WriteTransport]) -> None:
    """Wait until connections that are closing are lost, within a bound; what is left then is cut off."""
    until = monotonic() + GOODBYE_S
    while connections and monotonic() < until:
        await asyncio.sleep(0.005)
    for connection in tuple(connections):
        connection.abort()
    until = monotonic() + GOODBYE_S
    while connections and monotonic() < until:
        await asyncio.sleep(0)


def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=END_S / 2))
    for task in tasks:
        forget(task)


def forget(task: asyncio.Task[Any]) -> None:  # Any: nobody wants the result
    """Look at how a task ended, so that asyncio does not complain that nobody did."""
    if task.done():
        if not task.cancelled():
            task.exception()
    else:
        task.add_done_callback(forget)


def result_of(task: asyncio.Task[T]) -> T:
    """Return or raise what a task ended with. A cancellation in there is none of ours: in Trio it would tear down the caller's nursery."""
    if task.cancelled():
        raise Unavailable("The Kafka client was stopped in the middle of it.")
    error = task.exception()
    if isinstance(error, asyncio.CancelledError):
        raise Unavailable("The Kafka client was stopped in the middle of it.")
    return task.result()
