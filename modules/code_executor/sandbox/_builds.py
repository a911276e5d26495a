"""What compilers have made, kept so that the many test cases of one source compile it once."""

import hashlib
import os
import tempfile
import time
import weakref
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import anyio
import msgspec
from attrs import define, field

ARTIFACT_BYTES = 16 << 20
"""What a compiler makes may not be larger."""


class Artifact:
    """What a compiler made. It lies in a file without a name, in no folder: only this process can reach it, and it ends with this process.

    Nothing here looks into it, executes it or follows it; its bytes go to a jail, which gets a copy of its own.

    Args:
        content: The bytes.

    Raises:
        OSError: There is no room for it.
    """

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        with tempfile.TemporaryFile(buffering=0) as file:
            left = memoryview(content)
            while left:
                left = left[file.write(left) or 0 :]
            self._handle = os.dup(file.fileno())
        # Runs that have it still may outlive its place among those that are kept.
        weakref.finalize(self, os.close, self._handle)

    def part(self, start: int, size: int) -> bytes:
        """Up to so many bytes of it."""
        return os.pread(self._handle, size, start)


class Refusal(msgspec.Struct, frozen=True):
    """That a compiler made nothing.

    Attributes:
        status: Its wait status, None where a limit ended it.
        text: Its messages.
        truncated: There were more.
        duration_ms: How long it took.
        until_s: When this is forgotten: a limit that it came to says something about that moment, too.
    """

    status: int | None
    text: str
    truncated: bool
    duration_ms: float
    until_s: float

    @property
    def size(self) -> int:
        """How much it takes to keep it, about."""
        return len(self.text)


def key_of(*parts: str) -> str:
    """Return a name for what is made of these parts: language, toolchain, commands, source."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


@define
class _Turn:
    """Who is at work on a key, or waits for who is."""

    lock: anyio.Lock = field(factory=anyio.Lock)
    users: int = 0


@define(eq=False)
class Builds:
    """The newest that were used, so many and so many bytes.

    Attributes:
        count_max: How many are kept. Each has an open file.
        bytes_max: How many bytes they may have together; not less than one of them.
        refusals_s: How long a compiler's refusal is kept.
        now_s: The clock for that.
    """

    count_max: int = 128
    bytes_max: int = 64 << 20
    refusals_s: float = 60.0
    now_s: Callable[[], float] = time.monotonic
    _kept: OrderedDict[str, Artifact | Refusal] = field(factory=OrderedDict[str, Artifact | Refusal], init=False)
    _turns: dict[str, _Turn] = field(factory=dict[str, _Turn], init=False)

    def __attrs_post_init__(self) -> None:
        if self.count_max < 1 or self.bytes_max < ARTIFACT_BYTES:
            raise ValueError(
                f"Room for one compiled program is needed: count_max must be 1 or more and bytes_max {ARTIFACT_BYTES} "
                f"or more, not {self.count_max} and {self.bytes_max}."
            )

    @property
    def bytes_kept(self) -> int:
        """How many bytes all that is kept has."""
        return sum(build.size for build in self._kept.values())

    @asynccontextmanager
    async def turn(self, key: str) -> AsyncGenerator[None]:
        """Be the only one at work on a key. Who comes meanwhile waits, and finds what was made.

        If the one at work gives up, the next one has the turn: nobody fails for another's sake.
        """
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                del self._turns[key]

    def find(self, key: str) -> Artifact | Refusal | None:
        """Return what was made, if it is kept."""
        found = self._kept.get(key)
        if isinstance(found, Refusal) and found.until_s <= self.now_s():
            del self._kept[key]
            return None
        if found is not None:
            self._kept.move_to_end(key)
        return found

    def keep(self, key: str, build: Artifact | Refusal) -> None:
        """Keep it, and forget those that were not used for the longest time where there is no room."""
        self._kept[key] = build
        self._kept.move_to_end(key)
        while len(self._kept) > self.count_max or self.bytes_kept > self.bytes_max:
            self._kept.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._kept.clear()
