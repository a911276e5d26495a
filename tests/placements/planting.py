"""Divergences that are planted: each makes one placement break one rule of meaning, so that the differential test has something to find.

A plant changes private parts of the runtime while one side runs, never while the other does. Its rule has the number that it has in
docs/semantics.md.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import frozen

from tests.placements.history import Observation
from tests.placements.sides import InProcess

Patch = pytest.MonkeyPatch

ENDS_WELL = r"(, '(publish:[a-z]+|mood|word|call:1|turn|id|child|budget)')*,?\)"
"""What may follow a step of a handler that succeeds."""


@frozen
class Plant:
    """One divergence.

    Attributes:
        rule: The rule that it breaks.
        name: What it does, as a sentence.
        side: The placement in which it is planted; `local` and `loopback` are compared with each other, `repeats` with `local`.
        into: Plants it.
        needs: What a workload has to contain so that it can show, as a regular expression.
        seen_in: The observation that finds it.
        shows: What the difference has in it, on the planted side.
        backends: The event loops on which it can be planted.
    """

    rule: int
    name: str
    side: InProcess
    into: Callable[[Patch], None]
    needs: str
    seen_in: Observation
    shows: str
    backends: tuple[str, ...] = ("asyncio", "trio")


PLANTS: list[Plant] = []


def plant(
    rule: int,
    side: InProcess,
    needs: str = "",
    *,
    seen_in: Observation = "outcomes",
    shows: str,
    backends: tuple[str, ...] = ("asyncio", "trio"),
) -> Callable[[Callable[[Patch], None]], Callable[[Patch], None]]:
    """Declare a plant; its name is that of the function."""

    def declare(into: Callable[[Patch], None]) -> Callable[[Patch], None]:
        PLANTS.append(Plant(rule, into.__name__.replace("_", " "), side, into, needs, seen_in, shows, backends))
        return into

    return declare
