"""What an HTTP/2 client may send, counted by the headers of its frames.

The library `h2` knows the protocol, and that is not enough: floods consist of frames that are all allowed. A PING costs the client nine bytes
and us an answer; so do SETTINGS, and a request that is reset before it is answered costs us all of its work (CVE-2019-9511 to 9518,
CVE-2023-44487, CVE-2024-27316). So each kind has a budget, which grows with time and with what the client is really served.
"""

from __future__ import annotations

from collections.abc import Callable

DATA, HEADERS, RST_STREAM, CONTINUATION = 0, 1, 3, 9
_END_STREAM, _END_HEADERS = 0x1, 0x4
_HEADER_BYTES = 9
_PREFACE_BYTES = 24

_CONTROL_BURST, _CONTROL_PER_S = 200.0, 20.0
_RESET_BURST, _RESET_PER_S = 100.0, 10.0
_CONTINUATIONS = 8


class Flood(Exception):
    """Raised when a client sent more than it may; the text is for its GOAWAY frame and the log."""


class Budget:
    """So many of something at once, and so many more each second.

    Args:
        burst: How many at once.
        per_s: How many more each second.
        clock: Returns seconds.
    """

    def __init__(self, burst: float, per_s: float, clock: Callable[[], float]) -> None:
        self._burst = burst
        self._left = burst
        self._per_s = per_s
        self._clock = clock
        self._at = clock()

    def earn(self, count: float) -> None:
        """Add to it."""
        self._left = min(self._burst, self._left + count)

    def spend(self) -> bool:
        """Take one; return False if there is none."""
        self._left -= 1
        if self._left < 0:
            now = self._clock()
            self._left = min(self._burst, self._left + (now - self._at) * self._per_s)
            self._at = now
        return self._left >= 0


class FrameMeter:
    """Reads the headers of frames as they come, in pieces of any size.

    Attributes:
        is_inside: Whether a frame, or a request's head, has begun and not ended.

    Args:
        max_head_bytes: The size of a request's head, compressed.
        clock: Returns seconds.
    """

    def __init__(self, max_head_bytes: int, clock: Callable[[], float]) -> None:
        self._max_head_bytes = max_head_bytes
        self._control = Budget(_CONTROL_BURST, _CONTROL_PER_S, clock)
        self._resets = Budget(_RESET_BURST, _RESET_PER_S, clock)
        self._skip = _PREFACE_BYTES  # bytes of the frame in hand that are still to come
        self._header = b""
        self._head_bytes = 0
        self._continuations = 0
        self._in_head = False

    @property
    def is_inside(self) -> bool:
        """Whether a frame, or a request's head, has begun and not ended."""
        return self._in_head or bool(self._skip) or bool(self._header)

    def served(self) -> None:
        """Note that a piece of an answer was sent, for which a client may send frames of its own."""
        self._control.earn(2)

    def answered(self) -> None:
        """Note that a request was answered."""
        self._control.earn(5)
        self._resets.earn(1)

    def feed(self, data: bytes) -> None:
        """Count the frames that begin in some bytes.

        Raises:
            Flood: There are too many of a kind.
        """
        position, end = 0, len(data)
        while position < end:
            if self._skip:
                step = min(self._skip, end - position)
                self._skip -= step
                position += step
                continue
            part = data[position : position + _HEADER_BYTES - len(self._header)]
            position += len(part)
            self._header += part
            if len(self._header) == _HEADER_BYTES:
                header, self._header = self._header, b""
                self._skip = int.from_bytes(header[:3], "big")
                self._judge(header[3], header[4], self._skip)

    def _judge(self, kind: int, flags: int, size: int) -> None:
        if kind == HEADERS or (kind == CONTINUATION and self._in_head):
            self._judge_head(kind, flags, size)
        elif kind == RST_STREAM:
            if not self._resets.spend():
                raise Flood("too many requests were reset")
        elif kind != DATA:
            if not self._control.spend():
                raise Flood("too many control frames")
        elif not size and not flags & _END_STREAM and not self._control.spend():
            raise Flood("too many empty frames")

    def _judge_head(self, kind: int, flags: int, size: int) -> None:
        if kind == HEADERS:
            self._head_bytes, self._continuations = 0, 0
        else:
            self._continuations += 1
        self._head_bytes += size
        if self._continuations > _CONTINUATIONS:
            raise Flood("a request's head has too many pieces")
        if self._head_bytes > self._max_head_bytes:
            raise Flood(f"a request's head is larger than {self._max_head_bytes} bytes")
        self._in_head = not flags & _END_HEADERS
