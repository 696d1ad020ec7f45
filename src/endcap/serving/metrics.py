"""Counts and durations in, Prometheus' text exposition format out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Final

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

STAGES: Final = ("queue", "features_tower", "search", "ranking", "serialize")
_SECONDS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCH_SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Histogram:
    """Counts per bucket. One thread observes; a reader may see a count that is one observation behind."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Take the buckets' upper `bounds`, ascending, without infinity."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times over."""
        self._counts[bisect_left(self._bounds, value)] += times
        self._sum += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """Upper bounds as text, and how many observations lie at or below each."""
        bounds = (*map(str, self._bounds), "+Inf")
        return list(zip(bounds, accumulate(map(float, self._counts)), strict=True))

    @property
    def sum(self) -> float:
        """Sum of all values."""
        return self._sum


class Metrics:
    """Everything the server counts.

    Counting is two list operations; the client library, with its locks and its import, is called when somebody reads.
    """

    def __init__(self) -> None:
        """Start all counts at zero."""
        self._loads: dict[tuple[str, bool], tuple[int, float]] = {}
        self._requests: dict[tuple[str, int], int] = {}
        self.duration = Histogram(_SECONDS)
        self.stages = {stage: Histogram(_SECONDS) for stage in STAGES}
        self.batch_size = Histogram(_BATCH_SIZES)

    def count_request(self, route: str, status: int) -> None:
        """Count one answer; `route` is the pattern, not the path."""
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1

    def count_load(self, model_name: str, is_loaded: bool, seconds: float) -> None:
        """Count a version that was loaded, or could not be."""
        times, total = self._loads.get((model_name, is_loaded), (0, 0.0))
        self._loads[model_name, is_loaded] = (times + 1, total + seconds)

    def exposition(self, num_queued: int, is_ready: bool, releases: Sequence[Mapping[str, str]]) -> bytes:
        """All metrics as text; `releases` holds the labels of each version that answers."""
        from prometheus_client import CollectorRegistry, generate_latest
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
        from prometheus_client.registry import Collector

        def gauge(name: str, explanation: str, value: float) -> Metric:
            family = GaugeMetricFamily(name, explanation)
            family.add_metric([], value)
            return family

        def histogram(name: str, explanation: str, label: str, parts: dict[str, Histogram]) -> Metric:
            family = HistogramMetricFamily(name, explanation, labels=[label] if label else [])
            for value, part in parts.items():
                family.add_metric([value] if label else [], buckets=part.buckets(), sum_value=part.sum)
            return family

        requests = CounterMetricFamily(
            "endcap_requests", "Requests answered, by route and status code.", labels=["route", "code"]
        )
        for (route, status), count in sorted(self._requests.items()):
            requests.add_metric([route, str(status)], count)
        answering = GaugeMetricFamily(
            "endcap_release_info", "The releases that answer.", labels=["model", "version", "name", "digest"]
        )
        for release in releases:
            answering.add_metric([release[key] for key in ("model", "version", "name", "digest")], 1)
        loads = CounterMetricFamily(
            "endcap_version_loads", "Versions that were loaded, or could not be.", labels=["model", "status"]
        )
        for (model, is_loaded), (times, _) in sorted(self._loads.items()):
            loads.add_metric([model, "OK" if is_loaded else "ERROR"], times)
        families = [
            answering,
            loads,
            gauge("endcap_ready", "1 when requests are accepted, 0 while draining.", int(is_ready)),
            gauge("endcap_queued_instances", "Instances accepted and not yet answered.", num_queued),
            requests,
            histogram(
                "endcap_request_duration_seconds",
                "Predict requests, from the whole body read to the answer handed over.",
                "",
                {"": self.duration},
            ),
            histogram(
                "endcap_stage_duration_seconds",
                "Stages of a predict request: its wait in the queue, then its batch's work.",
                "stage",
                self.stages,
            ),
            histogram("endcap_batch_size", "Instances per batch.", "", {"": self.batch_size}),
        ]

        class Families(Collector):
            def collect(self) -> Iterable[Metric]:
                return families

        registry = CollectorRegistry()
        registry.register(Families())
        return generate_latest(registry)
