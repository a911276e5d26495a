"""Metrics as text for Prometheus, written by `prometheus-client` (extra `metrics`), which is imported when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, cast

from fissile._errors import Fault
from fissile._metrics import Kind, Metric, Sample

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric as PrometheusMetric


def can_write() -> bool:
    """Whether the library is installed that writes metrics."""
    return find_spec("prometheus_client") is not None


def not_installed(where: str) -> Fault:
    """Say that it is not."""
    return Fault(
        "Metrics cannot be served: prometheus-client is not installed.", where, "pip install 'fissile[metrics]'"
    )


def registered() -> tuple[Metric, ...]:
    """Return what stands in the default registry of `prometheus-client`: the process, the interpreter, and an application's own metrics."""
    from prometheus_client import REGISTRY

    return tuple(
        Metric(
            metric.name,
            _kind(metric.type),
            metric.documentation,
            tuple(Sample(sample.name, sample.labels, sample.value) for sample in metric.samples),
        )
        for metric in REGISTRY.collect()
    )


def _kind(name: str) -> Kind:
    return cast("Kind", name) if name in ("counter", "gauge", "histogram", "summary", "info") else "unknown"


class _Collector:
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[PrometheusMetric]:
        from prometheus_client.metrics_core import Metric as PrometheusMetric

        for metric in self._metrics:
            told = PrometheusMetric(metric.name, metric.help, metric.kind)
            for sample in metric.samples:
                told.add_sample(sample.name, dict(sample.labels), sample.value)
            yield told

    def restricted_registry(self, names: Iterable[str]) -> _Collector:
        wanted = frozenset(names)
        return _Collector([metric for metric in self._metrics if metric.name in wanted])


def write(metrics: Iterable[Metric], accept: str = "") -> tuple[bytes, str]:
    """Write metrics down.

    Args:
        metrics: The metrics.
        accept: The field `Accept` of who asks; OpenMetrics if it wants that, else Prometheus's own format.

    Returns:
        The text, and its media type.
    """
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(metrics))
    return encode(registry), content_type
