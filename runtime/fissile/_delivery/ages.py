"""When the requests of a log were stored, on the event loop's clock: what they have spent there is taken off what their callers wait.

A record's time is another machine's: of the one that keeps the log, or of the caller. Taken as it is, a clock that is behind would let requests
expire that have just come. What is known without any clock is that nothing which comes after the log was read to its end is older than that.
"""

from __future__ import annotations

import logging
from math import inf

from attrs import define, field

_logger = logging.getLogger("fissile.delivery")

FRESH_S = 2.0
"""A record that comes so soon after the log was read to its end has just been stored, whatever its time says; in seconds."""
_TOLD_EVERY_S = 60.0
"""How often clocks that differ are told of, in seconds."""


@define(eq=False)
class Ages:
    """What a consumer knows of its log's clock, besides what each partition has taught it.

    Args:
        module: The module's name.

    Attributes:
        now: When the last records came, on the event loop's clock.
        epoch: What that clock told, or would have, in 1970 by the clock of this machine.
    """

    module: str
    now: float = field(default=0.0, init=False)
    epoch: float = field(default=0.0, init=False)
    _told_at: float = field(default=-inf, init=False)

    def learn(self, behind_s: float, read_up_at: float, time_s: float) -> tuple[float, float]:
        """Find out when a record was stored that says what cannot be: later than now, or before its partition was last read to its end.

        Args:
            behind_s: How far the clock of its partition is behind that of this machine, as far as that is known; infinite where this is
                the first record since the partition was read to its end.
            read_up_at: When that was.
            time_s: The record's time, in seconds since 1970.

        Returns:
            When it was stored, on the event loop's clock, and what is known now of the clock of its partition.
        """
        by_clocks = self.epoch + time_s
        is_fresh = self.now - read_up_at < FRESH_S
        if by_clocks < read_up_at - 1.0 and is_fresh:
            self._tell(self.now - by_clocks)
        if behind_s == inf:
            # Long after that, the log or this process has stood still: the clocks are the best that is known of when it was stored meanwhile.
            stored_at = self.now if is_fresh else min(max(by_clocks, read_up_at), self.now)
        else:
            stored_at = min(max(by_clocks + behind_s, read_up_at), self.now)
        # A clock that is ahead shortens nothing.
        return stored_at, max(0.0, stored_at - by_clocks)

    def _tell(self, seconds: float) -> None:
        if self.now - self._told_at < _TOLD_EVERY_S:
            return
        self._told_at = self.now
        _logger.warning(
            "%s: a request that has just come says that it was stored %.0f s ago. The clock of this machine and that of its log, or of its "
            "caller, differ: set them (NTP). What requests spend in the log is counted without them meanwhile, and less exactly",
            self.module,
            seconds,
        )
