"""What a program writes, on its way to those who watch it."""

from collections import deque
from collections.abc import AsyncGenerator

import anyio
from attrs import define, field

PIECES_MAX = 16


@define(eq=False)
class Live:
    """Pieces of output that wait to be told.

    A program may write faster than anybody can be told, and a byte at a time. Where pieces have to wait, they become
    longer and not more, so that neither our memory nor the number of messages is the program's to choose. Within a
    stream, the order is kept.
    """

    _waiting: deque[tuple[str, list[str]]] = field(factory=deque[tuple[str, list[str]]], init=False)
    _news: anyio.Event = field(factory=anyio.Event, init=False)
    _is_over: bool = field(default=False, init=False)

    def add(self, stream: str, text: str) -> None:
        """Have something told. Does not wait."""
        newest = None
        if len(self._waiting) >= PIECES_MAX:
            newest = next((texts for name, texts in reversed(self._waiting) if name == stream), None)
        if newest is None:
            self._waiting.append((stream, [text]))
        else:
            newest.append(text)
        self._news.set()

    def close(self) -> None:
        """Say that nothing more will come."""
        self._is_over = True
        self._news.set()

    async def pieces(self) -> AsyncGenerator[tuple[str, str]]:
        """Yield stream and text, piece by piece, until all is told and nothing more will come."""
        while True:
            while self._waiting:
                stream, texts = self._waiting.popleft()
                yield stream, "".join(texts)
            if self._is_over:
                return
            await self._news.wait()
            self._news = anyio.Event()
