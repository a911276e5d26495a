"""What aiokafka logs: the same a thousand times while a broker is away, since each of its clients tells of each try."""

from __future__ import annotations

import logging
from time import monotonic

_LOGGERS = (
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.consumer",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.sender",
)
_EVERY_S = 30.0
"""How often the same is told, in seconds."""
_MOST = 1000
"""How many messages are remembered; they come from a broker too."""


class Seldom(logging.Filter):
    """Lets a warning or an error pass once in a while; the next time it says how often it came meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno < logging.WARNING:
            return True
        what, now = (record.name, record.getMessage()), monotonic()
        told_at, more = self._told.get(what, (None, 0))
        if told_at is not None and now - told_at < _EVERY_S:
            self._told[what] = (told_at, more + 1)
            return False
        if len(self._told) >= _MOST:
            self._told.clear()
        self._told[what] = (now, 0)
        if more:
            record.msg, record.args = f"{what[1]} ({more} times more since it was told last)", None
        return True


_seldom = Seldom()


def quieten() -> None:
    """Let aiokafka tell the same seldom from now on; more than once is once."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_seldom)
