"""Keys that are held: of a handler that parks, a message that was given up holds back the later ones of its key.

Which keys those are stands in the log of dead letters, and nowhere else, so that it outlives restarts and rebalances. Each process that runs
such a handler follows that log. What it knows may be late, so it catches up before it lets a message run that could be held, and before it
holds one that may run: when a partition is new to it, for each retry, and for each message that seems to be held.
"""

from __future__ import annotations

import anyio
from attrs import define, field

from fissile._delivery.dead_letters import DeadLetter, read
from fissile._delivery.lifecycle import Delivery
from fissile._errors import FissileError
from fissile.abc import Record, Transport

_PATIENCE_S = 2.0
"""After how long without a record it is thought that there is none: the log may have forgotten what stood last."""

Place = tuple[str, int, int]
HeldKey = tuple[str, bytes]


class KeyParked(FissileError):
    """The error of a dead letter whose message was not tried, because one before it of its key is a dead letter."""


@define(eq=False)
class HeldKeys:
    """What is known of the dead letters of one module.

    Args:
        module: The module's name.
        topic: Its log of dead letters.
    """

    module: str
    topic: str
    transport: Transport
    _keys: dict[str, HeldKey] = field(factory=dict[str, HeldKey], init=False)
    """The handler and the key of each letter that holds."""
    _places: dict[HeldKey, dict[str, Place]] = field(factory=dict[HeldKey, dict[str, Place]], init=False)
    """Where the messages of those letters stood."""
    _ahead: dict[str, int] = field(factory=dict[str, int], init=False)
    """The offsets of what this process has stored and not yet read: older records of those letters are passed over."""
    _position: int = field(default=0, init=False)
    _moved: anyio.Event = field(factory=anyio.Event, init=False)
    _generation: int = field(default=-1, init=False)

    async def follow(self) -> None:
        """Read the log from its beginning and go on reading.

        Raises:
            Unavailable: The log cannot be read; begin anew.
        """
        for known in (self._keys, self._places, self._ahead):
            known.clear()
        self._position, self._generation = 0, -1
        async with self.transport.read([(self.topic, 0)], "earliest") as reader:
            while True:
                records = await reader.receive()
                for record in records:
                    self._take(record)
                self._reached(records[-1].offset + 1)

    def _take(self, record: Record) -> None:
        letter_id = (record.key or b"").decode(errors="replace")
        if record.offset >= self._ahead.get(letter_id, -1):
            self._ahead.pop(letter_id, None)
            self._set(letter_id, read(self.module, record))

    def _set(self, letter_id: str, letter: DeadLetter | None) -> None:
        held = self._keys.pop(letter_id, None)
        if held is not None:
            places = self._places[held]
            del places[letter_id]
            if not places:
                del self._places[held]
        if letter is not None and letter.raw_key is not None and letter.state != "archived":
            held = self._keys[letter_id] = (letter.handler, letter.raw_key)
            self._places.setdefault(held, {})[letter_id] = _place(letter)

    def _reached(self, position: int) -> None:
        self._position = max(self._position, position)
        self._moved.set()
        self._moved = anyio.Event()

    def note(self, letter_id: str, letter: DeadLetter | None, offset: int) -> None:
        """Know of what this process has stored, before it is read.

        Args:
            letter_id: The letter's id.
            letter: The letter as it stands now; None if it is no more.
            offset: Where that is stored.
        """
        if offset >= self._position:
            self._ahead[letter_id] = offset
            self._set(letter_id, letter)

    async def parked_behind(self, delivery: Delivery) -> KeyParked | None:
        """Return why a delivery may not run, or None if it may."""
        generation = delivery.owner.generation
        if generation > self._generation or delivery.retried is not None or self._first_before(delivery) is not None:
            await self._catch_up()
            self._generation = max(self._generation, generation)
        first = self._first_before(delivery)
        if first is None:
            return None
        return KeyParked(f"parked behind {first}, the dead letter of a message that came before it with the same key")

    def _first_before(self, delivery: Delivery) -> str | None:
        """Return the id of the first letter of a delivery's handler and key whose message stood before, if there is one."""
        record, letter = delivery.record, delivery.retried
        if record.key is None:
            return None
        here = (record.topic, record.partition, record.offset) if letter is None else _place(letter)
        places = self._places.get((delivery.subscription.name, record.key), {})
        first = min(places, key=places.__getitem__, default=None)
        return first if first is not None and places[first] < here else None

    async def _catch_up(self) -> None:
        """Wait until everything is read that stands in the log now."""
        async with self.transport.read([(self.topic, 0)], "latest") as probe:
            ((_, end),) = probe.ends.items()
            while self._position < end:
                moved, before = self._moved, self._position
                with anyio.move_on_after(_PATIENCE_S):
                    await moved.wait()
                if self._position == before and probe.status().silent_s < _PATIENCE_S:
                    self._reached(end)


def _place(letter: DeadLetter) -> Place:
    return letter.topic, letter.partition, letter.offset
