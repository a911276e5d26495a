"""The metrics of the runtime itself: what `App.statistics`, checks, bounds and the supervisor know, read when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from fissile._bounds import Gate
from fissile._metrics import Labels, Metric, counter, gauge

if TYPE_CHECKING:
    from fissile._build import LiveModule
    from fissile._delivery.consumer import ConsumerStatistics
    from fissile._process import Check, Process
    from fissile._remote import RemoteStatistics
    from fissile._running import ModuleStatistics
    from fissile._settings import Settings

OUTSIDE = "outside"
"""The label of a caller that is no module: a script, or a route of another web application."""


def of_process(process: Process, checks: Sequence[Check]) -> Iterator[Metric]:
    """Yield what a process is and whether it is well."""
    info = {"application": process.application, "process": process.name, "placement": process.placement}
    yield gauge("fissile_info", "What runs; always 1.", [({**info, "version": _version()}, 1)])
    problems = [check for check in checks if check.problem is not None]
    yield gauge("fissile_ready", "Whether the process is ready.", [({}, 0 if problems else 1)])
    values: list[tuple[Labels, float]] = [
        ({"check": check.name}, 1 if check.problem is None else 0) for check in checks
    ]
    yield gauge("fissile_check_ok", "Whether what has to be well for the process to be ready is well.", values)


def of_restarts(restarts: Mapping[str, int]) -> Iterator[Metric]:
    """Yield how often tasks were started again."""
    values: list[tuple[Labels, float]] = [({"task": name}, count) for name, count in restarts.items()]
    yield counter(
        "fissile_task_restarts", "How often a consumer, worker or the like failed and was started again.", values
    )


def of_modules(statistics: Mapping[str, ModuleStatistics]) -> Iterator[Metric]:
    """Yield what modules have done, and what their consumers have in hand."""
    handled: list[tuple[Labels, float]] = []
    for module, told in statistics.items():
        for outcome, counts in (("handled", told.handled), ("declared", told.declared), ("failed", told.failed)):
            handled += [
                ({"module": module, "message": name, "outcome": outcome}, count) for name, count in counts.items()
            ]
    yield counter(
        "fissile_messages",
        "Messages handled, by outcome: handled, a declared error, failed (of what is tried again, each attempt).",
        handled,
    )
    consumers = {module: told.consumer for module, told in statistics.items() if told.consumer is not None}
    yield from _of_consumers(consumers)


def _of_consumers(consumers: Mapping[str, ConsumerStatistics]) -> Iterator[Metric]:
    def each(name: str) -> list[tuple[Labels, float]]:
        return [({"module": module}, getattr(told, name)) for module, told in consumers.items()]

    # Of a consumer that is not joined, and of a log that cannot tell, there is none.
    lags: list[tuple[Labels, float]] = [
        ({"module": module}, told.lag) for module, told in consumers.items() if told.lag is not None
    ]

    yield gauge("fissile_consumer_partitions", "Partitions that a module's consumer owns.", each("partitions"))
    yield gauge("fissile_consumer_in_hand", "Messages that a module's consumer has in hand.", each("in_hand"))
    yield gauge("fissile_consumer_lag", "Messages that wait in the log for a module's consumer.", lags)
    outcomes = ("handled", "retried", "dead", "expired", "cancelled")
    yield counter(
        "fissile_deliveries",
        "Deliveries from the log: handled, retried (attempts that failed and are repeated), dead (given up to the dead letters), "
        "expired or cancelled (nobody waited any longer).",
        [
            ({"module": module, "outcome": outcome}, getattr(told, outcome))
            for module, told in consumers.items()
            for outcome in outcomes
        ],
    )
    yield counter("fissile_consumer_pauses", "How often a full window paused a partition.", each("pauses"))
    yield counter(
        "fissile_consumer_rebalances", "Assignments of partitions, since the consumer joined.", each("rebalances")
    )
    yield counter(
        "fissile_consumer_refused_commits", "Commits refused because the group had moved on.", each("refused_commits")
    )


def of_bounds(modules: Iterable[LiveModule], outside: Mapping[str, Gate], settings: Settings) -> Iterator[Metric]:
    """Yield how full the bounds are: calls in flight, handlers running and waiting."""
    running: list[tuple[Labels, float]] = []
    waiting: list[tuple[Labels, float]] = []
    gates: dict[str, Mapping[str, Gate]] = {OUTSIDE: outside}
    for module in modules:
        gates[module.name] = module.gates
        for kind, limit in (("command", settings.commands_running), ("query", settings.queries_running)):
            if kind in module.slots:
                labels = {"module": module.name, "kind": kind}
                running.append((labels, limit - module.slots[kind].free))
                waiting.append((labels, module.slots[kind].waiting))
    yield gauge("fissile_handlers_running", "Handlers that run; commands and events share a bound.", running)
    yield gauge(
        "fissile_handlers_waiting", "Calls that wait for a handler to end, because the bound is reached.", waiting
    )
    calls = [({"caller": caller, "module": name}, gate) for caller, own in gates.items() for name, gate in own.items()]
    yield gauge(
        "fissile_calls_in_flight",
        "Calls of a caller to a module.",
        [(labels, gate.in_flight) for labels, gate in calls],
    )
    yield counter(
        "fissile_calls_refused", "Calls refused as overloaded.", [(labels, gate.refused) for labels, gate in calls]
    )


def of_remote(told: RemoteStatistics) -> Iterator[Metric]:
    """Yield what calls to other processes have come to."""
    yield gauge("fissile_remote_calls_waiting", "Calls to other processes that wait for a reply.", [({}, told.waiting)])
    outcomes = {"replied": told.replies, "late": told.late, "expired": told.expired, "cancelled": told.cancelled}
    yield counter(
        "fissile_remote_calls",
        "Calls to other processes: replied in time, given up at the deadline or by the caller; late are replies for nobody here.",
        [({"outcome": outcome}, count) for outcome, count in outcomes.items()],
    )


def of_outboxes(modules: Iterable[LiveModule]) -> Iterator[Metric]:
    """Yield what relays have done, of modules with a database."""
    told = {module.name: module.storage.relay_statistics() for module in modules if module.storage is not None}
    if not told:
        return
    outcomes: list[tuple[Labels, float]] = []
    for module, one in told.items():
        outcomes += [
            ({"module": module, "outcome": "sent"}, one.sent),
            ({"module": module, "outcome": "failed"}, one.failed),
            ({"module": module, "outcome": "set-aside"}, one.set_aside),
        ]
    yield counter(
        "fissile_outbox",
        "Rows of outboxes sent and set aside, and rounds that failed, by this process's relay.",
        outcomes,
    )
    values: list[tuple[Labels, float]] = [({"module": module}, one.unsettled) for module, one in told.items()]
    yield gauge("fissile_outbox_unsettled", "Rows sent and not deleted yet.", values)


@cache
def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # not needed to import fissile

    try:
        return version("fissile")
    except PackageNotFoundError:  # run from a folder
        return "unknown"
