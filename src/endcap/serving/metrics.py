"""Counts and durations in, plain data that adds up over processes out, and Prometheus' text of it.

Counting is a list operation or two. The names of TensorFlow Serving stand beside our own, so that dashboards for it go on.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Final, Literal

import msgspec

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"

MODEL_STAGES: Final = ("features", "tower", "search", "ranking", "serialize")
QUEUE: Final = "queue"

Labels = tuple[str, ...]
State = dict[str, dict[str, list[Any]]]
"""By kind (`counters`, `gauges`, `histograms`) and name: a list of label values with what was counted."""

_SECONDS: Final = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_BATCH_SIZES: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
# TensorFlow Serving's, to about 20 minutes.
_MICROSECONDS: Final = tuple(10 * 1.8**step for step in range(33))
# Both, so that one observation serves both histograms.
_FINE_SECONDS: Final = tuple(sorted({*_SECONDS, *(bound / 1e6 for bound in _MICROSECONDS)}))
_MICROS_PER_SECOND: Final = 1e6

_STATUS_NAMES: Final = {
    200: "OK", 400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    413: "RESOURCE_EXHAUSTED", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}  # fmt: skip

Entrypoint = Literal["REST", "GRPC"]
_APIS: Final[Mapping[Entrypoint, str]] = {"REST": "predict", "GRPC": "Predict"}


class Histogram:
    """Counts per bucket. One thread observes; a reader may see a count that is one observation behind."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        """Take the buckets' upper `bounds`, ascending, without infinity."""
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times over."""
        self.counts[bisect_left(self._bounds, value)] += times
        self.sum += value * times

    @property
    def num(self) -> int:
        """How many values were counted."""
        return sum(self.counts)


class ModelCounts:
    """What is counted for one model."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.stages = {stage: Histogram(_SECONDS) for stage in MODEL_STAGES}
        self.durations: dict[Entrypoint, Histogram] = {
            "REST": Histogram(_FINE_SECONDS),
            "GRPC": Histogram(_FINE_SECONDS),
        }
        """Predictions that were answered, by where they came in."""
        self.runtime = Histogram(_FINE_SECONDS)
        """The work of each request's batch."""
        self.statuses: dict[int, int] = {}

    def count_status(self, status: int) -> None:
        """Count one answer to a prediction."""
        self.statuses[status] = self.statuses.get(status, 0) + 1


class _Family(msgspec.Struct, frozen=True):
    """One metric as Prometheus shows it."""

    kind: Literal["counter", "gauge", "histogram"]
    explanation: str
    labels: Labels = ()
    bounds: tuple[float, ...] = ()
    """Of a histogram, as they are shown."""
    fine: tuple[float, ...] = ()
    """Of a histogram, as they are counted; in `scale` units each."""
    scale: float = 1.0
    of: str = ""
    """The histogram that is shown, where that is another's."""
    adds_up: bool = True
    """Of a gauge: whether processes add up; else the least counts."""


_DURATION: Final = "endcap_request_duration_seconds"
_RUNTIME: Final = "endcap_runtime_seconds"
_FAMILIES: Final[Mapping[str, _Family]] = {
    "endcap_release_info": _Family(
        "gauge", "The releases that answer.", ("model", "version", "name", "digest"), adds_up=False
    ),
    "endcap_version_loads_total": _Family(
        "counter", "Versions that were loaded, or could not be.", ("model", "status")
    ),
    "endcap_ready": _Family("gauge", "1 when requests are accepted, 0 while draining.", adds_up=False),
    "endcap_queued_instances": _Family("gauge", "Instances accepted and not yet answered."),
    "endcap_connections": _Family("gauge", "Open connections of clients."),
    "endcap_requests_in_flight": _Family("gauge", "Connections whose request is not answered yet."),
    "endcap_requests_total": _Family("counter", "Requests answered, by route and status code.", ("route", "code")),
    "endcap_refused_total": _Family("counter", "Requests refused with 429, by what was too much.", ("reason",)),
    "endcap_log_lines_dropped_total": _Family(
        "counter", "Lines that a log had no room or no place for.", ("log",)
    ),
    _DURATION: _Family(
        "histogram", "Predict requests, from the whole body read to the answer handed over.", ("model", "entrypoint"),
        _SECONDS, _FINE_SECONDS,
    ),
    "endcap_stage_duration_seconds": _Family(
        "histogram", "Stages of a predict request: its wait in the queue, then its batch's work.", ("stage", "model"),
        _SECONDS, _SECONDS,
    ),
    "endcap_batch_size": _Family("histogram", "Instances per batch.", (), _BATCH_SIZES, _BATCH_SIZES),
    ":tensorflow:serving:request_count": _Family(
        "counter", "The total number of requests.", ("model_name", "status")
    ),
    ":tensorflow:serving:request_latency": _Family(
        "histogram", "Wall time of requests that were answered, in microseconds.", ("model_name", "API", "entrypoint"),
        _MICROSECONDS, _FINE_SECONDS, _MICROS_PER_SECOND, of=_DURATION,
    ),
    ":tensorflow:serving:runtime_latency": _Family(
        "histogram", "Wall time of the batch that a request was computed with, in microseconds.",
        ("model_name", "API", "runtime"), _MICROSECONDS, _FINE_SECONDS, _MICROS_PER_SECOND, of=_RUNTIME,
    ),
    ":tensorflow:cc:saved_model:load_attempt_count": _Family(
        "counter", "Versions that were loaded, or could not be; model_path is the model's name.", ("model_path", "status")
    ),
    ":tensorflow:cc:saved_model:load_latency": _Family(
        "counter", "Microseconds that loading took, of versions that were loaded.", ("model_path",)
    ),
}  # fmt: skip


class Metrics:
    """Everything that a process counts."""

    def __init__(self) -> None:
        """Start all counts at zero."""
        self._counters: dict[tuple[str, Labels], float] = {}
        self._requests: dict[tuple[str, int], int] = {}
        self._models: dict[str, ModelCounts] = {}
        self.queue = Histogram(_SECONDS)
        """Seconds that requests waited for their batch: one queue for all models."""
        self.batch_size = Histogram(_BATCH_SIZES)
        self.gauges: dict[str, Callable[[], Mapping[Labels, float]]] = {}
        """What is looked at when somebody reads, by name: label values and a number each. Counters may be among them."""

    def of_model(self, name: str) -> ModelCounts:
        """What is counted for a model, all its versions together."""
        if name not in self._models:
            self._models[name] = ModelCounts(name)
        return self._models[name]

    def count_request(self, route: str, status: int) -> None:
        """Count one answer; `route` is the pattern, not the path."""
        key = (route, status)
        self._requests[key] = self._requests.get(key, 0) + 1

    def count(self, name: str, labels: Labels, value: float = 1.0) -> None:
        """Add to a counter."""
        key = (name, labels)
        self._counters[key] = self._counters.get(key, 0.0) + value

    def count_load(self, model_name: str, is_loaded: bool, seconds: float) -> None:
        """Count a version that was loaded, or could not be."""
        self.count("endcap_version_loads_total", (model_name, "OK" if is_loaded else "ERROR"))
        status = "success" if is_loaded else "fail"
        self.count(":tensorflow:cc:saved_model:load_attempt_count", (model_name, status))
        if is_loaded:
            self.count(":tensorflow:cc:saved_model:load_latency", (model_name,), round(seconds * _MICROS_PER_SECOND))

    def state(self) -> State:
        """All of it as plain data, such as JSON holds."""
        counters: dict[str, list[Any]] = {name: [] for name, family in _FAMILIES.items() if family.kind == "counter"}
        for (name, labels), value in self._counters.items():
            counters[name].append([list(labels), value])
        counters["endcap_requests_total"] = [[[route, str(status)], n] for (route, status), n in self._requests.items()]
        histograms: dict[str, list[Any]] = {
            "endcap_stage_duration_seconds": [_told(self.queue, QUEUE, "")],
            "endcap_batch_size": [_told(self.batch_size)],
            _DURATION: [],
            _RUNTIME: [],
        }
        for model, counts in self._models.items():
            for stage, histogram in counts.stages.items():
                histograms["endcap_stage_duration_seconds"].append(_told(histogram, stage, model))
            for entrypoint, histogram in counts.durations.items():
                if histogram.num:
                    histograms[_DURATION].append(_told(histogram, model, entrypoint))
            histograms[_RUNTIME].append(_told(counts.runtime, model, "Predict"))
            by_name: dict[str, int] = {}
            for status, n in counts.statuses.items():
                name = _STATUS_NAMES.get(status, "UNKNOWN")
                by_name[name] = by_name.get(name, 0) + n
            counters[":tensorflow:serving:request_count"] += [[[model, name], n] for name, n in by_name.items()]
        gauges: dict[str, list[Any]] = {}
        for name, read in self.gauges.items():
            told = counters if _FAMILIES[name].kind == "counter" else gauges
            told.setdefault(name, []).extend([list(labels), value] for labels, value in read().items())
        return {"counters": counters, "gauges": gauges, "histograms": histograms}

    def exposition(self) -> bytes:
        """All of it as text."""
        return exposition(self.state())

    def publish(self) -> None:
        """Called about once a second; who shares the counts with other processes does it here."""


def merge(states: Sequence[State]) -> State:
    """The states of several processes as one: what is counted adds up."""
    merged: dict[str, dict[str, dict[Labels, list[Any]]]] = {"counters": {}, "gauges": {}, "histograms": {}}
    for state in states:
        for kind, families in state.items():
            for name, rows in families.items():
                known = merged[kind].setdefault(name, {})
                for labels, *values in rows:
                    key = tuple(labels)
                    known[key] = _added(known[key], values, name) if key in known else list(values)
    return {
        kind: {name: [[list(labels), *values] for labels, values in rows.items()] for name, rows in families.items()}
        for kind, families in merged.items()
    }


def exposition(state: State) -> bytes:
    """A state as Prometheus reads it."""
    lines: list[str] = []
    for name, family in _FAMILIES.items():
        rows = state[f"{family.kind}s"].get(family.of or name, [])
        if not rows:
            continue
        lines += [f"# HELP {name} {family.explanation}", f"# TYPE {name} {family.kind}"]
        for labels, *values in sorted(rows, key=lambda row: row[0]):
            if family.kind == "histogram":
                lines += _histogram_lines(name, family, labels, *values)
            else:
                lines.append(f"{name}{_labelled(family.labels, labels)} {float(values[0])!r}")
    return ("\n".join(lines) + "\n").encode()


def _told(histogram: Histogram, *labels: str) -> list[Any]:
    return [list(labels), list(histogram.counts), histogram.sum]


def _added(one: list[Any], other: list[Any], name: str) -> list[Any]:
    if len(one) > 1:
        return [[a + b for a, b in zip(one[0], other[0], strict=True)], one[1] + other[1]]
    adds_up = name not in _FAMILIES or _FAMILIES[name].adds_up
    return [one[0] + other[0] if adds_up else min(one[0], other[0])]


def _histogram_lines(
    name: str, family: _Family, labels: Sequence[str], counts: Sequence[int], total: float
) -> Iterable[str]:
    names, values = family.labels, list(labels)
    if family.of == _DURATION:
        values = [labels[0], _APIS["GRPC" if labels[1] == "GRPC" else "REST"], labels[1]]
    elif family.of == _RUNTIME:
        values = [labels[0], labels[1], "ONNX"]
    below = list(accumulate(counts))
    for bound in family.bounds:
        at = bisect_left(family.fine, bound / family.scale)
        shown = f"{bound:g}" if family.scale != 1.0 else repr(bound)
        yield f"{name}_bucket{_labelled((*names, 'le'), [*values, shown])} {float(below[at])!r}"
    yield f"{name}_bucket{_labelled((*names, 'le'), [*values, '+Inf'])} {float(below[-1])!r}"
    yield f"{name}_sum{_labelled(names, values)} {total * family.scale!r}"
    yield f"{name}_count{_labelled(names, values)} {float(below[-1])!r}"


def _labelled(names: Sequence[str], values: Sequence[str]) -> str:
    if not names:
        return ""
    parts = (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return "{" + ",".join(parts) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
