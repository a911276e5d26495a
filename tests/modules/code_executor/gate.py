"""A door in front of an engine: what goes through it can be cut off, and let through again. As a program, it is the door."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Self


class Gate:
    """Forwards connections to a unix socket while it is open. A context manager.

    Args:
        path: Where to listen.
        target: Where to forward to.
    """

    def __init__(self, path: Path, target: str) -> None:
        self.address = f"unix://{path}"
        self._path = path
        self._target = target
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> None:
        self._process = subprocess.Popen([sys.executable, __file__, str(self._path), self._target])
        until_s = time.monotonic() + 20
        while not self._path.exists():
            assert time.monotonic() < until_s, "the gate does not open"
            time.sleep(0.01)

    def close(self) -> None:
        """Cut everything off: for whoever is outside, the engine has died."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
        target.write_eof()


async def _main(path: str, target: str) -> None:
    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(target)
        await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))
        for end in (writer, inner_writer):
            end.close()

    server = await asyncio.start_unix_server(forward, path + ".new")
    os.rename(path + ".new", path)  # noqa: PTH104 -- a moment; whoever sees it can connect
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
