"""What the replicas of an executor tell each other: each follows the module's own topic, so that all know of all runs."""

from collections.abc import Mapping

import anyio
from attrs import define, field

from fissile import Bus, Lifespan, Tapped

from .contract import RunEvent, RunFailed, RunFailure, RunFinished, RunQueued, RunStarted, RunStopping, runs
from .places import Places
from .runs import RunStore

CAUGHT_UP_WITHIN_S = 5.0
"""How long somebody waits who asks for a run that is not known; far above what reading on takes."""


@define(eq=False)
class Follower:
    """Follows what all replicas tell of their runs, from what is kept of it on.

    Args:
        store: Learns of them.
        places: Learns which of the runs that were accepted here have begun elsewhere.
    """

    store: RunStore
    places: Places
    _bus: Bus | None = field(default=None, init=False)
    _reached: dict[int, int] = field(factory=dict[int, int], init=False)
    _ends: dict[int, int] = field(factory=dict[int, int], init=False)
    _moved: anyio.Event = field(factory=anyio.Event, init=False)
    _looking: anyio.Lock = field(factory=anyio.Lock, init=False)
    _asked: int = field(default=0, init=False)
    _answered: int = field(default=0, init=False)

    async def follow(self, bus: Bus, lifespan: Lifespan) -> None:
        """Follow until the process drains."""
        self._bus = bus
        lifespan.started()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._read, bus)
            await lifespan.draining()
            tasks.cancel_scope.cancel()

    async def _read(self, bus: Bus) -> None:
        async with bus.replay(runs) as kept:
            async for tapped in kept:
                self._take(tapped)
            position = kept.position
            self._reach(kept.offsets)
        async with bus.tap(runs, after=position) as tap:
            async for tapped in tap:
                self._take(tapped)
                self._reach(tap.offsets)

    def _take(self, tapped: Tapped[RunEvent]) -> None:
        match tapped.event:
            case RunQueued(run_id, language, asked):
                self.store.asked(asked, run_id)
                self.store.add(run_id, language)
            case RunStarted(run_id, language):
                self.store.add(run_id, language)
                self.store.running(run_id)
                self.places.people.begun(run_id)
            case RunStopping(run_id):
                self.store.cancel(run_id)
            case RunFinished(run_id, report):
                self.store.finished(report)
                self.places.people.begun(run_id)
            case RunFailed(run_id, kind, reason):
                self.store.failed(run_id, RunFailure(kind, reason))
                self.places.people.begun(run_id)
            case _:  # what a program writes is in its report at the end
                pass

    def _reach(self, offsets: Mapping[int, int]) -> None:
        self._reached.update(offsets)
        self._moved.set()
        self._moved = anyio.Event()

    async def knows(self, run_id: str) -> bool:
        """Whether there is such a run, also where another replica has told of it only this moment."""
        if not self.store.knows(run_id):
            with anyio.move_on_after(CAUGHT_UP_WITHIN_S):
                await self._catch_up()
        return self.store.knows(run_id)

    async def _catch_up(self) -> None:
        """Read on up to where the log ends now. However many ask, the log is asked once at a time."""
        self._asked += 1
        mine = self._asked
        async with self._looking:
            if self._bus is not None and self._answered < mine:
                answered = self._asked
                async with self._bus.tap(runs) as now:
                    self._ends.update(now.offsets)
                self._answered = answered
        while any(self._reached.get(number, 0) < end for number, end in self._ends.items()):
            await self._moved.wait()
