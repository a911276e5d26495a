"""Which languages the executor has, as far as that is known."""

from math import inf

import anyio
from attrs import define, field

from fissile import Bus, CallError, Clock
from modules.code_executor.contract import ListLanguages, NoSandbox

_PAUSE_S = 10.0
"""How long an executor that did not answer is left alone: each further submission would wait for it, too."""


@define(eq=False)
class KnownLanguages:
    """What the executor has said last.

    Args:
        clock: The time.
        kept_s: How long that is believed, in seconds.
        patience_s: How long an answer is waited for, in seconds.
    """

    clock: Clock
    kept_s: float
    patience_s: float
    _names: tuple[str, ...] | None = field(default=None, init=False)
    _known_until_s: float = field(default=-inf, init=False)
    _silent_until_s: float = field(default=-inf, init=False)

    async def names(self, bus: Bus, wanted: str) -> tuple[str, ...] | None:
        """Return the languages; what was said last where the executor does not answer, and None if it never has.

        Args:
            bus: Asks the executor.
            wanted: The language that matters: one that was not there is asked about again.
        """
        now_s = self.clock.monotonic()
        is_known = self._names is not None and wanted in self._names and now_s < self._known_until_s
        if is_known or now_s < self._silent_until_s:
            return self._names
        with anyio.move_on_after(self.patience_s):
            try:
                found = await bus.ask(ListLanguages())
            except (CallError, NoSandbox):
                found = None
            if found is not None:
                self._names = tuple(each.id for each in found)
                self._known_until_s = self.clock.monotonic() + self.kept_s
                return self._names
        self._silent_until_s = self.clock.monotonic() + _PAUSE_S
        return self._names
