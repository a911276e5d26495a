"""Who runs next: people's runs and the cases of submissions each have a line of their own, and a share of the places."""

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from attrs import define, field

from .contract import ExecutorBusy


@define(eq=False)
class Line:
    """Those who wait for a place, the first first.

    Attributes:
        at_once: How many places it may have at a time.
        most: How many may wait.
    """

    at_once: int
    most: int
    _running: int = field(default=0, init=False)
    _waiting: deque[anyio.Event] = field(factory=deque[anyio.Event], init=False)

    @property
    def may_go_on(self) -> bool:
        """Whether it may have one more place."""
        return self._running < self.at_once


class Places:
    """The places where programs run.

    People come without being asked who they are, and their programs run as long as they may; whatever they do, judging goes on: some places are
    never theirs. Where a place is free that both may have, the line is next that was not served last.

    Args:
        at_once: How many there are.
        for_people: How many of them people's runs may have.
        waiting: How many may wait, in each line.
    """

    def __init__(self, at_once: int, for_people: int, waiting: int) -> None:
        self._free = at_once
        self.judging = Line(at_once, waiting)
        self.people = Line(min(for_people, at_once), waiting)
        self._order = [self.judging, self.people]  # who is next where both may be

    @asynccontextmanager
    async def one(self, line: Line) -> AsyncGenerator[None]:
        """Have a place.

        Raises:
            ExecutorBusy: As many wait in this line as may wait.
        """
        await self._enter(line)
        try:
            yield
        finally:
            line._running -= 1
            self._free += 1
            self._hand_out()

    async def _enter(self, line: Line) -> None:
        if len(line._waiting) >= line.most and not (self._free and line.may_go_on and not line._waiting):
            raise ExecutorBusy(len(line._waiting))
        turn = anyio.Event()
        line._waiting.append(turn)
        self._hand_out()
        try:
            await turn.wait()
        except BaseException:
            if turn.is_set():  # it was its turn, and it has left in the same moment
                line._running -= 1
                self._free += 1
                self._hand_out()
            else:
                line._waiting.remove(turn)
            raise

    def _hand_out(self) -> None:
        while self._free:
            line = next((each for each in self._order if each._waiting and each.may_go_on), None)
            if line is None:
                return
            self._free -= 1
            line._running += 1
            line._waiting.popleft().set()
            self._order.sort(key=lambda each: each is line)
