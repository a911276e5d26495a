"""A process that runs sagas until they have ended, and that kills itself on the way.

`python -m tests.sagas.program BACKEND DATABASE KILL COUNT SEED`: DATABASE is the setting FISSILE_DATABASE; SEED says which sagas, 0 for one of
each kind of step.

KILL is `never`, `steps` (at the COUNT-th commit of a step of a saga) or `commits` (at the COUNT-th commit of any kind); it is killed before the
commit where COUNT is odd, and after it where it is even.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from random import Random
from threading import Lock
from typing import Any

import anyio
from sqlalchemy import insert, select

from fissile import Module
from fissile.database import Database, Saga, _lease, _saga_effects, _saga_journal, _saga_rows, _saga_run
from fissile.database._store import Store
from tests.sagas.shop import (
    Balance,
    Charge,
    Closed,
    Place,
    Placed,
    Refund,
    Ship,
    Shop,
    Stand,
    checkout,
    closed,
    notes,
    running,
    shipped,
    write_note,
)

SAGAS = {"good": 1, "bad": 13}
"""What the orders are, and their totals; one of 13 fails at its end."""

KINDS = ("execute", "ask", "gather", "on-failure", "transaction", "ship", "sleep", "publish")


def plan(seed: int) -> list[str]:
    """The steps of the sagas: one of each kind for seed 0, random ones otherwise."""
    return list(KINDS) if seed == 0 else Random(seed).choices(KINDS, k=10)


def effects_of(seed: int) -> list[str]:
    """What `pay` writes down for the sagas."""
    found = list[str]()
    for name, total in SAGAS.items():
        for number, kind in enumerate(plan(seed)):
            step, fails = f"{name} {number}", total == 13
            found += [f"charge {step}"] * (kind == "execute") + [f"refund {step}"] * (kind == "execute" and fails)
            found += [f"charge {step}.{member}" for member in range(3) if kind == "gather"]
            found += [f"refund {step} by hand"] * (kind == "on-failure" and fails) + [f"ship {step}"] * (kind == "ship")
    return sorted(found)


def notes_of(seed: int) -> list[str]:
    """What `orders` writes down for the sagas."""
    steps = [(f"{name} {number}", kind) for name in SAGAS for number, kind in enumerate(plan(seed))]
    noted = [f"note {step}" for step, kind in steps if kind == "transaction"]
    return sorted(noted + [f"closed {step}" for step, kind in steps if kind == "publish"])


async def do(kind: str, step: str, saga: Saga) -> None:
    """One step."""
    match kind:
        case "execute":
            await saga.execute(Charge(step), undo=Refund(step))
        case "ask":
            await saga.ask(Balance(step))
        case "gather":
            await saga.gather([Charge(f"{step}.{member}") for member in range(3)], limit=2)
        case "on-failure":
            await saga.on_failure(Refund(f"{step} by hand"))
        case "transaction":
            await saga.transaction(write_note, f"note {step}")
        case "ship":
            await saga.send(Ship(step))
            await saga.wait_for(shipped, key=step)
        case "sleep":
            await saga.sleep(0.05)
        case _:
            await saga.publish(Closed(saga.id, step))


def program(seed: int) -> Callable[[Placed, Saga], Coroutine[Any, Any, None]]:
    """The function of the saga."""

    async def function(order: Placed, saga: Saga) -> None:
        for number, kind in enumerate(plan(seed)):
            await do(kind, f"{order.id} {number}", saga)
        if order.total == 13:
            raise ValueError("unlucky")

    return function


def declare(module: Module, seed: int, all_written: anyio.Event) -> None:
    """Declare the saga, a subscriber that writes down what it publishes, once, and who looks whether all is written."""
    checkout(program(seed))(module)

    @module.subscribe(closed)
    async def write_down(event: Closed, database: Database) -> None:
        async with database.transaction() as tx:
            await tx.execute(insert(notes).values(text=f"closed {event.text}"))

    @module.worker
    async def look(database: Database) -> None:
        found: list[str] | None = None
        while found is None or sorted(found) != notes_of(seed):
            await anyio.sleep(0.02)
            found = list((await database.read(select(notes.c.text))).scalars())
        all_written.set()

    _ = write_down, look


async def main(url: str, seed: int) -> None:
    """Start the sagas, unless they are, and wait for them."""
    all_written = anyio.Event()
    async with running(Shop(), partial(declare, seed=seed, all_written=all_written), url, saga_claim_s=0.3) as app:
        for name, total in SAGAS.items():
            await app.bus.execute(Place(name, total), id=f"place {name}")
        for name in SAGAS:
            with anyio.fail_after(30):
                while (found := await app.bus.ask(Stand(name))) is None or found.status not in (
                    "completed",
                    "compensated",
                ):
                    await anyio.sleep(0.02)
        with anyio.fail_after(30):
            await all_written.wait()


def arm(kill: str, count: int) -> None:
    """Let the process kill itself at a commit."""
    left, lock = [count], Lock()
    save, commit = _saga_rows.save_steps, Store._commit

    def note_steps(connection: Any, *rest: Any) -> None:
        connection.info["saves"] = True  # the commit may come in another thread
        save(connection, *rest)

    def count_commit(self: Any, place: Any, connection: Any, **options: Any) -> None:
        saves = connection.info.pop("saves", False)
        is_meant = not options.get("reads") and (kill == "commits" or saves)
        with lock:  # on PostgreSQL several threads commit at a time
            left[0] -= is_meant
            is_the_one = is_meant and left[0] == 0
        if is_the_one and count % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        commit(self, place, connection, **options)
        if is_the_one:
            os.kill(os.getpid(), signal.SIGKILL)

    if kill != "never":
        for module in (_saga_effects, _saga_journal, _saga_run):
            module.save_steps = note_steps  # type: ignore[attr-defined]
        Store._commit = count_commit  # type: ignore[method-assign]


if __name__ == "__main__":
    # After each kill nobody relays until the lease of the dead process has run out.
    setattr(_lease, "LEASE_S", 0.6)  # noqa: B010 -- it is a constant to the type checker
    setattr(_lease, "_RENEW_S", 0.3)  # noqa: B010
    arm(sys.argv[3], int(sys.argv[4]))
    anyio.run(main, sys.argv[2], int(sys.argv[5]), backend=sys.argv[1])
