"""Plants that break the rules of a topic and of a process: publish, order, failures, offsets, where to begin, supervision, ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from fissile import Bus, Caller, Event, Ids, Retry
from fissile import _build as build
from fissile import _bus as bus_file
from fissile import _handler as handler_file
from fissile import _supervisor as supervisor
from fissile import _taps as taps
from fissile._delivery import attempts, consumer, partition
from fissile._delivery.answers import bus_of
from fissile._delivery.lifecycle import Step
from fissile._isolation import run_isolated
from fissile._parking import call_soon
from fissile.transports import memory
from tests.placements.modules import Happened, follow
from tests.placements.planting import ENDS_WELL, Patch, plant

# Any, all through this file: what is planted takes the place of private functions, whatever they take.


# --- 10: publish -----------------------------------------------------------------------------------------------------


@plant(10, "local", r"'publish:one'[^)]*'fail:broken'", seen_in="happened", shows="'one'")
def a_handler_that_fails_publishes_in_one_process(patch: Patch) -> None:
    patch.setattr(bus_file.Queries, "_keep", lambda *_: False)


@plant(10, "loopback", r"'publish:one'[^)]*'fail:broken'", seen_in="happened", shows="'one'")
def a_handler_that_fails_publishes_through_the_log(patch: Patch) -> None:
    patch.setattr(bus_file.Queries, "_keep", lambda *_: False)


@plant(
    10,
    "loopback",
    r"'publish:[a-z]+'(, '(publish:[a-z]+|mood|word|call:1)')*, '(wrong|fill:65535)'",
    seen_in="happened",
    shows="[",
)
def events_are_stored_before_the_reply_has_crossed(patch: Patch) -> None:
    original = handler_file.Handler.cross

    async def run(self: Any, message: Any, bus: Any, *, has_slot: bool) -> bytes:
        context = self.context.copy()
        try:
            reply = await run_isolated(context, self.call(message, bus))
            if bus._outgoing:
                await self.flush(bus)
            return original(self, reply)
        finally:
            bus._ended = True
            if has_slot:
                self.slots.release()

    patch.setattr(handler_file.Handler, "run", run)


@plant(10, "local", r"'progress:early'[^)]*'fail:broken'", seen_in="happened", shows="")
def progress_waits_for_the_handler(patch: Patch) -> None:
    patch.setattr(Bus, "publish_now", Bus.publish)


@plant(10, "local", "'publish:poison'", shows="cannot follow poison")
def a_subscriber_runs_inside_of_publish(patch: Patch) -> None:
    original = Bus.publish

    async def publish(self: Any, event: Event) -> None:
        await original(self, event)
        if isinstance(event, Happened):
            await follow(event, self, Caller.of(self))

    patch.setattr(Bus, "publish", publish)


@plant(10, "loopback", "kind='tap'", shows="read ['before'")
def publish_returns_before_the_event_is_stored(patch: Patch) -> None:
    async def store(self: Any, records: Any) -> None:
        call_soon(self.transport.log.append, records)

    patch.setattr(build.Builder, "_store", store)


# --- 11: order -------------------------------------------------------------------------------------------------------


@plant(11, "loopback", f"'publish:one'{ENDS_WELL}", seen_in="partitions", shows="")
def keys_belong_to_other_partitions(patch: Patch) -> None:
    for file in (memory, taps):
        patch.setattr(file, "partition_of", lambda key, count: sum(key) % count)


@plant(11, "loopback", f"'publish:shaky', 'publish:(one|two)'{ENDS_WELL}", seen_in="followed", shows="'shaky'")
def a_failed_event_does_not_hold_back_its_key(patch: Patch) -> None:
    def retry(self: Any, delivery: Any, _error: BaseException) -> None:
        self._finish(delivery, Step.SUCCEEDED)

        async def again() -> None:
            await anyio.sleep(0.05)
            handler = delivery.subscription.handler
            await handler.run(handler.message.decode(delivery.record.value), bus_of(delivery), has_slot=False)

        self.tasks.start_soon(again)

    patch.setattr(attempts.Attempts, "_retry", retry)


# --- 12: failure of a subscriber -------------------------------------------------------------------------------------


@plant(12, "local", f"'publish:shaky'{ENDS_WELL}", seen_in="followed", shows="")
def a_failed_event_is_not_tried_again(patch: Patch) -> None:
    patch.setattr(Retry, "is_over", lambda *_: True)


@plant(12, "local", f"'publish:poison'{ENDS_WELL}", seen_in="letters", shows="3 attempts")
def a_failed_event_is_tried_once_too_often(patch: Patch) -> None:
    patch.setattr(Retry, "is_over", lambda self, failures, _: failures > self.attempts)


@plant(12, "loopback", f"'publish:poison'{ENDS_WELL}", seen_in="letters", shows="None")
def a_dead_letter_is_lost(patch: Patch) -> None:
    async def lose(self: Any, delivery: Any, _error: BaseException) -> None:
        delivery.step(Step.GIVEN_UP)
        self._finish(delivery, Step.BURIED)

    patch.setattr(attempts.Attempts, "_bury", lose)


# --- 13: offsets -----------------------------------------------------------------------------------------------------


@plant(13, "local", "kind='crash'", seen_in="followed", shows="'done'")
def offsets_are_committed_beyond_what_is_unfinished(patch: Patch) -> None:
    patch.setattr(partition.PartitionState, "watermark", lambda self: self.next_offset)


@plant(13, "loopback", "kind='crash'", seen_in="followed", shows="'done'")
def what_was_not_committed_does_not_come_again(patch: Patch) -> None:
    patch.setattr(memory.MemoryLog, "_start", staticmethod(_at_the_end))


def _at_the_end(group: Any, _start: str, log: Any) -> int:
    # A new group still begins where it was told to.
    is_new = log.name not in group.committed
    begin: int = log.first_offset if is_new else log.next_offset
    group.committed[log.name] = begin
    return begin


# --- 14: where a new subscriber starts -------------------------------------------------------------------------------


@plant(14, "loopback", seen_in="followed", shows="None")
def a_new_subscriber_begins_at_the_end(patch: Patch) -> None:
    original = consumer.Consumer.__attrs_post_init__

    def init(self: Any) -> None:
        original(self)
        self.topics = dict.fromkeys(self.topics, "latest")

    patch.setattr(consumer.Consumer, "__attrs_post_init__", init)


def _change_reading(patch: Patch, change: Callable[[Any], Any]) -> None:
    original = memory.MemoryTransport.read
    patch.setattr(
        memory.MemoryTransport,
        "read",
        lambda self, partitions, start, **more: original(self, partitions, change(start), **more),
    )


@plant(14, "local", "kind='tap'", shows="read ['before'")
def a_tap_begins_at_the_beginning(patch: Patch) -> None:
    _change_reading(patch, lambda start: "earliest" if start == "latest" else start)


@plant(14, "loopback", seen_in="followed", shows="None")
def a_tap_does_not_go_on_where_it_was_told_to(patch: Patch) -> None:
    _change_reading(patch, lambda start: start if isinstance(start, str) else "latest")


@plant(14, "loopback", "kind='tap'", shows="read ['after', 'position lost']")
def two_taps_share_what_they_read(patch: Patch) -> None:
    original = memory._Reader.receive
    taken: set[tuple[str, int, int]] = set()

    async def receive(self: Any) -> Any:
        while True:
            records = [one for one in await original(self) if (one.topic, one.partition, one.offset) not in taken]
            keyed = [one for one in records if (one.key or b"").endswith(b"-tapped") and len(self.positions()) == 1]
            taken.update((one.topic, one.partition, one.offset) for one in keyed)
            if records:
                return records

    patch.setattr(memory._Reader, "receive", receive)


# --- 16: a supervisor ------------------------------------------------------------------------------------------------


@plant(16, "local", f"'publish:shaky'{ENDS_WELL}", seen_in="followed", shows="")
def a_subscription_ends_in_silence(patch: Patch) -> None:
    def fail(self: Any, _delivery: Any, error: BaseException) -> None:
        raise error

    async def keep(self: Any, _name: str, function: Any) -> None:
        try:
            await function()
        except (Exception, BaseExceptionGroup) as error:
            if isinstance(error, BaseExceptionGroup) and error.split(Exception)[1] is not None:
                raise

    patch.setattr(attempts.Attempts, "_retry", fail)
    patch.setattr(supervisor.Supervisor, "_keep", keep)


# --- 17: ids ---------------------------------------------------------------------------------------------------------


@plant(17, "local", "kind='crash'", seen_in="missing", shows="the partition of a key")
def ids_are_given_out_again(patch: Patch) -> None:
    patch.setattr(Ids, "new", lambda self: "id")
