"""What AnyIO has no cheap word for: call a function soon, in no task."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVarTuple

import sniffio

Arguments = TypeVarTuple("Arguments")


def call_soon(function: Callable[[*Arguments], object], *arguments: *Arguments) -> None:
    """Call a function in the next turn of the running event loop. It must not raise."""
    if sniffio.current_async_library() == "trio":
        import trio

        trio.lowlevel.current_trio_token().run_sync_soon(function, *arguments)
    else:
        import asyncio

        asyncio.get_running_loop().call_soon(function, *arguments)
