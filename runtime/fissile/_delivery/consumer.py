"""Moves the records of one module: from its consumer group into hand, to the workers, and the offsets back.

One reader, a pool of workers, one committer. A failed delivery waits in a task of its own, holding back its own key only. When anything here
fails that is not a handler, the whole consumer ends with that error; its supervisor starts another, and what was not committed comes again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf

import anyio
import anyio.abc
import anyio.lowlevel
import msgspec
from attrs import define, field

from fissile._clock import Environment, milliseconds_of
from fissile._delivery.ages import FRESH_S, Ages
from fissile._delivery.attempts import Attempts
from fissile._delivery.dead_letters import RETRY_OF, DeadLetter, read
from fissile._delivery.held_keys import HeldKeys
from fissile._delivery.lifecycle import Delivery
from fissile._delivery.partition import PartitionState
from fissile._delivery.subscription import Subscription
from fissile._envelope import by_name, text
from fissile._errors import Unavailable
from fissile._requests import CANCEL, CORRELATION, Request, read_request
from fissile.abc import Assigned, Member, Partition, Record, Revoked, Start, Transport

_logger = logging.getLogger("fissile.delivery")

HAND_OVER_S = 3.0
"""How long what is being handled may go on after a revocation, in seconds; a group waits for its slowest member."""

LAST_COMMIT_S = 1.0
"""How long the last commit of a process that drains may take, in seconds."""


class ConsumerSettings(msgspec.Struct, frozen=True):
    """The bounds of a consumer; see `Settings`."""

    window: int
    workers: int
    repeats: bool
    commit_interval_s: float
    reply_partitions: int


class ConsumerStatistics(msgspec.Struct, frozen=True):
    """What a consumer has in hand and has done.

    Attributes:
        partitions: How many partitions it owns.
        in_hand: How many records it holds.
        handled: How many deliveries succeeded.
        retried: How many attempts failed and were, or will be, repeated.
        dead: How many deliveries were given up.
        pauses: How often a full window paused a partition.
        expired: How many requests were not begun, because their caller no longer waited.
        cancelled: How many handlers were stopped, because their caller no longer waited.
        refused_commits: How often the group had moved on.
        lag: How many records wait in the log; None if that is not known.
        rebalances: How many assignments it has seen since it joined.
    """

    partitions: int
    in_hand: int
    handled: int
    retried: int
    dead: int
    pauses: int
    expired: int
    cancelled: int
    refused_commits: int
    lag: int | None
    rebalances: int = 0


@define(eq=False)
class Consumer:
    """The consumer of one module.

    Args:
        module: The module's name.
        group: Its consumer group.
        topics: The topics to read, and where a new group begins.
        subscriptions: The handlers of events and of commands that nobody waits for, by topic and message name.
        requests: The handlers of commands and queries whose caller waits, by message name.
        known: The messages that each topic may carry.
        unknown: What to do with any other.
        dead_letter_topic: Where given-up messages go.
        requests_topic: Where retries of them come from, with what is asked of the module.
    """

    module: str
    group: str
    topics: Mapping[str, Start]
    subscriptions: Mapping[tuple[str, str], Sequence[Subscription]]
    requests: Mapping[str, Subscription]
    known: Mapping[str, Collection[str]]
    unknown: Subscription
    dead_letter_topic: str
    requests_topic: str
    transport: Transport
    environment: Environment
    settings: ConsumerSettings

    assigned: bool = field(default=False, init=False)
    _partitions: dict[Partition, PartitionState] = field(factory=dict[Partition, PartitionState], init=False)
    _requests: dict[bytes, Delivery] = field(factory=dict[bytes, Delivery], init=False)
    _ages: Ages = field(init=False)
    _wall_ms: Callable[[], int] = field(init=False)
    _attempts: Attempts = field(init=False)
    _handlers: dict[tuple[str, str], list[Subscription]] = field(
        factory=dict[tuple[str, str], list[Subscription]], init=False
    )
    _overfull: dict[PartitionState, None] = field(factory=dict[PartitionState, None], init=False)
    _tasks: anyio.abc.TaskGroup | None = field(default=None, init=False)
    _draining: anyio.Event = field(factory=anyio.Event, init=False)
    _deadline: float = field(default=inf, init=False)
    _member: Member | None = field(default=None, init=False)
    _pauses: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._ages, self._wall_ms = Ages(self.module), milliseconds_of(self.environment.clock)
        for (_, name), subscriptions in self.subscriptions.items():
            for subscription in subscriptions:
                self._handlers.setdefault((subscription.name, name), []).append(subscription)
        parks = any(one.retry.parks for each in self.subscriptions.values() for one in each)
        self._attempts = Attempts(
            self.module,
            self.group,
            self.dead_letter_topic,
            self.transport,
            self.environment,
            self.settings.workers,
            self.settings.repeats,
            self._finished,
            HeldKeys(self.module, self.dead_letter_topic, self.transport) if parks else None,
        )

    async def run(self) -> None:
        """Handle records until drained.

        Raises:
            Unavailable: The log cannot be reached.
            TransportClosed: The group has thrown this member out.
        """
        self._partitions.clear()
        self._requests.clear()
        self._overfull.clear()
        async with self.transport.join(self.group, self.topics) as member, anyio.create_task_group() as tasks:
            self._member, self._tasks = member, tasks
            self._attempts.start(tasks)
            try:
                tasks.start_soon(self._commit_regularly, member)
                tasks.start_soon(self._end_when_draining, member)
                if self._attempts.held is not None:
                    tasks.start_soon(self._attempts.held.follow)
                while True:
                    await self._hold_back(member)
                    await self._take(member, await member.receive())
            finally:
                self.assigned = False
                self._member = None

    def drain(self, deadline: float) -> None:
        """Take no more records; `run` returns when what is being handled is done.

        Args:
            deadline: When it stops waiting for that, on the event loop's clock in seconds.
        """
        self._deadline = deadline
        self._draining.set()

    def statistics(self) -> ConsumerStatistics:
        """Return what it has in hand and has done."""
        status = self._member.status() if self._member is not None else None
        return ConsumerStatistics(
            partitions=len(self._partitions),
            in_hand=sum(state.in_hand for state in self._partitions.values()),
            handled=self._attempts.handled,
            retried=self._attempts.retried,
            dead=self._attempts.dead,
            pauses=self._pauses,
            expired=self._attempts.expired,
            cancelled=self._attempts.cancelled,
            refused_commits=0 if status is None else status.refused,
            lag=None if status is None else status.lag,
            rebalances=0 if status is None else status.rebalances,
        )

    def committed(self, topic: str, partition: int) -> int | None:
        """Return the next offset that a restart would read, of a partition it holds; None while nothing was committed."""
        state = self._partitions.get((topic, partition))
        return None if state is None else state.committed

    # --- the reader --------------------------------------------------------------------------------------------------

    async def _take(self, member: Member, news: Sequence[Record] | Assigned | Revoked) -> None:
        if isinstance(news, Assigned):
            self._partitions = {
                partition: PartitionState(partition, news.generation, self._attempts.workers.offer)
                for partition in news.positions
            }
            self.assigned = True
            self._note_if_read_up(member)
            if self._draining.is_set():
                member.pause(news.positions)
        elif isinstance(news, Revoked):
            await self._let_go(member)
        elif not self._draining.is_set():
            ages = self._ages
            ages.now = self._attempts.time()
            ages.epoch = ages.now - self._wall_ms() / 1000
            for record in news:
                state = self._partitions[record.topic, record.partition]
                if state.in_hand < self.settings.window:
                    self._take_record(state, record)
                    continue
                if record.topic == self.requests_topic and not record.value:
                    self._look_ahead(state, record)
                self._overfull[state] = None
                state.backlog.append(record)

    def _note_if_read_up(self, member: Member) -> None:
        """Note of which partitions of requests the log has nothing that is not in hand: what comes after it is not older."""
        status = member.status()
        if status.silent_s >= FRESH_S:
            return
        read_up_at = self._attempts.time() - status.silent_s
        for partition, state in self._partitions.items():
            is_asked = partition[0] == self.requests_topic
            if is_asked and status.lags.get(partition) == 0 and not state.backlog and not state.paused:
                state.read_up_at, state.behind_s = read_up_at, inf

    async def _hold_back(self, member: Member) -> None:
        """Pause the partitions of which more than another window has come: a pause costs a round trip, and the next records are at hand."""
        if not self._overfull:
            return
        # A turn for the workers: handlers that do not suspend are through with it after that.
        await anyio.lowlevel.checkpoint()
        for state in tuple(self._overfull):
            if state.paused or state.revoked or not state.backlog:
                del self._overfull[state]
            elif len(state.backlog) > self.settings.window:
                del self._overfull[state]
                state.paused = True
                self._pauses += 1
                member.pause([state.partition])

    def _look_ahead(self, state: PartitionState, record: Record) -> None:
        """Let a cancellation count while what is before it in the log waits for its turn."""
        for name, correlation in record.headers:
            if name == CANCEL:
                if not self._give_up(correlation):
                    state.given_up.add(correlation)
                return

    def _give_up(self, correlation: bytes) -> bool:
        """Stop what a request in hand has begun, or let it not begin; tell whether there was one."""
        delivery = self._requests.get(correlation)
        if delivery is None:
            return False
        delivery.give_up()
        return True

    def _take_record(self, state: PartitionState, record: Record) -> None:
        """Take a record in hand; one of a topic is an event, whatever else its headers say."""
        headers = by_name(record.headers)
        if record.topic == self.requests_topic:
            self._take_command(state, record, headers)
            return
        name = text(headers, "ce_type") or ""
        found = self.subscriptions.get((record.topic, name))
        if found is not None:
            deliveries = state.add(record, found, record.key, headers)
        elif name in self.known[record.topic]:
            deliveries = state.add(record, (), None)
        else:
            deliveries = state.add(record, (self.unknown,), None, headers)
        for delivery in deliveries:
            state.begin(delivery)

    def _take_command(self, state: PartitionState, record: Record, headers: Mapping[str, bytes]) -> None:
        """Take in hand what is asked of the module, is asked no longer, or is tried once more."""
        if CANCEL in headers:
            self._give_up(headers[CANCEL])
            state.given_up.discard(headers[CANCEL])
            state.add(record, (), None)
            return
        if RETRY_OF in headers:
            letter = read(self.module, record)
            if letter is not None:
                self._take_retry(state, record, headers, letter)
                return
        name = text(headers, "ce_type") or ""
        is_asked = CORRELATION in headers
        request = read_request(headers, self.settings.reply_partitions) if is_asked else None
        is_unreadable = is_asked and request is None
        if name not in self.known[record.topic] or is_unreadable:
            # Not begun: a command whose caller waits must not run as one that nobody waits for, and is tried again.
            deliveries = state.add(record, (self.unknown,), None, headers)
            if request is not None:
                self._attempts.refuse(request, f"{self.module} handles no {name!r}")
        elif request is not None:
            deliveries = self._take_request(state, record, headers, request, self.requests[name])
        else:
            found = self.subscriptions.get((record.topic, name), ())
            deliveries = state.add(record, found, record.key, headers)
        for delivery in deliveries:
            state.begin(delivery)

    def _take_retry(
        self, state: PartitionState, record: Record, headers: Mapping[str, bytes], letter: DeadLetter
    ) -> None:
        """Take a dead letter that is retried in hand, for the one handler that had given it up, whatever topic it came from."""
        found: Sequence[Subscription] = self._handlers.get((letter.handler, letter.name), ())
        if not found and letter.handler == self.unknown.name:
            # Nobody knew it; all who know it now are to have it.
            found = self.subscriptions.get((letter.topic, letter.name), ()) or (self.unknown,)
        is_orphan = not found
        if is_orphan:
            found = (msgspec.structs.replace(self.unknown, name=letter.handler),)
        for delivery in state.add(record, found, record.key, headers):
            delivery.retried, delivery.is_orphan = letter, is_orphan
            state.begin(delivery)

    def _finished(self, delivery: Delivery) -> None:
        if delivery.request is not None:
            self._requests.pop(delivery.request.correlation, None)
        state = delivery.owner
        while state.backlog and state.in_hand < self.settings.window:
            self._take_record(state, state.backlog.popleft())
        if (
            state.paused
            and not state.backlog
            and state.in_hand <= self.settings.window // 2
            and not state.revoked
            and self._member is not None
        ):
            state.paused = False
            self._member.resume([state.partition])

    def _take_request(
        self,
        state: PartitionState,
        record: Record,
        headers: Mapping[str, bytes],
        request: Request,
        subscription: Subscription,
    ) -> list[Delivery]:
        key = record.key if subscription.ordered else None
        name = subscription.handler.name
        if key is not None and any(
            link.name == name and link.key == key.decode(errors="replace") for link in request.chain
        ):
            key = None  # a handler up its own chain holds the turn and waits for it
        deliveries = state.add(record, (subscription,), key, headers)
        # What the request has spent in the log is taken off what its caller waits.
        ages, time_s = self._ages, record.timestamp_ms / 1000
        stored_at = ages.epoch + state.behind_s + time_s
        if not state.read_up_at <= stored_at <= ages.now:
            stored_at, state.behind_s = ages.learn(state.behind_s, state.read_up_at, time_s)
        for delivery in deliveries:
            delivery.request = request
            delivery.deadline = stored_at + request.budget_s
            delivery.is_given_up = request.correlation in state.given_up
            self._requests[request.correlation] = delivery
        return deliveries

    async def _let_go(self, member: Member) -> None:
        """Let what is being handled finish within a bound, and commit; the next `receive` lets go."""
        self.assigned = False
        states, self._partitions = list(self._partitions.values()), {}
        for state in states:
            state.revoke()
        with anyio.move_on_after(HAND_OVER_S):
            await self._attempts.until_settled(states)
        for state in states:
            state.abandon()
        await self._commit(member, states)

    async def _end_when_draining(self, member: Member) -> None:
        await self._draining.wait()
        states = list(self._partitions.values())
        member.pause(self._partitions)
        for state in states:
            state.revoke()
        with anyio.CancelScope(deadline=self._deadline, shield=True) as scope:
            await self._attempts.until_settled(states)
        if scope.cancelled_caught:
            count = sum(state.handling for state in states)
            _logger.warning("%s: %d messages were not done in time and will come again", self.module, count)
        for state in states:
            state.abandon()
        with anyio.move_on_after(LAST_COMMIT_S, shield=True):
            await self._commit(member, states)
        if self._tasks is not None:
            self._tasks.cancel_scope.cancel()

    def is_idle(self) -> bool:
        """Tell whether there is nothing to do but what waits for its next attempt."""
        states = self._partitions.values()
        busy = self._attempts.workers.has_work or any(state.handling or state.backlog for state in states)
        return not busy and self.assigned and self.statistics().lag == 0

    # --- the offsets -------------------------------------------------------------------------------------------------

    async def _commit_regularly(self, member: Member) -> None:
        while True:
            await self.environment.clock.sleep(self.settings.commit_interval_s)
            await self._commit(member, [state for state in self._partitions.values() if not state.revoked])
            self._note_if_read_up(member)

    async def _commit(self, member: Member, states: list[PartitionState]) -> None:
        """Commit the lowest unfinished offset of each partition where it has risen."""
        offsets: dict[Partition, int] = {}
        for state in states:
            watermark = state.watermark()
            if watermark is not None and watermark != state.committed:
                offsets[state.partition] = watermark
        if not offsets:
            return
        try:
            if not await member.commit(states[0].generation, offsets):
                return
        except Unavailable as error:
            _logger.warning("%s: offsets cannot be committed yet: %s", self.module, error)
            return
        for state in states:
            if state.partition in offsets:
                state.committed = offsets[state.partition]
