"""The output of a stranger's program: kept up to a cap, decoded with care."""

import codecs

from attrs import define, field


@define
class Capture:
    """One output stream.

    Attributes:
        cap_bytes: How much is kept.
        is_text: Whether somebody may watch; else nothing is decoded as it comes.
        overflowed: More was written than is kept.
    """

    cap_bytes: int
    is_text: bool = True
    overflowed: bool = False
    _kept: bytearray = field(factory=bytearray)
    _live: codecs.IncrementalDecoder = field(factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def add(self, data: bytes) -> str:
        """Keep what fits, and return the text that is new for somebody who watches."""
        part = data[: self.cap_bytes - len(self._kept)]
        self._kept += part
        self.overflowed = self.overflowed or len(part) < len(data)
        return self._live.decode(part) if self.is_text else ""

    def content(self) -> bytes:
        """All that was kept, as it came."""
        return bytes(self._kept)

    def text(self) -> str:
        """All that was kept. Where it was cut, half a character at the end is left off."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        return decoder.decode(bytes(self._kept), final=not self.overflowed)
