"""The ids of server-sent events: positions that a client brings back, to whichever replica it reaches.

An id is `<mark>-<position>`. The position counts offsets, which mean the same to every process that reads the log. The mark is made of the
topic and of the log's own name, so that the position of another topic, or of a log that has been made anew, is not taken for one of this.
The id of an event after which a stream has ended has `-end` behind it: who brings that back has had everything.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b

LIMIT_CHARACTERS = 4096
"""No id that was given out is longer: a topic has hundreds of partitions at most."""

EVENT_ID = r"([0-9a-f]{8})-([0-9]{1,9}:[0-9]{1,18}(?:\.[0-9]{1,9}:[0-9]{1,18})*)(?:-end)?"
"""What an id looks like, as documents tell it too: a mark and a position."""

_ID = re.compile(EVENT_ID)
_END = "-end"


def mark_of(topic: str, log: str) -> str:
    """Return what the ids of a topic begin with.

    Args:
        topic: The topic's name.
        log: The name of the log; see `Tap.log`.
    """
    return blake2b(f"{topic}\0{log}".encode(), digest_size=4).hexdigest()


def is_event_id(text: str) -> bool:
    """Tell whether a text is the id of an event, of any topic and log."""
    return len(text) <= LIMIT_CHARACTERS and _ID.fullmatch(text) is not None


def last_of(event_id: str) -> str:
    """Return the id of an event as that of the last one of a stream."""
    return f"{event_id}{_END}"


def is_last(text: str) -> bool:
    """Tell whether a text is the id of the last event of a stream."""
    return text.endswith(_END) and is_event_id(text)


def place_of(event_id: str) -> str:
    """Return the position that an id tells, as a tap takes it."""
    return event_id.removesuffix(_END).partition("-")[2]


def position_in(text: str, mark: str) -> Mapping[int, int] | None:
    """Return the next offset per partition that an id tells; None if it tells nothing about this topic in this log.

    Args:
        text: The id that a client brought.
        mark: What the ids of the topic begin with.
    """
    match = _ID.fullmatch(text) if len(text) <= LIMIT_CHARACTERS else None
    if match is None or match[1] != mark:
        return None
    pairs = (pair.split(":") for pair in match[2].split("."))
    return {int(number): int(offset) for number, offset in pairs}
