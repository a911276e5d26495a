"""The remote call: a request in the log of its module, and a reply in one partition that this process reads alone.

The partition of replies is read by direct assignment, without a consumer group, from its end, before the first request: no rebalance can
take it away. Processes that share a partition drop what is not theirs. There is no AnyIO object per call: a parked task, an entry in a
table, and one sweeper for the deadlines of all (to 50 ms).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import count, cycle
from math import inf
from typing import Any

import anyio
import msgspec
from anyio.lowlevel import checkpoint_if_cancelled
from attrs import define, field

from fissile._bounds import Gate
from fissile._bus import Queries, Route
from fissile._cancellation import cancellation_test, deadline_test
from fissile._codec import Codec, ErrorCodec
from fissile._envelope import Encoder, content_type_in, header, key_bytes
from fissile._errors import CallError, DeadlineExceeded, HandlerFailed, InvalidMessage, TransportClosed, Unavailable
from fissile._local import deadline_exceeded, is_refused, overloaded, refusal
from fissile._messages import DeclaredError
from fissile._parking import Parked, loop_time, parking
from fissile._requests import (
    CORRELATION,
    DECLARED,
    FAILED,
    FORBIDDEN,
    INVALID,
    OUTCOME,
    REPLIED,
    REPLIES_TOPIC,
    UNAUTHENTICATED,
    cancel_headers,
    decode_failure,
    decode_forbidden,
    decode_invalid,
    reply_to_header,
    request_headers,
)
from fissile._sweeper import Sweeper
from fissile.abc import Outgoing, Record, Stored, Transport

_logger = logging.getLogger("fissile.remote")

REPLIES_AT_A_TIME = 256
"""How many callers are woken before the event loop has a turn, in which what they call next is sent. With more at a time, caller and callee
work by turns instead of side by side. With fewer, there are more batches, and each costs caller, broker and callee as much as several
requests: with 128, of 512 calls in flight, each request costs all three a sixth more than with 256."""


class RemoteStatistics(msgspec.Struct, frozen=True):
    """What the remote calls of a process have come to.

    Attributes:
        waiting: How many wait for a reply.
        replies: How many replies came in time.
        late: How many came for nobody: too late, or another process's.
        expired: How many calls ended at their deadline.
        cancelled: How many callers gave up.
    """

    waiting: int
    replies: int
    late: int
    expired: int
    cancelled: int


class Target(msgspec.Struct, eq=False):
    """A message that is handled elsewhere.

    Attributes:
        name: Its name.
        module: The module that handles it.
        topic: Where its requests go.
        message: Its codec.
        reply: The codec of its reply.
        errors: The codecs of its declared errors, by the name of their class.
        order_key: Gives the key of a command, or None if it has none.
    """

    name: str
    module: str
    topic: str
    message: Codec[Any]
    reply: Codec[Any]
    errors: dict[str, ErrorCodec]
    order_key: Callable[[Any], str] | None


_REPLIED = (OUTCOME, REPLIED.encode())
_PLAIN_REPLY = 2
"""How many headers a reply has that says nothing of its format, which then is that of the request, and of no trace."""

EXPIRED = object()
"""The outcome of a call whose deadline came first."""


class Asked(msgspec.Struct, eq=False):
    """A request whose outcome is waited for.

    Attributes:
        parked: Who waits.
        deadline: When it expires, where that is ours to keep; infinite where a scope around the caller keeps it.
        correlation: What the reply has to carry.
        target: What is asked for.
        key: The key of the request's record.
        partition: The partition that it was sent to; None where that follows from the key.
    """

    parked: Parked
    deadline: float
    correlation: bytes
    target: Target
    key: bytes
    partition: int | None

    def stored(self, result: Stored | CallError) -> None:
        """Learn what became of the request's record."""
        if isinstance(result, Unavailable):
            self.parked.set(result)  # not sent, so it did not happen; what may have been stored may still be answered


@define(eq=False)
class Remote:
    """The replies of one process.

    Args:
        transport: The log.
        encoder: Makes the headers of messages.
        partition: The partition of replies that this process reads.
        new_id: Makes what all correlations of this process begin with.
        partitions: How many partitions requests are spread over.
    """

    transport: Transport
    encoder: Encoder
    partition: int
    new_id: Callable[[], str]
    partitions: int
    is_listening: bool = field(default=False, init=False)
    sweeper: Sweeper = field(init=False)
    time: Callable[[], float] = field(factory=loop_time, init=False)
    is_cancelled: Callable[[], bool] = field(factory=cancellation_test, init=False)
    scope_deadline: Callable[[], float] = field(factory=deadline_test, init=False)
    cancelled_class: type[BaseException] = field(factory=anyio.get_cancelled_exc_class, init=False)
    _reply_to: tuple[str, bytes] = field(init=False)
    _new_parked: Callable[[], Parked] = field(factory=parking, init=False)
    _waiting: dict[bytes, Asked] = field(factory=dict[bytes, "Asked"], init=False)
    _correlations: bytes = field(init=False)
    _next: Callable[[], int] = field(factory=lambda: count(1).__next__, init=False)
    _turns: Iterator[int] = field(init=False)
    _replies: int = field(default=0, init=False)
    _late: int = field(default=0, init=False)
    _expired: int = field(default=0, init=False)
    _cancelled: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self.sweeper = Sweeper(self._expire)
        self._turns = cycle(range(self.partitions))
        self._correlations = self.new_id().encode()
        self._reply_to = reply_to_header(REPLIES_TOPIC, self.partition)

    async def run(self) -> None:
        """Hand replies to those who wait for them; a supervised task.

        Raises:
            Unavailable: The replies can no longer be read; those who wait are told, and the next run reads anew.
        """
        try:
            async with self.transport.read(
                [(REPLIES_TOPIC, self.partition)], "latest", batch=REPLIES_AT_A_TIME
            ) as reader:
                self.is_listening = True
                while True:
                    for record in await reader.receive():
                        self._hand_over(record)
        finally:
            self.is_listening = False
            for asked in self._waiting.values():
                # The request was sent and its reply can no longer come here: it may have happened.
                asked.parked.set(DeadlineExceeded("The reply can no longer be received. It may have happened."))

    def _expire(self, now: float) -> float:
        earliest = inf
        for asked in self._waiting.values():
            if asked.deadline <= now:
                asked.parked.set(EXPIRED)
            elif asked.deadline < earliest:
                earliest = asked.deadline
        return earliest

    def statistics(self) -> RemoteStatistics:
        """Return what the calls have come to."""
        return RemoteStatistics(len(self._waiting), self._replies, self._late, self._expired, self._cancelled)

    def begin(self, target: Target, message_id: str, received: Any, deadline: float, *, sweeps: bool) -> Asked:
        """Have a place in the table of those who wait; `end` gives it up.

        Args:
            target: What is asked for.
            message_id: The message's id.
            received: The message, as the other side will get it.
            deadline: When the chain ends, on the event loop's clock.
            sweeps: Whether the deadline is ours to keep; otherwise a scope around the caller keeps it.
        """
        if target.order_key is None:
            # Where nothing has to be in order, the partitions take turns: as many requests in each as in any other.
            key, partition = message_id.encode(), next(self._turns)
        else:
            key, partition = key_bytes(target.name, target.order_key, received), None
        correlation = b"%b-%x" % (self._correlations, self._next())
        asked = Asked(self._new_parked(), deadline if sweeps else inf, correlation, target, key, partition)
        self._waiting[correlation] = asked
        if sweeps:
            self.sweeper.note(deadline)
        return asked

    def send(self, asked: Asked, bus: Queries, data: bytes, message_id: str, deadline: float) -> None:
        """Send a request.

        Args:
            asked: Its place.
            bus: The caller's bus.
            data: The message, encoded.
            message_id: The message's id.
            deadline: When the chain ends, on the event loop's clock.
        """
        target, budget_s = asked.target, deadline - self.time()
        more = request_headers(bus, asked.correlation, self._reply_to, budget_s)
        headers = self.encoder.headers(target.name, message_id, bus, data, valid_s=budget_s, more=more)
        try:
            self.transport.append_nowait(
                (Outgoing(target.topic, asked.key, data, headers, asked.partition),), asked.stored
            )
        except TransportClosed as error:
            raise Unavailable(f"{target.name} was not called: {error} It did not happen.") from None

    def end(self, asked: Asked, outcome: Any) -> None:
        """Give up the place of a request; where there is no outcome, its handler is stopped."""
        del self._waiting[asked.correlation]
        if outcome is EXPIRED:
            self._send_cancellation(asked)

    def count_cancelled(self) -> None:
        """Note that a caller gave up."""
        self._cancelled += 1

    def count_expired(self) -> None:
        """Note that a call ended at its deadline."""
        self._expired += 1

    def _send_cancellation(self, asked: Asked) -> None:
        # The same key and partition, hence behind the request.
        target = asked.target
        cancellation = Outgoing(target.topic, asked.key, b"", cancel_headers(asked.correlation), asked.partition)
        try:
            self.transport.append_nowait((cancellation,), _ignore)
        except (CallError, TransportClosed) as error:
            _logger.debug("a cancellation of %s could not be sent: %s", target.name, error)

    def _hand_over(self, record: Record) -> None:
        for name, value in record.headers:
            if name == CORRELATION:
                asked = self._waiting.get(value)
                if asked is not None:
                    self._replies += 1
                    asked.parked.set(record)
                    return
                break
        self._late += 1


def _ignore(_: Stored | CallError) -> None:
    """What becomes of a cancellation: nobody waits for it, and the handler has a deadline of its own."""


def remote_route(target: Target, remote: Remote, gate: Gate, *, default_timeout_s: float, depth_limit: int) -> Route:
    """Build the way from one caller to a message that is handled elsewhere.

    Args:
        target: The message.
        remote: The replies of this process.
        gate: The bound of calls that the caller has in flight to the message's module.
        default_timeout_s: The deadline of a chain whose caller has none, in seconds.
        depth_limit: How many calls may be nested.
    """
    is_cancelled, scope_deadline, cancelled_class = remote.is_cancelled, remote.scope_deadline, remote.cancelled_class
    message_codec, name = target.message, target.name

    async def call(bus: Queries, message: Any, message_id: str | None) -> Any:
        deadline, sweeps = bus._deadline, False
        if deadline == inf:  # it starts a chain
            deadline = scope_deadline()
            gives_up = deadline == -inf
            if deadline == inf:
                deadline, sweeps = remote.time() + default_timeout_s, True
        else:
            gives_up = is_cancelled()
        if is_refused(bus, depth_limit):
            raise refusal(name, depth_limit, bus)
        data = message_codec.encode(message)
        received = message_codec.decode(data)
        if gate.in_flight >= gate.limit:
            raise overloaded(name, gate)
        if gives_up:
            await checkpoint_if_cancelled()
        message_id = message_id or bus._next_child_id()
        asked = remote.begin(target, message_id, received, deadline, sweeps=sweeps)
        gate.in_flight += 1
        outcome: Any = EXPIRED
        try:
            remote.send(asked, bus, data, message_id, deadline)
            outcome = await asked.parked.wait()
        except cancelled_class:
            remote.count_cancelled()
            raise
        finally:
            gate.in_flight -= 1
            remote.end(asked, outcome)
        if isinstance(outcome, Record):
            return _read_outcome(target, outcome)
        if outcome is EXPIRED:
            remote.count_expired()
            raise deadline_exceeded(name, default_timeout_s)
        raise outcome

    return call


def _read_outcome(target: Target, record: Record) -> Any:
    """Return the reply in a record, or raise the error in it."""
    failure: DeclaredError | CallError
    if _REPLIED in record.headers:
        try:
            if len(record.headers) == _PLAIN_REPLY:
                return target.reply.decode(record.value)
            return target.reply.read(record.value, content_type_in(record.headers))
        except InvalidMessage as error:
            failure = HandlerFailed(target.name, "", "InvalidReply", error.reason)
    else:
        failure = _read_failure(target, record)
    raise failure


def _read_failure(target: Target, record: Record) -> DeclaredError | CallError:
    outcome = header(record.headers, OUTCOME) or ""
    if outcome.startswith(DECLARED) and outcome.removeprefix(DECLARED) in target.errors:
        try:
            codec = target.errors[outcome.removeprefix(DECLARED)]
            return codec.read(record.value, content_type_in(record.headers))
        except InvalidMessage as error:
            return HandlerFailed(target.name, "", "InvalidReply", error.reason)
    if outcome == FAILED:
        return decode_failure(target.name, record.value)
    if outcome == INVALID:
        return decode_invalid(target.name, record.value)
    if outcome in (FORBIDDEN, UNAUTHENTICATED):
        return decode_forbidden(target.name, outcome, record.value)
    return HandlerFailed(target.name, "", "InvalidReply", f"the outcome {outcome!r} is not known")
