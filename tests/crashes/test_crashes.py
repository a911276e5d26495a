"""A process is killed at each named checkpoint and at random times, and started again, under load: no effect is lost and none happens twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from random import Random
from typing import Literal

import anyio
import pytest
from attrs import frozen

from tests.crashes.checkpoints import CHECKPOINTS
from tests.crashes.driver import IS_SOAK, SCALE, SEED, Site, site
from tests.figures import figure

pytestmark = pytest.mark.timeout(7200 if IS_SOAK else 300)

ROUNDS = max(1, round(0.6 * SCALE)) if IS_SOAK else 1
"""How often each checkpoint is hit in each place."""
RANDOM_KILLS = 4 * ROUNDS if IS_SOAK else 2
MATRIX = [
    pytest.param(("sqlite", "sqlite", "asyncio"), id="sqlite-sqlite"),
    pytest.param(("postgresql", "sqlite", "trio"), id="postgresql-sqlite"),
    pytest.param(("sqlite", "kafka", "trio"), id="sqlite-kafka"),
    pytest.param(("postgresql", "kafka", "asyncio"), id="postgresql-kafka"),
]
AT_LEAST = 1000 if IS_SOAK and SCALE >= 10 else 60
"""How many kills there are in all of the matrix."""
RARE = ("schedule", "dead letter", "start", "relay: read")
"""What does not come many times in a second; there a process dies at the first passage."""


def kills(database: str, log: str) -> list[str]:
    """Return where a process is killed in one place of the matrix: at all checkpoints that it has. For every change the two databases share
    them, so that each log has all of them."""
    names = [name for name, one in CHECKPOINTS.items() if one.log in ("", log)]
    if not IS_SOAK:
        names = names[0 if database == "sqlite" else 1 :: 2]
    found = names * ROUNDS + ["random"] * RANDOM_KILLS
    Random(SEED).shuffle(found)
    return found


async def _kill(found: Site, where: list[str]) -> None:
    for name in where:
        if name == "random":
            await found.kill_after(found.random.uniform(0.0, 0.8))
        else:
            await found.kill_at(name, 1 if name.startswith(RARE) else found.random.randint(1, 3))
    await found.finish()


@frozen
class Place:
    """One place of the matrix."""

    database: str
    log: str
    backend: Literal["asyncio", "trio"]
    database_url: str
    bus: str


_killed: dict[str, int] = {}
"""How many kills there were in each place of the matrix that was run to its end."""


@pytest.fixture(params=MATRIX)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """A place of the matrix; its servers run."""
    database, log, backend = request.param
    url = f"sqlite:///{tmp_path / 'data'}" if database == "sqlite" else request.getfixturevalue("postgres")
    file = f"sqlite:///{tmp_path / 'log.sqlite3'}"
    bus = file if log == "sqlite" else f"kafka://{request.getfixturevalue('apache_kafka')}"
    return Place(database, log, backend, url, bus)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # of the client; that of the process that dies is the place's
async def test_effects_happen_once_whenever_the_process_is_killed(
    place: Place, tmp_path: Path, anyio_backend: str
) -> None:
    where = kills(place.database, place.log)
    async with site(tmp_path, database=place.database_url, bus=place.bus, backend=place.backend) as found:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(found.load)
            await _kill(found, where)
        anomalies, came_to = await found.settle()
    _killed[f"{place.database}-{place.log}"] = sum(found.deaths.values())
    figure(
        f"{place.database} database, {place.log} log, {place.backend} [seed {SEED}, scale {SCALE:g}]: "
        f"{sum(found.deaths.values())} kills, {came_to}\n"
        f"  seen through by the inbox: {found.repeats_seen()}; dead letters retried: {found.retried}\n"
        f"  kills per checkpoint: {dict(sorted(found.deaths.items()))}"
    )
    assert anomalies == [], f"{anomalies[:20]}\n{found.log()}"
    assert found.retried
    assert found.deaths == Counter(where)


def test_the_matrix_has_as_many_kills_as_it_should_and_says_which_of_its_places_were_run() -> None:
    """It comes after the places. Those that were not chosen, or whose servers are not there, are named."""
    names = [str(one.id) for one in MATRIX]
    planned = {str(one.id): len(kills(*one.values[0][:2])) for one in MATRIX}  # type: ignore[index]  # a tuple, as above
    assert sum(planned.values()) >= AT_LEAST
    ran = ", ".join(f"{name} ({_killed[name]})" for name in names if name in _killed) or "none"
    missing = ", ".join(name for name in names if name not in _killed) or "none"
    figure(f"crash matrix: {sum(_killed.values())} kills of {sum(planned.values())}; run: {ran}; not run: {missing}")
    if len(_killed) == len(MATRIX):
        assert sum(_killed.values()) >= AT_LEAST
