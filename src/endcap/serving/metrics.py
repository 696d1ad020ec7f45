"""Counts and durations in, Prometheus' text exposition format out."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

STAGES: Final = ("queue", "features_tower", "search", "serialize")
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

    def lines(self, name: str, labels: str) -> Iterable[str]:
        """Sample lines of this histogram; `labels` is empty or `key="value"` pairs joined by commas."""
        comma = "," if labels else ""
        total = 0
        for bound, count in zip((*map(str, self._bounds), "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{labels}{comma}le="{bound}"}} {total}'
        braces = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{braces} {self._sum}"
        yield f"{name}_count{braces} {total}"


class Metrics:
    """Everything the server counts.

    Written by hand: the format is a page long, and the client library's locks and imports cost more than measuring.
    """

    def __init__(self, release_name: str, digest: str, model_name: str) -> None:
        """Start all counts at zero for one release."""
        self._release_labels = _labels(name=release_name, digest=digest, model=model_name)
        self._requests: dict[tuple[str, int], int] = {}
        self.duration = Histogram(_SECONDS)
        self.stages = {stage: Histogram(_SECONDS) for stage in STAGES}
        self.batch_size = Histogram(_BATCH_SIZES)

    def count_request(self, route: str, status: int) -> None:
        """Count one answer; `route` is the pattern, not the path."""
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1

    def exposition(self, num_queued: int, is_ready: bool) -> bytes:
        """All metrics as text."""
        lines = _header("endcap_release_info", "gauge", "The release that answers.")
        lines.append(f"endcap_release_info{{{self._release_labels}}} 1")
        lines += _header("endcap_ready", "gauge", "1 when requests are accepted, 0 while draining.")
        lines.append(f"endcap_ready {int(is_ready)}")
        lines += _header("endcap_queued_instances", "gauge", "Instances accepted and not yet answered.")
        lines.append(f"endcap_queued_instances {num_queued}")
        lines += _header("endcap_requests_total", "counter", "Requests answered, by route and status code.")
        for (route, status), count in sorted(self._requests.items()):
            lines.append(f"endcap_requests_total{{{_labels(route=route, code=str(status))}}} {count}")
        name = "endcap_request_duration_seconds"
        lines += _header(name, "histogram", "Predict requests, from the whole body read to the answer handed over.")
        lines += self.duration.lines(name, "")
        name = "endcap_stage_duration_seconds"
        lines += _header(
            name, "histogram", "Stages of a predict request: its wait in the queue, then its batch's work."
        )
        for stage, histogram in self.stages.items():
            lines += histogram.lines(name, _labels(stage=stage))
        lines += _header("endcap_batch_size", "histogram", "Instances per batch.")
        lines += self.batch_size.lines("endcap_batch_size", "")
        return ("\n".join(lines) + "\n").encode()


def _header(name: str, kind: str, explanation: str) -> list[str]:
    return [f"# HELP {name} {explanation}", f"# TYPE {name} {kind}"]


def _labels(**labels: str) -> str:
    escaped = {key: text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n") for key, text in labels.items()}
    return ",".join(f'{key}="{text}"' for key, text in escaped.items())
