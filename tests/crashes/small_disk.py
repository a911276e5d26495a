"""A process whose disk is full for a while: `python -m tests.crashes.small_disk DISK LOG BACKEND`, in a mount namespace of its own.

The databases are on the small disk, and the log where it is told. What became of it is one JSON object on stdout.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from time import monotonic

import anyio

from fissile import App, CallError, HandlerFailed, Settings
from tests.crashes.modules import Note, Place, has_reminder, is_sold_out, make_ledger, make_orders
from tests.crashes.state import rows, waiting

PATIENCE_S = 60.0
ROOM_BYTES = 200_000
REFUSALS = 8
"""How many commands have to be refused before there is room again."""


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    end = monotonic() + PATIENCE_S
    while not condition():
        assert monotonic() < end, f"waited in vain until {what}"
        await anyio.sleep(0.02)


def fill(path: Path) -> int:
    """Write a file until there is room on the disk for a few transactions only; return its size."""
    size = 0
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for piece in (b"x" * 65_536, b"x" * 4096, b"x"):
            try:
                while written := os.write(file, piece):
                    size += written
            except OSError:
                continue
        size -= ROOM_BYTES
        os.ftruncate(file, size)
    finally:
        os.close(file)
    return size


class Load:
    """Commands, one after the other, and what each came to."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.number = 0
        self.acknowledged: dict[str, str] = {}
        self.sent: list[str] = []
        self.refusals: list[str] = []
        self.send_refusals: list[str] = []

    async def one(self) -> None:
        """Execute a command, and send one."""
        self.number += 7  # none is sold out
        assert not is_sold_out(self.number)
        name = f"p{self.number}"
        try:
            self.acknowledged[name] = await self.app.bus.execute(Place("a", self.number), id=name)
        except CallError as error:
            kind = error.error_type if isinstance(error, HandlerFailed) else type(error).__name__
            self.refusals.append(f"{kind}: {error}")
        try:
            await self.app.bus.send(Note("n", self.number), id=f"n{self.number}")
            self.sent.append(f"n{self.number}")
        except CallError as error:
            self.send_refusals.append(f"{type(error).__name__}: {error}")


def problems(app: App) -> list[str]:
    """Return what readiness says."""
    return [f"{check.name}: {check.problem}" for check in app.checks() if check.problem is not None]


async def live(disk: Path, log: str, backend: str) -> dict[str, object]:
    """Be well, be full, be well again."""
    settings = Settings(
        bus=f"sqlite:///{log}",
        database=f"sqlite:///{disk / 'data'}",
        database_migrate=True,
        partitions=2,
        commit_interval_s=0.05,
        drain_s=5.0,
    )
    said: set[str] = set()
    async with App([make_orders(), make_ledger(is_cured=True)], settings=settings) as app:
        load = Load(app)
        for _ in range(5):
            await load.one()
        before = len(load.acknowledged)
        filler = disk / "filler"
        size = fill(filler)
        while len(load.refusals) < REFUSALS:
            await load.one()
            said.update(problems(app))
        await until(lambda: problems(app), "readiness says that the disk is full")
        said.update(problems(app))
        during = len(load.acknowledged)
        filler.unlink()
        await until(lambda: not problems(app), "it is well again by itself")
        for _ in range(5):
            await load.one()
        letters = len(await app.dead_letters())
        state = await _settled(settings, load)
        return {
            "filler_bytes": size,
            "acknowledged": [before, during, len(load.acknowledged)],
            "sent": len(load.sent),
            "refusals": sorted(set(load.refusals)),
            "send_refusals": sorted(set(load.send_refusals)),
            "readiness": sorted(said),
            "dead_letters": letters,
            **state,
        }


async def _settled(settings: Settings, load: Load) -> dict[str, object]:
    """Wait until all that was acknowledged has come to all of its effects; tell what is missing, and what is there twice."""
    wanted = {**load.acknowledged, **dict.fromkeys(load.sent, "")}
    missing, twice = [""], [""]
    with anyio.move_on_after(PATIENCE_S):
        while missing:
            await anyio.sleep(0.1)
            found = rows(settings, "orders", "SELECT message_id, token FROM {}orders")
            orders = {str(name): str(token) for name, token in found}
            numbers = rows(settings, "orders", "SELECT message_id, number FROM {}orders")
            tables = {
                "orders": [str(row[0]) for row in numbers],
                "entries": [str(row[0]) for row in rows(settings, "ledger", "SELECT order_id FROM {}entries")],
                "reminders": [str(row[0]) for row in rows(settings, "orders", "SELECT order_id FROM {}reminders")],
            }
            missing = [
                f"{name} {table}" for name in wanted for table in ("orders", "entries") if name not in tables[table]
            ]
            missing += [f"{row[0]} entries" for row in numbers if row[0] not in tables["entries"]]
            missing += [
                f"{name} reminders"
                for name, number in numbers
                if has_reminder(int(str(number))) and name not in tables["reminders"]
            ]
            missing += [f"{name} token" for name, token in load.acknowledged.items() if orders.get(name) != token]
            twice = [
                f"{name} {table}" for table, found in tables.items() for name, n in Counter(found).items() if n > 1
            ]
    return {"missing": missing, "twice": twice, "waiting": waiting(settings)}


def main() -> None:
    """Run, and tell."""
    disk, log, backend = sys.argv[1:]
    found = anyio.run(live, Path(disk), log, backend, backend=backend)
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
