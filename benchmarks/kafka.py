"""The rows over Kafka: requests, events, the start of a split process, its memory, replicas; on each broker in turn.

What is measured and its floor run side by side, each in processes of its own, and take turns; a fresh broker, or fresh topics, now and then.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence

from attrs import evolve, frozen

from benchmarks import kafka_split
from benchmarks._brokers import BROKERS, Fresh, make_topics
from benchmarks._peers import Peer, peers
from benchmarks._rows import CannotRun, Row, Spec, python
from benchmarks.floors.kafka_log import PARTITIONS
from benchmarks.floors.kafka_requests import REPLY_PARTITIONS

ROUNDS_PER_SESSION = 3
"""After so many rounds there is a fresh broker: the embedded one grows with its history."""

CALLS = {1: 300, 64: 6400, 512: 12800}
"""In one round, by the number in flight."""
FLOOR = "aiokafka by hand"
REQUEST = "request/reply, {} in flight, {}"
LOOPS = {"asyncio": "uvloop", "trio": "Trio, against the floor on uvloop"}
RATE_BOUNDS = {("asyncio", 1): 0.7, ("asyncio", 64): 0.75, ("asyncio", 512): 0.75, ("trio", 512): 0.5}
P50_BOUNDS = {("asyncio", 1): 1.4, ("asyncio", 64): 1.3, ("asyncio", 512): 1.3}

EVENTS = 15_000
AWAITED_EVENTS = 6400
PUBLISHERS = 64
SUSPENDS = "publish to handled, acks not awaited one by one, the handler suspends"
PUBLISH = {
    "many": Spec("publish to handled, acks not awaited one by one", FLOOR, "events/s", 0.6, at_least=True),
    "suspends": Spec(SUSPENDS, FLOOR, "events/s", at_least=True),
    "awaited": Spec(f"publish to handled, {PUBLISHERS} publishers that await", FLOOR, "events/s", at_least=True),
}

WAITING_IN_FLIGHT = 64
WAITING_CALLS = {1: 300, 2: 600, 4: 1200}
"""In one round, by the number of replicas: some 3 s."""
WAITING = "handler waits 20 ms, 2 at a time per replica: {} replicas"
NEAR_LINEAR = 0.85
"""Of what so many replicas would reach if each added as much as the first."""

Pairs = list[tuple[float, float]]


def rows(rounds: int, brokers: Sequence[str], parts: Sequence[str]) -> list[Row]:
    """Measure on each broker.

    Args:
        rounds: How many rounds there are.
        brokers: Which of `BROKERS`.
        parts: Which of `PARTS`.
    """
    found: list[Row] = []
    for broker in brokers:
        name, fresh = BROKERS[broker]
        for part in parts:
            found += [evolve(row, what=f"{row.what}; {name}") for row in PARTS[part](fresh, rounds)]
    return found


def _sessions(rounds: int) -> list[int]:
    """Divide rounds into sessions of almost equal length."""
    count = -(-rounds // ROUNDS_PER_SESSION)
    return [rounds // count + (number < rounds % count) for number in range(count)]


def _prefix() -> str:
    return f"b{uuid.uuid4().hex[:8]}."


def _ours(role: str, backend: str, servers: str, prefix: str, instance: str = "") -> list[str]:
    return python("-m", "benchmarks.kafka_peer", role, backend, servers, prefix, *([instance] if instance else []))


# --- requests --------------------------------------------------------------------------------------------------------


@frozen
class Taken:
    """What a round of calls came to."""

    rate: float
    p50_ms: float
    p99_ms: float


def _requests(fresh: Fresh, rounds: int) -> list[Row]:
    taken: dict[tuple[str, int], list[Taken]] = {
        (kind, in_flight): [] for kind in ("floor", *LOOPS) for in_flight in CALLS
    }
    why_not: str | None = None
    try:
        for length in _sessions(rounds):
            with fresh() as servers:
                _request_session(servers, length, taken)
    except (CannotRun, OSError) as error:
        why_not = str(error)
    return [row for loop in LOOPS for in_flight in CALLS for row in _request_rows(taken, loop, in_flight, why_not)]


def _request_session(servers: str, rounds: int, taken: dict[tuple[str, int], list[Taken]]) -> None:
    prefixes = {kind: _prefix() for kind in ("floor", *LOOPS)}
    prefix = prefixes["floor"]
    make_topics(servers, {f"{prefix}executor.requests": PARTITIONS, f"{prefix}replies": REPLY_PARTITIONS})

    def commands(role: str) -> list[list[str]]:
        floor = python("-m", "benchmarks.floors.kafka_requests", role, servers, prefix)
        return [floor, *(_ours(role, loop, servers, prefixes[loop]) for loop in LOOPS)]

    with peers(*commands("callee")), peers(*commands("caller")) as callers:
        by_turns = list(zip(prefixes, callers, strict=True))
        for number in range(rounds + 1):
            for in_flight, count in CALLS.items():
                for kind, caller in by_turns:
                    said = caller.ask("calls", in_flight=in_flight, count=count)
                    if number:  # the first round warms up
                        taken[kind, in_flight].append(Taken(**said))
            by_turns.reverse()


def _request_rows(
    taken: dict[tuple[str, int], list[Taken]], loop: str, in_flight: int, why_not: str | None
) -> list[Row]:
    what = REQUEST.format(in_flight, LOOPS[loop])
    rate = Spec(what, FLOOR, "requests/s", RATE_BOUNDS.get((loop, in_flight)), at_least=True)
    p50 = Spec(f"{what}: p50", FLOOR, "ms", P50_BOUNDS.get((loop, in_flight)))
    p99 = Spec(f"{what}: p99", FLOOR, "ms")
    both = list(zip(taken[loop, in_flight], taken["floor", in_flight], strict=False))
    if why_not is not None or not both:
        return [spec.cannot(why_not or "there was no round") for spec in (rate, p50, p99)]
    return [
        rate.row([(ours.rate, floor.rate) for ours, floor in both]),
        p50.row([(ours.p50_ms, floor.p50_ms) for ours, floor in both]),
        p99.row([(ours.p99_ms, floor.p99_ms) for ours, floor in both]),
    ]


# --- events ----------------------------------------------------------------------------------------------------------


def _publish(fresh: Fresh, rounds: int) -> list[Row]:
    taken: dict[str, Pairs] = {name: [] for name in PUBLISH}
    try:
        for length in _sessions(rounds):
            with fresh() as servers:
                _publish_session(servers, length, taken)
    except (CannotRun, OSError) as error:
        return [spec.cannot(str(error)) for spec in PUBLISH.values()]
    return [spec.row(taken[name]) for name, spec in PUBLISH.items()]


def _publish_session(servers: str, rounds: int, taken: dict[str, Pairs]) -> None:
    ours, floor = _prefix(), _prefix()
    make_topics(servers, {f"{floor}feed.told": PARTITIONS})

    def commands(role: str) -> list[list[str]]:
        return [
            _ours(role, "asyncio", servers, ours),
            python("-m", "benchmarks.floors.kafka_events", role, servers, floor),
        ]

    ways: dict[str, Callable[[Peer, Peer], float]] = {
        "many": lambda sender, receiver: _events_per_s(
            sender, receiver, EVENTS, "in_handlers", count=EVENTS, suspends=False
        ),
        "suspends": lambda sender, receiver: _events_per_s(
            sender, receiver, EVENTS, "in_handlers", count=EVENTS, suspends=True
        ),
        "awaited": lambda sender, receiver: _events_per_s(
            sender, receiver, AWAITED_EVENTS, "one_by_one", count=AWAITED_EVENTS, publishers=PUBLISHERS
        ),
    }
    with peers(*commands("subscriber")) as receivers, peers(*commands("publisher")) as senders:
        for number in range(rounds + 1):
            for name, way in ways.items():
                order = (0, 1) if number % 2 else (1, 0)
                rates = {side: way(senders[side], receivers[side]) for side in order}
                if number:
                    taken[name].append((rates[0], rates[1]))


def _events_per_s(sender: Peer, receiver: Peer, events: int, do: str, **what: object) -> float:
    receiver.ask("expect", count=events)
    receiver.tell("at")
    began: float = sender.ask(do, **what)["began"]
    ended: float = receiver.hear()["at"]
    return events / (ended - began)


# --- replicas --------------------------------------------------------------------------------------------------------


def _replicas(fresh: Fresh, rounds: int) -> list[Row]:
    taken: dict[int, list[float]] = {count: [] for count in WAITING_CALLS}
    specs = {
        count: Spec(
            WAITING.format(count),
            "one replica",
            "requests/s",
            NEAR_LINEAR * count if count == max(WAITING_CALLS) else None,
            at_least=True,
        )
        for count in WAITING_CALLS
        if count > 1
    }
    try:
        with fresh() as servers:
            _replicas_session(servers, max(3, rounds // 2), taken)
    except (CannotRun, OSError) as error:
        return [spec.cannot(str(error)) for spec in specs.values()]
    return [spec.row(list(zip(taken[count], taken[1], strict=True))) for count, spec in specs.items()]


def _replicas_session(servers: str, rounds: int, taken: dict[int, list[float]]) -> None:
    prefixes = {count: _prefix() for count in WAITING_CALLS}
    # The replicas have names: with the embedded broker a group whose members come at the same time may hang otherwise.
    replicas = [
        _ours("waiting", "asyncio", servers, prefix, f"replica-{number}")
        for count, prefix in prefixes.items()
        for number in range(count)
    ]
    callers = [_ours("caller", "asyncio", servers, prefix) for prefix in prefixes.values()]
    with peers(*replicas), peers(*callers) as found:
        for number in range(rounds + 1):
            for count, caller in zip(prefixes, found, strict=True):
                said = caller.ask("waits", in_flight=WAITING_IN_FLIGHT, count=WAITING_CALLS[count])
                if number:
                    taken[count].append(said["rate"])


PARTS: dict[str, Callable[[Fresh, int], list[Row]]] = {
    "requests": _requests,
    "publish": _publish,
    "start": kafka_split.rows,
    "replicas": _replicas,
}
"""By name: what measures some rows on one broker, in so many rounds."""
