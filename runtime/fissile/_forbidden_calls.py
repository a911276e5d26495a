"""Rule 9: within a transaction no module is called."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

no_calls: ContextVar[str | None] = ContextVar("fissile.no_calls", default=None)
forbidden_in: set[object] = set()
"""The blocks of `forbid_calls` that are open anywhere; while there is none, no call has to look at its context."""


@contextmanager
def forbid_calls(reason: str) -> Generator[None]:
    """Refuse calls to modules within the block: for resources that hold a transaction open.

    In one process a call inside a transaction would see its effects and could deadlock with it; in two processes it would do neither. So it
    is refused in every placement.

    Args:
        reason: What is going on, such as `a transaction of orders is open`.
    """
    block = ForbiddenCalls(reason)
    try:
        yield
    finally:
        block.end()


class ForbiddenCalls:
    """Calls to modules are refused from its creation until `end()`, in the context where it was made.

    Args:
        reason: What is going on.
    """

    __slots__ = ("_before",)

    def __init__(self, reason: str) -> None:
        self._before = no_calls.get()
        no_calls.set(reason)
        forbidden_in.add(self)

    def end(self) -> None:
        """Allow them again."""
        forbidden_in.discard(self)
        no_calls.set(self._before)
