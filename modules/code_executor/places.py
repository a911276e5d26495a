"""Who runs next: people's runs and the cases of submissions each have a line of their own, and a share of the places.

Within a line, callers take turns: who asks for many runs waits for their own, and nobody else does.
"""

from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from attrs import define, field

from fissile import Caller, Clock

from .contract import ExecutorBusy

NOBODY = ""
"""All who do not say who they are."""
_ACCEPTED_S = 60.0
"""For how long a run that was accepted counts as one that waits, where nobody says that it has begun."""


def who_asks(caller: Caller) -> str:
    """Return a name for whom a message is from, `NOBODY` where that is not known: contracts carry no addresses."""
    identity = caller.identity
    if identity is None:
        return NOBODY if caller.module is None else f"module {caller.module}"
    return f"{identity.tenant or ''}/{identity.subject}" if identity.is_authenticated else NOBODY


@define(eq=False)
class Line:
    """Those who wait for a place, callers in turn, of each the first first.

    Attributes:
        at_once: How many places it may have at a time.
        most: How many may wait.
        most_each: How many of them may be one caller's.
        most_nobody: How many of them may be of all together who do not say who they are.
        clock: Tells how long ago something was accepted.
    """

    at_once: int
    most: int
    most_each: int
    most_nobody: int
    clock: Clock
    _running: int = field(default=0, init=False)
    _waiting: OrderedDict[str, deque[anyio.Event]] = field(
        factory=OrderedDict[str, deque[anyio.Event]], init=False
    )  # by caller; the first is next
    _accepted: dict[str, tuple[str, float]] = field(factory=dict[str, tuple[str, float]], init=False)

    @property
    def may_go_on(self) -> bool:
        """Whether it may have one more place."""
        return self._running < self.at_once

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits."""
        return not self._waiting

    def waiting(self, who: str | None = None) -> int:
        """How many wait, or were told that they may; all of them, or those of one caller."""
        now_s = self.clock.monotonic()
        self._accepted = {run: kept for run, kept in self._accepted.items() if now_s < kept[1] + _ACCEPTED_S}
        callers = self._waiting if who is None else [who] * (who in self._waiting)
        here = sum(len(self._waiting[caller]) for caller in callers)
        return here + sum(who in (None, caller) for caller, _ in self._accepted.values())

    def has_room(self, who: str, free: int) -> bool:
        """Whether one more of a caller may come, where so many places are free."""
        free = min(free, self.at_once - self._running)
        share = self.most_nobody if who == NOBODY else self.most_each
        return self.waiting() < self.most + free and self.waiting(who) < share + free

    def begun(self, run_id: str) -> None:
        """Note that a run that was accepted has begun, wherever that is, or never will."""
        self._accepted.pop(run_id, None)

    def _add(self, who: str, turn: anyio.Event) -> None:
        self._waiting.setdefault(who, deque()).append(turn)

    def _leave(self, who: str, turn: anyio.Event) -> None:
        turns = self._waiting[who]
        turns.remove(turn)
        if not turns:
            del self._waiting[who]

    def _next(self) -> anyio.Event:
        who, turns = next(iter(self._waiting.items()))
        turn = turns.popleft()
        if turns:
            self._waiting.move_to_end(who)
        else:
            del self._waiting[who]
        return turn


class Places:
    """The places where programs run.

    People come without being asked who they are, and their programs run as long as they may; whatever they do, judging goes on: some places are
    never theirs. Where a place is free that both may have, the line is next that was not served last.

    Args:
        at_once: How many there are.
        for_people: How many of them people's runs may have.
        waiting: How many may wait, in each line.
        each: How many of people's runs that wait may be one caller's. So many are left for others by those who do not say who they are.
        clock: For `Line`.
    """

    def __init__(self, at_once: int, for_people: int, waiting: int, each: int, clock: Clock) -> None:
        self._free = at_once
        each = min(each, waiting)
        self.judging = Line(at_once, waiting, waiting, waiting, clock)
        self.people = Line(min(for_people, at_once), waiting, each, max(waiting - each, each), clock)
        self._order = [self.judging, self.people]  # who is next where both may be

    def accept(self, line: Line, who: str, run_id: str) -> None:
        """Promise that a run may wait for a place; it counts as one that waits until it has `begun`, or comes here.

        Raises:
            ExecutorBusy: As many wait as may wait.
        """
        if run_id not in line._accepted:
            self._check(line, who)
            line._accepted[run_id] = (who, line.clock.monotonic())

    @asynccontextmanager
    async def one(self, line: Line, who: str = NOBODY, *, accepted: str = "") -> AsyncGenerator[None]:
        """Have a place.

        Args:
            line: Whose place.
            who: Who asks.
            accepted: The run, where it was accepted already, here or by another process.

        Raises:
            ExecutorBusy: As many wait as may wait, in this line or of this caller.
        """
        if accepted:
            line.begun(accepted)
        else:
            self._check(line, who)
        turn = anyio.Event()
        line._add(who, turn)
        self._hand_out()
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # it was its turn, and it has left in the same moment
                self._release(line)
            else:
                line._leave(who, turn)
            raise
        try:
            yield
        finally:
            self._release(line)

    def _check(self, line: Line, who: str) -> None:
        if not line.has_room(who, self._free):
            raise ExecutorBusy(line.waiting())

    def _release(self, line: Line) -> None:
        line._running -= 1
        self._free += 1
        self._hand_out()

    def _hand_out(self) -> None:
        while self._free:
            line = next((each for each in self._order if each.may_go_on and not each.is_empty), None)
            if line is None:
                return
            self._free -= 1
            line._running += 1
            line._next().set()
            self._order.sort(key=lambda each: each is line)
