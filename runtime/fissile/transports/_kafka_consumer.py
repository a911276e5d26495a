"""aiokafka's consumer behind types of our own. Some of what we need is private to it: all of that is here, and nowhere else.

It belongs in the loop (see `_kafka_bridge.py`).
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from fissile.abc import Partition
from fissile.transports._kafka_bridge import forget
from fissile.transports._kafka_damage import Damage, guard
from fissile.transports._kafka_library import Clients, disconnect, library, within
from fissile.transports._kafka_options import Options, milliseconds
from fissile.transports._kafka_reread import records_of

if TYPE_CHECKING:
    import ssl

_NEVER_MS = 24 * 3600 * 1000
"""How long a consumer may go without reading. A member without partitions would leave for good after it (aiokafka#1187)."""
_ANSWER_S = 0.01
"""A broker that answers an empty fetch sooner than this does not wait for records, in seconds."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.0005, 0.02
_UNKNOWN_OFFSET = -1


class Raw(Protocol):
    """A record as aiokafka has it."""

    @property
    def offset(self) -> int:
        """Its offset."""
        ...

    @property
    def timestamp(self) -> int:
        """Its time, in milliseconds since 1970."""
        ...

    @property
    def key(self) -> bytes | None:
        """Its key."""
        ...

    @property
    def value(self) -> bytes | None:
        """Its value."""
        ...

    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]:
        """Its headers."""
        ...


class Rebalances(Protocol):
    """Who is told that partitions come and go. The group waits meanwhile."""

    async def taken(self) -> None:
        """All partitions are being taken."""
        ...

    async def given(self, partitions: Collection[Partition]) -> None:
        """These partitions, and no others, are there now."""
        ...


class Consumer:
    """A consumer of aiokafka.

    Args:
        options: What it is made with.
        context: The TLS context.
        clients: Where it is known while it is open.
        group: The group to be in, or None.

    Attributes:
        group: The same.
    """

    def __init__(self, options: Options, context: ssl.SSLContext | None, clients: Clients, group: str | None) -> None:
        self._options = options
        self._clients = clients
        self._is_up = False
        self._damages: list[Damage] = []
        self._answered: dict[Partition, tuple[int, float]] = {}
        self._confirmed_at = -math.inf
        self._confirmed = asyncio.Event()
        self.group = group
        self._raw: Any = library().AIOKafkaConsumer(  # Any: the library has no types
            **options.client(),
            ssl_context=context,
            group_id=group,
            group_instance_id=(options.instance or None) if group else None,
            # It commits the record in hand: a kill -9 would lose it.
            enable_auto_commit=False,
            # It would mix "nothing committed" with "no longer kept"; we resolve both ourselves.
            auto_offset_reset="none",
            session_timeout_ms=milliseconds(options.session_s),
            heartbeat_interval_ms=milliseconds(options.heartbeat_s),
            rebalance_timeout_ms=milliseconds(options.rebalance_s),
            max_poll_interval_ms=_NEVER_MS,
            max_partition_fetch_bytes=max(1024 * 1024, options.max_record_bytes),
            fetch_max_bytes=16 * 1024 * 1024,
        )

    @property
    def network(self) -> Any:  # Any: the library has no types
        """What of aiokafka has its connections to brokers."""
        return self._raw._client

    async def start(self) -> None:
        """Connect.

        Raises:
            Unavailable: No broker answers.
        """
        await self._clients.start(self, self._options.request_s, self._raw.start())
        self._is_up = True
        if self.group is not None:
            coordinator = self._raw._coordinator
            coordinator._send_req = _noted(coordinator._send_req, self._note_confirmation)
        fetcher = self._raw._fetcher
        fetcher._proc_fetch_request = _paced(_guarded(fetcher, self._found))

    def _found(self, damage: Damage) -> None:
        self._damages.append(damage)
        self.pause([damage.partition])  # it would be fetched again and again

    def take_damages(self) -> list[Damage]:
        """Return what was found to be unreadable since the last time; those partitions are paused."""
        found, self._damages = self._damages, []
        return found

    async def close(self, seconds: float) -> None:
        """Stop it, and be known no longer. Raises nothing. A start that is under way takes care of that itself."""
        if self._is_up:
            await self._clients.stop(self, seconds)

    async def stop(self, seconds: float) -> None:
        """Leave the group and disconnect, within a bound; what still runs after it is torn down. Raises nothing."""
        try:
            await within(seconds, "The consumer does not stop", self._raw.stop())
        except Exception:  # noqa: BLE001 -- whatever it was, the next step does not depend on it
            await self._abandon()

    async def _abandon(self) -> None:
        raw = self._raw
        raw._closed = True
        coordinator, fetcher = raw._coordinator, raw._fetcher
        tasks: list[asyncio.Task[Any] | None] = []  # Any: nobody wants the results
        if coordinator is not None:
            names = ("_coordination_task", "_heartbeat_task", "_commit_refresh_task", "_reset_committed_task")
            tasks += [getattr(coordinator, name, None) for name in names]
        if fetcher is not None:
            tasks += [fetcher._fetch_task, *fetcher._pending_tasks]
        running = [task for task in tasks if task is not None]
        for task in running:
            task.cancel()
        if running:
            await asyncio.wait(running, timeout=1.0)
        for task in running:
            forget(task)
        await disconnect(raw._client)

    # --- the group ---------------------------------------------------------------------------------------------------

    def subscribe(self, topics: Iterable[str], rebalances: Rebalances) -> None:
        """Join the group. It does not wait for partitions, which the members that there are give up first."""
        self._raw.subscribe(list(topics), listener=_listener(rebalances))

    def identity(self) -> tuple[int, str]:
        """Return the broker's number of the generation, and the name it has given this member."""
        coordinator = self._raw._coordinator
        return coordinator.generation, coordinator.member_id

    def _note_confirmation(self, asked_at: float) -> None:
        self._confirmed_at = asked_at
        self._confirmed.set()

    async def until_confirmed(self) -> None:
        """Wait until the group has confirmed this member no longer ago than a session; then nobody else has its partitions."""
        while time.monotonic() - self._confirmed_at > self._options.session_s:
            self._confirmed.clear()
            await self._confirmed.wait()

    async def committed(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """Return what the group has committed, where it has."""
        found: dict[Partition, Any] = await self._raw._coordinator.fetch_committed_offsets(list(partitions))
        return {partition: one.offset for partition, one in found.items() if one.offset != _UNKNOWN_OFFSET}

    async def commit(self, identity: tuple[int, str], offsets: Mapping[Partition, int]) -> bool:
        """Commit as the member of a generation.

        aiokafka's own `commit` takes the generation of the moment of sending, also after a rebalance or a failed heartbeat: an offset of
        the old assignment would then be accepted, and move the group back. So the request is made here.

        Returns:
            False if the broker refused it because the generation is over.

        Raises:
            KafkaError: There was another error; retriable ones say so.
        """
        coordinator = self._raw._coordinator
        await coordinator.ensure_coordinator_known()
        topics: dict[str, list[tuple[int, int, str]]] = {}
        for (topic, number), offset in offsets.items():
            topics.setdefault(topic, []).append((number, offset, ""))
        commits = library("aiokafka.protocol.commit")
        request = commits.OffsetCommitRequest(
            self.group, *identity, commits.OffsetCommitRequest.DEFAULT_RETENTION_TIME, list(topics.items())
        )
        response = await coordinator._send_req(request)
        errors = library("aiokafka.errors")
        over = (errors.UnknownMemberIdError, errors.IllegalGenerationError, errors.RebalanceInProgressError)
        codes: set[int] = {code for _, partitions in response.topics for _, code in partitions if code}
        found: list[type[Exception]] = [errors.for_code(code) for code in codes]
        if any(error in over for error in found):
            return False
        for error in found:
            if error in (errors.GroupCoordinatorNotAvailableError, errors.NotCoordinatorForGroupError):
                coordinator.coordinator_dead()
            raise error
        return True

    # --- positions ---------------------------------------------------------------------------------------------------

    def assign(self, partitions: Collection[Partition]) -> None:
        """Read these partitions, without a group."""
        self._raw.assign(list(partitions))

    async def bounds(self, partitions: Collection[Partition]) -> tuple[dict[Partition, int], dict[Partition, int]]:
        """Return the first offset kept of each partition, and the end."""
        first: Awaitable[dict[Partition, int]] = self._raw.beginning_offsets(list(partitions))
        last: Awaitable[dict[Partition, int]] = self._raw.end_offsets(list(partitions))
        begins, ends = await asyncio.gather(first, last)
        return begins, ends

    def seek(self, partition: Partition, offset: int) -> None:
        """Read on from an offset."""
        self._raw.seek(partition, offset)

    async def position(self, partition: Partition) -> int:
        """Return the next offset that will be read."""
        found: int = await self._raw.position(partition)
        return found

    def end(self, partition: Partition) -> int | None:
        """Return the end of the log as the last fetch told it."""
        found: int | None = self._raw.highwater(partition)
        return found

    def answered(self, partition: Partition) -> float | None:
        """Return how long ago a broker answered a fetch of the partition, in seconds; as well as can be told by whoever asks regularly."""
        last_ms: int | None = self._raw.last_poll_timestamp(partition)
        if last_ms is None:
            return None
        # By the clock of the machine, which somebody may set: that it has changed is all that is made of it.
        before, at = self._answered.get(partition, (None, 0.0))
        if before != last_ms:
            at = time.monotonic()
            self._answered[partition] = (last_ms, at)
        return time.monotonic() - at

    def assignment(self) -> Collection[Partition]:
        """Return the partitions it holds."""
        found: Collection[Partition] = self._raw.assignment()
        return found

    # --- records -----------------------------------------------------------------------------------------------------

    async def receive(self, count: int, seconds: float) -> Mapping[Partition, Sequence[Raw]]:
        """Return the next records, or nothing after some time; during a rebalance it waits for its end."""
        found: Mapping[Partition, Sequence[Raw]] = await self._raw.getmany(
            timeout_ms=milliseconds(seconds), max_records=count
        )
        return found

    async def reread(self, damage: Damage) -> tuple[Sequence[Raw], int]:
        """Return the records of a batch that aiokafka cannot read, and where it ends.

        Raises:
            Unavailable: No broker answers.
            Exception: Nobody can read it.
        """
        topic, number = damage.partition
        limit = self._options.max_record_bytes
        wanted = [(topic, [(number, damage.offset, max(1024 * 1024, limit))])]
        request = library("aiokafka.protocol.fetch").FetchRequest(0, 1, 2 * limit, 0, wanted)
        client = self._raw._client
        node = client.cluster.leader_for_partition(damage.partition)
        response = await within(self._options.request_s, "A batch cannot be fetched", client.send(node, request))
        ((_, ((_, code, *_, data),)),) = response.topics
        if code:
            raise library("aiokafka.errors").for_code(code)
        return records_of(data, damage.offset)

    def pause(self, partitions: Collection[Partition]) -> None:
        """Fetch no more of these partitions; of those among them that it holds."""
        held = self._raw.assignment()
        self._raw.pause(*(partition for partition in partitions if partition in held))

    def resume(self, partitions: Collection[Partition]) -> None:
        """Fetch them again."""
        held = self._raw.assignment()
        self._raw.resume(*(partition for partition in partitions if partition in held))

    def problem(self) -> str | None:
        """Return why it will never read again, or None. aiokafka tells nobody but the next reader, and sometimes not even that (#1154)."""
        coordinator, fetcher = self._raw._coordinator, self._raw._fetcher
        pending: Exception | None = getattr(coordinator, "_pending_exception", None)
        if pending is not None:  # it waits for somebody to read, who waits for partitions
            return f"the group refuses it: {pending!r}"
        for name, task in (
            ("the fetcher", None if fetcher is None else fetcher._fetch_task),
            ("the coordination", getattr(coordinator, "_coordination_task", None)),
        ):
            if task is not None and task.done():
                error = None if task.cancelled() else task.exception()
                return f"{name} has ended" + (f": {error!r}" if error is not None else "")
        return None


def _listener(rebalances: Rebalances) -> object:
    async def on_partitions_revoked(_: object, revoked: object) -> None:  # noqa: ARG001 -- it is always all of them
        await rebalances.taken()

    async def on_partitions_assigned(_: object, assigned: Collection[Partition]) -> None:
        await rebalances.given(assigned)

    methods = {"on_partitions_revoked": on_partitions_revoked, "on_partitions_assigned": on_partitions_assigned}
    found: object = type("Listener", (library().ConsumerRebalanceListener,), methods)()
    return found


def _noted(send: Callable[[Any], Awaitable[Any]], confirm: Callable[[float], None]) -> Callable[[Any], Awaitable[Any]]:
    """Note when the group was asked whether this is a member, and said so. (Any: the library has no types.)

    While it rebalances too: nobody is given the partitions before this member has joined again, or was thrown out.
    """
    groups, errors = library("aiokafka.protocol.group"), library("aiokafka.errors")
    asking = (groups.HeartbeatRequest, groups.SyncGroupRequest)
    yes = (errors.NoError.errno, errors.RebalanceInProgressError.errno)

    async def noted(request: Any) -> Any:
        asked_at = time.monotonic()
        response = await send(request)
        if isinstance(request, asking) and response.error_code in yes:
            confirm(asked_at)
        return response

    return noted


def _guarded(fetcher: Any, tell: Callable[[Damage], None]) -> Callable[..., Awaitable[bool]]:  # Any: as above
    fetch = fetcher._proc_fetch_request

    async def guarded(*arguments: object) -> bool:
        has_data: bool = await fetch(*arguments)
        guard(fetcher._records, tell)  # before anything else of the loop runs: nobody has looked at them
        return has_data

    return guarded


def _paced(fetch: Callable[..., Awaitable[bool]]) -> Callable[..., Awaitable[bool]]:
    """Pace the fetches of a broker that answers empty ones at once, as the embedded one does: thousands a second for each idle consumer."""
    empty = 0

    async def paced(*arguments: object) -> bool:
        nonlocal empty
        began = time.monotonic()
        has_data = await fetch(*arguments)
        if has_data or time.monotonic() - began > _ANSWER_S:
            empty = 0
            return has_data
        empty += 1
        try:
            await asyncio.sleep(min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(10, empty // 4)))
        except asyncio.CancelledError:
            return has_data  # as the fetch itself does: whoever cancels it awaits it, and expects a result
        return has_data

    return paced
