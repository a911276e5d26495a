"""Which event loops the tests run on: on all, unless the command line asks for one.

`--loop trio` runs each test on Trio, and one that does not know Trio on what it knows: whatever loop is asked for, no test is left out. So
the lines of CI, which share the tests out, cover each of them (`.ci/lines.py`).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import pytest

LOOPS = ("asyncio", "uvloop", "trio")
_LOOP = re.compile(rf"(?<=[\[-])({'|'.join(LOOPS)})(?=[\]-])")


def add_options(parser: pytest.Parser) -> None:
    """Add the options that choose."""
    group = parser.getgroup("event loops")
    group.addoption(
        "--loop", help="run each test on this event loop only, or on these with commas between them, where it can"
    )
    group.addoption(
        "--all-loops",
        default="",
        help="folders whose tests run on all event loops all the same, with commas between them",
    )


def loop_of(name: str) -> str | None:
    """Return the event loop that is named in the name of a test, or None."""
    found = _LOOP.search(name)
    return found[1] if found else None


def chosen(names: Sequence[str], loops: Collection[str], everywhere: Collection[str] = ()) -> set[str]:
    """Return those of the names of tests that run.

    Args:
        names: All of them, as pytest writes them: `tests/folder/test_file.py::test_name[trio-other]`.
        loops: The event loops that are asked for.
        everywhere: Folders whose tests run on all.
    """
    kept: set[str] = set()
    others: dict[str, str] = {}
    for name in names:
        loop = loop_of(name)
        if loop is None or loop in loops or any(name.startswith(f"{folder}/") for folder in everywhere):
            kept.add(name)
        else:
            others.setdefault(_LOOP.sub("*", name), name)
    known = {_LOOP.sub("*", name) for name in kept}
    return kept | {name for test, name in others.items() if test not in known}


def choose(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what the command line did not ask for."""
    asked: str | None = config.getoption("--loop")
    if asked is None:
        return
    loops = asked.split(",")
    unknown = [loop for loop in loops if loop not in LOOPS]
    if unknown:
        raise pytest.UsageError(f"--loop: there is no {unknown[0]!r}; there are {', '.join(LOOPS)}.")
    everywhere = [folder for folder in str(config.getoption("--all-loops")).split(",") if folder]
    kept = chosen([item.nodeid for item in items], loops, everywhere)
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in kept])
    items[:] = [item for item in items if item.nodeid in kept]
