"""A replay: what a topic keeps, from its beginning up to now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import anyio
from anyio.lowlevel import checkpoint

from fissile._codec import Codec
from fissile._contract import Topic
from fissile._errors import PositionLost
from fissile._messages import Event
from fissile._tap import Tap, Tapped
from fissile.abc import Reader

E_co = TypeVar("E_co", bound=Event, covariant=True)

_LOOK_S = 0.2
"""How often a replay that waits looks whether what is left of the log is no record, in seconds."""

Reopen = Callable[[Mapping[int, int]], Awaitable[Reader]]
"""Opens another reader at the offsets of some partitions, or where these are no longer kept, at the first ones that are."""


class Replay(Tap[E_co]):
    """Iterates over the events that a topic keeps, and ends: `async for kept in replay`.

    The last one is the last that was there when it was opened, so that a busy topic ends too. When it has ended, `position` is after that
    event; a tap or another replay that is opened `after` it goes on without a gap.
    """

    def __init__(
        self,
        topic: Topic[Any],
        reader: Reader,
        codecs: Mapping[str, Codec[Any]],
        offsets: dict[int, int],
        key: str | None,
        log: str = "",
        *,
        reopen: Reopen | None,
    ) -> None:
        super().__init__(topic, reader, codecs, offsets, key, log)
        self._reopen = reopen
        self._has_lost = False
        self._ends = {number: max(reader.ends[topic.name, number], offset) for number, offset in offsets.items()}

    async def __anext__(self) -> Tapped[E_co]:
        """Return the next event. What is no event of the topic, or cannot be decoded, is passed over.

        Raises:
            StopAsyncIteration: There is no other that was there at the beginning.
            PositionLost: The log has expired what comes next, and the replay was opened `after` a position. (One from the beginning goes on
                with what is still kept.)
            Unavailable: The log cannot be reached.
        """
        while True:
            while self._ahead:
                record = self._ahead.popleft()
                if record.offset >= self._ends[record.partition]:
                    self._offsets[record.partition] = self._ends[record.partition]
                    continue
                tapped = self._take(record)
                if tapped is not None:
                    return tapped
            if self._is_over():
                await checkpoint()
                raise StopAsyncIteration
            try:
                if self._has_lost and self._reopen is not None:
                    await self._pass_over_what_has_expired(self._reopen)
                with anyio.move_on_after(_LOOK_S):
                    self._ahead.extend(await self._reader.receive())
            except PositionLost:
                if self._reopen is None:
                    raise
                self._has_lost = True  # whoever is cancelled while another reader is opened may come back

    def _is_over(self) -> bool:
        name, positions = self.topic.name, self._reader.positions()
        for number, end in self._ends.items():
            if max(self._offsets[number], positions.get((name, number), 0)) < end:
                return False
        for number, end in self._ends.items():
            self._offsets[number] = max(self._offsets[number], end)
        return True

    async def _pass_over_what_has_expired(self, reopen: Reopen) -> None:
        """Go on with what is still kept: somebody who begins now would not get what has expired before it was read either."""
        self._reader = await reopen(self._offsets)
        for (_, number), begin in self._reader.begins.items():
            self._offsets[number] = max(self._offsets[number], min(begin, self._ends[number]))
        self._has_lost = False
