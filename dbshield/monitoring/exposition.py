"""The numbers as Prometheus reads them. Source: Prometheus' documentation, "Exposition formats"; OpenMetrics 1.0."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family

from dbshield.metrics import LATENCY_BUCKETS, METRICS, Kind, Metric
from dbshield.telemetry.counts import Histogram, Labels, Series

BOUNDS: Final = (*(f"{bound:.6f}".rstrip("0").rstrip(".") for bound in LATENCY_BUCKETS), "+Inf")


def exposed(values: Mapping[Series, float], histograms: Mapping[Series, Histogram], accept: str) -> tuple[bytes, str]:
    """The text and its media type, as `accept` (the request's header) asks for it."""
    encode, media_type = exposition.choose_encoder(accept)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collector(values, histograms))
    return encode(registry), media_type


class _Collector:
    """What prometheus-client asks; for one answer."""

    def __init__(self, values: Mapping[Series, float], histograms: Mapping[Series, Histogram]) -> None:
        self._values: dict[str, list[tuple[Labels, float]]] = {}
        for (name, labels), value in values.items():
            self._values.setdefault(name, []).append((labels, value))
        self._histograms: dict[str, list[tuple[Labels, Histogram]]] = {}
        for (name, labels), histogram in histograms.items():
            self._histograms.setdefault(name, []).append((labels, histogram))

    def describe(self) -> Iterable[Family]:
        return ()

    def collect(self) -> Iterator[Family]:
        for metric in METRICS:
            yield self._family(metric)

    def _family(self, metric: Metric) -> Family:
        if metric.kind is Kind.HISTOGRAM:
            histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, one in sorted(self._histograms.get(metric.name, ())):
                counted = zip(BOUNDS, map(float, accumulate(one.counts)), strict=True)
                histogram.add_metric(labels, buckets=list(counted), sum_value=one.sum)
            return histogram
        kind = CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily
        family = kind(metric.name, metric.help, labels=metric.labels)
        for labels, value in sorted(self._values.get(metric.name, ())):
            family.add_metric(labels, value)
        return family
