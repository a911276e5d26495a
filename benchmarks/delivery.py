"""The rows of delivery that can be trusted: a command with an insert and an event, committed durably. As a program it measures one database."""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import anyio
import msgspec
from sqlalchemy import MetaData, Table, create_engine, insert

from benchmarks._rows import CannotRun, Row, Spec, python, run
from benchmarks.floors.two_inserts import Floor
from benchmarks.shop.service import Place, ledger, shop
from fissile import App, Settings

FLOOR = "two inserts with SQLAlchemy in threads, committed durably"
DATABASES = ("sqlite", "postgresql")
AT_ONCE = (1, 32)
SECONDS = 0.4
WAITING = 100_000
GROWTH_BOUND_MIB = 100
BODY = msgspec.json.encode({"name": "waiting".ljust(4000)})
"""All of them together have 400 MB, four times what a process may grow by."""
DRAIN_S = 1800.0


def rows(rounds: int) -> list[Row]:
    """Measure on each database, in a process of its own."""
    found: list[Row] = []
    for database in DATABASES:
        rates = {
            count: Spec(
                f"a command with an insert and an event, {count} at once, {database}", FLOOR, "/s", 0.7, at_least=True
            )
            for count in AT_ONCE
        }
        latency = Spec(f"from the reply to the subscriber, through the outbox, p50, {database}", FLOOR, "ms", 3.0)
        memory = Spec(
            f"{WAITING} events of {len(BODY)} bytes waiting in the outbox: growth while they drain into the log in a file, {database}",
            "100 MiB",
            "MiB",
            1.0,
        )
        try:
            taken: dict[str, Any] = json.loads(run(python("-m", "benchmarks.delivery", database, str(rounds))))
            grown: float = json.loads(run(python("-m", "benchmarks.delivery", database, "drain")))
        except CannotRun as error:
            found += [spec.cannot(str(error)) for spec in (*rates.values(), latency, memory)]
            continue
        found += [spec.row(taken[f"{count} at once"]) for count, spec in rates.items()]
        found += [latency.row(taken["latency"]), memory.row([(grown, GROWTH_BOUND_MIB)])]
    return found


# --- the measuring process -------------------------------------------------------------------------------------------


async def rate(do: Any, count: int) -> float:
    """Have something done by so many tasks for a while; return how often it was done, per second."""
    done = 0
    end = perf_counter() + SECONDS

    async def work() -> None:
        nonlocal done
        while perf_counter() < end:
            await do(f"order {done}")
            done += 1

    begun = perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(count):
            tasks.start_soon(work)
    return done / (perf_counter() - begun)


async def p50_ms(do: Any, times: int) -> float:
    """Return the median time that something takes, in ms."""
    taken: list[float] = []
    for number in range(times):
        begun = perf_counter()
        await do(f"order {number}")
        taken.append(perf_counter() - begun)
    return median(taken) * 1000


class Subscriber:
    """Waits for the subscriber to hear of an order."""

    def __init__(self, app_bus: Any) -> None:
        self.bus = app_bus
        self.heard: dict[str, anyio.Event] = {}

    def told(self, name: str) -> None:
        """Note that the subscriber has heard of an order."""
        if name in self.heard:
            self.heard[name].set()

    async def latency_ms(self, times: int) -> float:
        """Return the median time from the reply to the subscriber, in ms."""
        taken: list[float] = []
        for number in range(times):
            event = self.heard[f"latency {number}"] = anyio.Event()
            await self.bus.execute(Place(f"latency {number}"))
            begun = perf_counter()
            await event.wait()
            taken.append(perf_counter() - begun)
        return median(taken) * 1000


async def measure(settings: Settings, floor_url: str, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Measure by turns."""
    pairs: dict[str, list[tuple[float, float]]] = {**{f"{count} at once": [] for count in AT_ONCE}, "latency": []}
    subscriber = Subscriber(None)
    floor = Floor(floor_url)
    async with App([shop()], settings=settings) as app:

        async def place(name: str) -> None:
            await app.bus.execute(Place(name))

        for number in range(rounds + 1):
            for count in AT_ONCE:
                pair = (await rate(place, count), await rate(floor.place, count))
                if number:
                    pairs[f"{count} at once"].append(pair)
    async with App([shop(), ledger(subscriber.told)], settings=settings) as app:
        subscriber.bus = app.bus
        for number in range(rounds + 1):
            pair = (await subscriber.latency_ms(40), await p50_ms(floor.place, 40))
            if number:
                pairs["latency"].append(pair)
    return pairs


async def drain(settings: Settings, url: str) -> float:
    """Return by how many MiB a process grows while the events that wait in its outbox drain, through the log, to a subscriber."""
    heard = 0

    def told(_name: str) -> None:
        nonlocal heard
        heard += 1

    async with App([shop(), ledger(told)], settings=settings) as app:
        await app.bus.execute(Place("first"))
        with anyio.fail_after(10):
            while not heard:
                await anyio.sleep(0.01)
    fill(url)
    gc.collect()
    heard = 0
    before = most = resident_mib()
    async with App([shop(), ledger(told)], settings=settings):
        with anyio.fail_after(DRAIN_S):
            while heard < WAITING:
                await anyio.sleep(0.02)
                most = max(most, resident_mib())
    return most - before


def fill(url: str) -> None:
    """Put events into the outbox, as if they had been committed while the log was away."""
    engine = create_engine(url)
    table = Table(
        "fissile_outbox", MetaData(), autoload_with=engine, schema="shop" if url.startswith("postgresql") else None
    )
    headers = msgspec.msgpack.encode((("ce_specversion", b"1.0"), ("ce_type", b"shop.placed")))
    with engine.begin() as connection:
        for first in range(0, WAITING, 1000):
            rows = [
                {"topic": "shop.placed", "record_key": b"%d" % (number % 100), "body": BODY, "headers": headers}
                for number in range(first, first + 1000)
            ]
            connection.execute(insert(table), rows)
    engine.dispose()


def resident_mib() -> float:
    """Return the resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Measure in this process and print it."""
    database, what = sys.argv[1:]
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(dir=os.environ.get("FISSILE_BENCH_FOLDER")) as folder:
        values: dict[str, Any] = {"database": f"sqlite:///{folder}/data", "database_migrate": True}
        url, own = f"sqlite:///{folder}/floor.sqlite3", f"sqlite:///{folder}/data/shop.sqlite3"
        if database == "postgresql":
            from tests.brokers.postgres import server_url

            server = server_url()
            if server is None:
                raise SystemExit("there is no PostgreSQL here (see tests/brokers/postgres.py)")
            values["database"] = server
            url = own = server.replace("postgresql://", "postgresql+psycopg://")
        if what == "drain":  # the log in memory would hold all of it, and forget it
            values["bus"] = f"sqlite:///{folder}/log.sqlite3"
        Path(folder, "data").mkdir(exist_ok=True)
        settings = Settings(**values)
        found: Any = (
            anyio.run(drain, settings, own) if what == "drain" else anyio.run(measure, settings, url, int(what))
        )
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
