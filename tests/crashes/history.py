"""What the client of a test saw, as JSON lines: what it asked for, and each outcome of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO, Literal

import msgspec
from attrs import define, field

Kind = Literal["execute", "send"]
What = Literal["ask", "reply", "declared", "stored", "unknown", "death", "start"]


class Op(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line.

    Attributes:
        time: When, on the machine's monotonic clock.
        what: `ask` is one try; the others are what it came to. `death` and `start` are those of the process.
        id: The command's id.
        key: Its key.
        number: Its place among those of its key.
        kind: Whether it is executed or sent.
        value: The token of a reply or of a declared error; why an outcome is unknown; how the process died.
    """

    time: float
    what: What
    id: str = ""
    key: str = ""
    number: int = 0
    kind: Kind = "execute"
    value: str = ""


@define(eq=False)
class History:
    """The file."""

    path: Path
    acknowledged: int = field(default=0, init=False)
    _file: IO[bytes] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._file = self.path.open("wb", buffering=0)

    def write(
        self, what: What, name: str = "", key: str = "", number: int = 0, kind: Kind = "execute", value: str = ""
    ) -> None:
        """Append a line."""
        self._file.write(msgspec.json.encode(Op(time.monotonic(), what, name, key, number, kind, value)) + b"\n")
        self.acknowledged += what in ("reply", "declared", "stored")

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_history(path: Path) -> list[Op]:
    """Return all lines."""
    return [msgspec.json.decode(line, type=Op) for line in path.read_bytes().splitlines()]
