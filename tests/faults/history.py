"""What a driver saw, as JSON lines: `invoke`, then `ok`, `fail` or `info` (unknown) per id; when faults began and ended; and
how late the machine was, since what is measured on a busy one has its delays in it.

What was handled is a file of its own, which the processes under test append to. It is the end state: it survives them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

import msgspec
from attrs import define, field

FaultType = Literal["begin", "end", "felt"]
OpType = Literal["invoke", "ok", "fail", "info"]


class Op(msgspec.Struct, frozen=True, tag_field="line", tag="op"):
    """One line about one operation.

    Attributes:
        time: When, on the machine's monotonic clock.
        type: `fail` is what certainly did not happen, `info` what may have happened.
        f: The kind of operation.
        id: Its id.
        key: Its key, where order counts.
        number: Its place among those of its key.
        value: A reply, or the name of an error.
        happened: What an error says of itself.
    """

    time: float
    type: OpType
    f: Literal["command", "event"]
    id: str
    key: str = ""
    number: int = 0
    value: str = ""
    happened: bool | None = None


class Fault(msgspec.Struct, frozen=True, tag_field="line", tag="fault"):
    """One line about a fault: it has begun, or it is over. What has no duration has only the first.

    The end is `felt` where recovery counts from the beginning, as others take over, and what comes back will be felt once more.
    """

    time: float
    type: FaultType
    name: str
    seed: int = 0


class Commit(msgspec.Struct, frozen=True, tag_field="line", tag="commit"):
    """One line about what a group had committed when it was looked at."""

    time: float
    place: str
    offset: int


class Stored(msgspec.Struct, frozen=True, tag_field="line", tag="stored"):
    """One line about a record in the log, which is read from outside once all is over.

    Attributes:
        time: When it was read.
        place: The group that handles it, its topic and its partition, as a `Commit` has them.
        offset: Its place there.
        id: The id of its operation.
    """

    time: float
    place: str
    offset: int
    id: str


class Effect(msgspec.Struct, frozen=True):
    """One line of the end state: what a process handled. The order of the lines is the order in which it happened."""

    f: Literal["command", "event"]
    id: str
    process: int
    attempt: int = 1
    key: str = ""
    number: int = 0
    time: float = 0.0


class Lag(msgspec.Struct, frozen=True, tag_field="line", tag="lag"):
    """One line about the machine: the driver was to go on at a certain time, and went on so much later.

    Attributes:
        time: When it went on.
        late_s: How much later that was, in seconds.
    """

    time: float
    late_s: float


Line = Op | Fault | Commit | Lag | Stored


@define(eq=False)
class History:
    """The file that a driver writes.

    Attributes:
        running: How many operations have begun and not ended.
        done: How many operations have ended.
        acknowledged: The ids of those that ended well.
    """

    path: Path
    running: int = field(default=0, init=False)
    done: int = field(default=0, init=False)
    acknowledged: set[str] = field(factory=set[str], init=False)
    _file: IO[bytes] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._file = self.path.open("wb", buffering=0)

    def write(self, line: Line) -> None:
        """Append a line."""
        self._file.write(msgspec.json.encode(line) + b"\n")
        if isinstance(line, Op) and line.type == "invoke":
            self.running += 1
        elif isinstance(line, Op):
            self.running -= 1
            self.done += 1
            if line.type == "ok":
                self.acknowledged.add(line.id)

    def fault(self, name: str, kind: FaultType = "begin", seed: int = 0) -> None:
        """Note a fault that is injected now, or ends."""
        self.write(Fault(time.monotonic(), kind, name, seed))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@define(eq=False)
class Effects:
    """Follows the file of what was handled while processes append to it."""

    path: Path
    ids: set[str] = field(factory=set[str], init=False)
    count: int = field(default=0, init=False)
    _position: int = field(default=0, init=False)

    def look(self) -> set[str]:
        """Return the ids of all that was handled by now."""
        if self.path.exists():
            with self.path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self._position += len(whole)
            for line in whole.splitlines():
                self.ids.add(msgspec.json.decode(line, type=Effect).id)
                self.count += 1
        return self.ids

    def all(self) -> list[Effect]:
        """Return all that was handled by now."""
        return read_effects(self.path)


def append_effect(path: str, effect: Effect) -> None:
    """Append a line to a file that several processes append to; it survives the process from then on."""
    descriptor = _open(path)
    os.write(descriptor, msgspec.json.encode(effect) + b"\n")


_descriptors: dict[str, int] = {}


def _open(path: str) -> int:
    if path not in _descriptors:
        _descriptors[path] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    return _descriptors[path]


def read_history(path: Path) -> Iterator[Line]:
    """Yield the lines of a history."""
    decoder = msgspec.json.Decoder(Line)
    for line in path.read_bytes().splitlines():
        yield decoder.decode(line)


def read_effects(path: Path) -> list[Effect]:
    """Return the lines of an end state; a process may have died in the middle of the last one."""
    if not path.exists():
        return []
    decoder = msgspec.json.Decoder(Effect)
    return [decoder.decode(line) for line in path.read_bytes().split(b"\n")[:-1]]
