"""What a process measures, as plain data. Counters are kept where things happen, and read only when somebody asks.

`_metrics_text.py` writes it down for Prometheus; `_metrics_server.py` answers who asks, where there is no gateway.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

_logger = logging.getLogger("fissile.metrics")

Kind = Literal["counter", "gauge", "histogram", "summary", "info", "unknown"]
Labels = Mapping[str, str]


class Sample(msgspec.Struct, frozen=True):
    """One value.

    Attributes:
        name: The metric's name, with what its kind adds (`_total`, `_bucket`, `_sum`, `_count`).
        labels: Its labels. Each has few values: names of what is declared, never ids or what a client has sent.
        value: The value.
    """

    name: str
    labels: Labels
    value: float


class Metric(msgspec.Struct, frozen=True):
    """One metric with all of its values, as Prometheus has them.

    Attributes:
        name: Its name, such as `fissile_messages`; a counter's without `_total`.
        kind: What it is.
        help: What it means, with its unit.
        samples: The values.
    """

    name: str
    kind: Kind
    help: str
    samples: tuple[Sample, ...]


def counter(name: str, help: str, values: Iterable[tuple[Labels, float]]) -> Metric:  # noqa: A002 -- Prometheus's word
    """Return a counter: what only grows, from the start of the process on."""
    return Metric(name, "counter", help, tuple(Sample(f"{name}_total", labels, value) for labels, value in values))


def gauge(name: str, help: str, values: Iterable[tuple[Labels, float]]) -> Metric:  # noqa: A002 -- likewise
    """Return a gauge: what rises and falls."""
    return Metric(name, "gauge", help, tuple(Sample(name, labels, value) for labels, value in values))


def histogram(
    name: str,
    help: str,  # noqa: A002 -- likewise
    bounds: tuple[float, ...],
    values: Iterable[tuple[Labels, Iterable[int], float]],
) -> Metric:
    """Return a histogram.

    Args:
        name: Its name.
        help: What it means.
        bounds: The upper bounds of its buckets, without the last one, which has none.
        values: For each set of labels how many values fell into each bucket, the last one included, and their sum.
    """
    samples: list[Sample] = []
    names = [*(f"{bound:g}" for bound in bounds), "+Inf"]
    for labels, counts, total in values:
        reached = 0
        for bound, count in zip(names, counts, strict=True):
            reached += count
            samples.append(Sample(f"{name}_bucket", {**labels, "le": bound}, reached))
        samples += [Sample(f"{name}_sum", labels, total), Sample(f"{name}_count", labels, reached)]
    return Metric(name, "histogram", help, tuple(samples))


class Metrics:
    """The metrics of a process. A worker adds its own with `process.metrics.add`."""

    def __init__(self) -> None:
        self._sources: list[Callable[[], Iterable[Metric]]] = []

    def add(self, source: Callable[[], Iterable[Metric]]) -> Callable[[], None]:
        """Add a source of metrics, and return what removes it.

        Args:
            source: Reads the values. It is called in the event loop for each request for metrics, and must not take long.
        """
        self._sources.append(source)

        def remove() -> None:
            if source in self._sources:
                self._sources.remove(source)

        return remove

    def collect(self) -> tuple[Metric, ...]:
        """Read all values. A source that fails is told in the log, and the others are read."""
        found: list[Metric] = []
        for source in tuple(self._sources):
            try:
                found.extend(source())
            except Exception:
                _logger.exception("metrics cannot be read")
        return tuple(found)


def labelled(metrics: Iterable[Metric], labels: Labels) -> tuple[Metric, ...]:
    """Return metrics with labels added to every value."""
    return tuple(
        msgspec.structs.replace(
            metric,
            samples=tuple(msgspec.structs.replace(one, labels={**one.labels, **labels}) for one in metric.samples),
        )
        for metric in metrics
    )


def merged(groups: Iterable[Iterable[Metric]]) -> tuple[Metric, ...]:
    """Return the metrics of several processes as one set: each metric once, with the values of all."""
    found: dict[str, Metric] = {}
    for group in groups:
        for metric in group:
            before = found.get(metric.name)
            found[metric.name] = (
                metric
                if before is None
                else msgspec.structs.replace(before, samples=(*before.samples, *metric.samples))
            )
    return tuple(found.values())
