"""The differential test proves itself: for each rule of meaning, a divergence that is planted in one placement is found.

The comparison is the one that `test_placements.py` makes between one process and a split over Kafka. Here both sides are in this process, over
a log in memory: one whose calls stay in the process, one whose calls go through the log. So a plant takes a moment, and is in one side only.

What a rule says beyond this is not to be seen by comparing two runs, and is held elsewhere:

- 1, unknown fields are passed over: whoever calls with the bus sends none. tests/runtime/test_topics.py.
- 4, a request that waits in the log is not begun when its caller has gone: whether it would have begun is a matter of time.
  tests/remote/test_remote.py.
- 4, the default deadline ends a call: that it is there is seen, its 30 s are not waited for. tests/runtime/test_deadlines.py, tests/remote/.
- 5, a handler has to say how it bears a repeat: a fault at start, before there is a placement. tests/runtime/test_startup.py.
- 7, commands and queries have bounds of their own: who waits for whom is a matter of time. tests/runtime/test_bounds.py.
- 11, keys run concurrently, a full window pauses its partition: a matter of time. tests/runtime/test_topics.py.
- 13, a rebalance between processes, a crash over Kafka: here one process crashes, over a log in memory; those of a split
  are killed in tests/faults/.
- 15, what is kept across a stop: belongs to the transport that is configured, not to the placement. tests/conformance/,
  tests/runtime/test_offsets.py.
- 16, readiness, restarts with backoff, the drain: whoever runs a process sees them, not its callers.
  tests/runtime/test_process.py, tests/faults/.
- 17, a test owns the clock: the processes of a split have their own. tests/runtime/test_failures.py.
"""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import attrs
import pytest

from tests.placements import plants_of_calls, plants_of_topics
from tests.placements.history import Difference, History, differences, perform
from tests.placements.planting import PLANTS, Plant
from tests.placements.sides import EARLY_KEY, SETTINGS, InProcess, in_process
from tests.placements.workload import Operation, generate

FILES = (plants_of_calls, plants_of_topics)
"""They have declared what is in PLANTS."""

SEEDS = range(100)
"""Those of the comparison with a split."""
TRIES = 5
PATIENCE_S = 20.0
PLANTED_PATIENCE_S = 0.7
"""How long to wait on the planted side, where what is waited for may never come."""
LINGER_S = 0.3
NOT_TO_BE_SEEN = {15}

_histories: dict[tuple[str, InProcess, int], History] = {}


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Without uvloop, which is asyncio to everything that is planted."""
    return request.param, {}


_getsourcelines = cache(inspect.getsourcelines)


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    """Starts look up once where each class is defined, and nobody writes down the tracebacks of what fails on purpose."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "getsourcelines", _getsourcelines)
        logging.disable(logging.CRITICAL)
        yield
        logging.disable(logging.NOTSET)


def test_a_divergence_is_planted_for_each_rule_that_can_be_seen() -> None:
    assert {plant.rule for plant in PLANTS} | NOT_TO_BE_SEEN == set(range(1, 18))
    assert {plant.rule for plant in PLANTS} & NOT_TO_BE_SEEN == set()


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: f"{plant.rule:02}-{plant.name.replace(' ', '-')}")
async def test_a_planted_divergence_is_found(plant: Plant, anyio_backend: Any) -> None:
    if anyio_backend[0] not in plant.backends:
        pytest.skip("there is no such thing on this event loop")
    other: InProcess = "loopback" if plant.side == "local" else "local"
    seeds = suited_seeds(plant, anyio_backend[0])
    found: list[Difference] = []
    for seed in seeds:
        expected = await clean(anyio_backend[0], other, seed)
        assert differences(expected, await clean(anyio_backend[0], plant.side, seed)) == [], (
            f"seed {seed}, nothing planted"
        )
        planted = await planted_history(plant, seed)
        found += differences(expected, planted)
        if any(one.observation == plant.seen_in and plant.shows in one.found for one in found):
            return
    pytest.fail(f"not found with the seeds {seeds}; what was found: {found}")


def workload(plant_side: InProcess, seed: int, **more: Any) -> list[Operation]:
    return generate(seed, 8, crashes=True, strays=plant_side != "repeats", **more)


def suited_seeds(plant: Plant, backend: str) -> list[int]:
    """The seeds whose workload has what the plant needs: the quick ones first, and of those the ones whose history is known."""
    suited = [
        (is_slow, (backend, plant.side, seed) not in _histories, seed)
        for seed, is_slow, text in described(plant.side == "repeats")
        if re.search(plant.needs, text)
    ]
    return [seed for _, _, seed in sorted(suited)[:TRIES]]


@cache
def described(are_repeated: bool) -> list[tuple[int, bool, str]]:
    """Each seed with whether its workload takes long, and with the workload as text."""
    workloads = [(seed, workload("repeats" if are_repeated else "local", seed)) for seed in SEEDS]
    return [
        (seed, any(one.kind in ("crash", "send") for one in operations), repr(operations))
        for seed, operations in workloads
    ]


async def clean(backend: str, side: InProcess, seed: int) -> History:
    """What a workload comes to where nothing is planted."""
    place = backend, side, seed
    if place not in _histories:
        _histories[place] = await run(side, workload(side, seed), seed, PATIENCE_S)
    return _histories[place]


async def planted_history(plant: Plant, seed: int) -> History:
    with pytest.MonkeyPatch.context() as patch:
        plant.into(patch)
        return await run(plant.side, workload(plant.side, seed, linger_s=LINGER_S), seed, PLANTED_PATIENCE_S)


async def run(side: InProcess, operations: list[Operation], seed: int, patience_s: float) -> History:
    # What a plant leaves undone is not to be waited for.
    settings = attrs.evolve(SETTINGS, drain_s=5.0 if patience_s == PATIENCE_S else 0.05)
    async with in_process(side, settings, patience_s) as running:
        history = await perform(running, operations, seed, patience_s)
        if running.early:
            history.followed[EARLY_KEY] = running.early
        return history
