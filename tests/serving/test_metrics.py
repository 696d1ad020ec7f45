"""What is counted: as Prometheus reads it, under TensorFlow Serving's names too, and added up over processes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from endcap.serving.metrics import Metrics, exposition, merge


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    # This reader adds _total to the name of every counter, also where the text has none.
    return {
        (
            sample.name.removesuffix("_total") if sample.name[0] == ":" else sample.name,
            frozenset(sample.labels.items()),
        ): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def of(found: Any, sample: str, /, **labels: str) -> float:
    return float(found[sample, frozenset(labels.items())])


def some(seconds: float = 0.004, model: str = "shoes") -> Metrics:
    metrics = Metrics()
    metrics.gauges["endcap_ready"] = lambda: {(): 1.0}
    metrics.gauges["endcap_connections"] = lambda: {(): 3.0}
    metrics.gauges["endcap_release_info"] = lambda: {(model, "1", "n", "d"): 1.0}
    counts = metrics.of_model(model)
    counts.durations["REST"].observe(seconds)
    counts.durations["GRPC"].observe(0.5)
    counts.runtime.observe(0.003, 2)
    counts.stages["tower"].observe(0.002)
    for status in (200, 200, 400, 429, 413, 418):
        counts.count_status(status)
    metrics.queue.observe(0.0001)
    metrics.batch_size.observe(5)
    metrics.count_request("predict", 200)
    metrics.count_load(model, True, 1.5)
    metrics.count_load(model, False, 9.0)
    metrics.count("endcap_refused_total", ("client",), 2)
    return metrics


def test_our_own_names() -> None:
    found = samples(some().exposition())
    assert of(found, "endcap_requests_total", route="predict", code="200") == 1
    duration = {"model": "shoes", "entrypoint": "REST"}
    assert of(found, "endcap_request_duration_seconds_bucket", le="0.0025", **duration) == 0
    assert of(found, "endcap_request_duration_seconds_bucket", le="0.005", **duration) == 1
    assert of(found, "endcap_request_duration_seconds_bucket", le="+Inf", **duration) == 1
    assert of(found, "endcap_request_duration_seconds_sum", **duration) == 0.004
    assert of(found, "endcap_stage_duration_seconds_count", stage="tower", model="shoes") == 1
    assert of(found, "endcap_stage_duration_seconds_count", stage="queue", model="") == 1
    assert of(found, "endcap_batch_size_bucket", le="4.0") == 0
    assert of(found, "endcap_batch_size_bucket", le="8.0") == 1
    assert of(found, "endcap_version_loads_total", model="shoes", status="ERROR") == 1
    assert of(found, "endcap_refused_total", reason="client") == 2
    assert of(found, "endcap_ready") == 1


def test_tensorflow_servings_names() -> None:
    text = some().exposition()
    found = samples(text)
    count = ":tensorflow:serving:request_count"
    by_status = {status: of(found, count, model_name="shoes", status=status) for status in
                 ("OK", "INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "UNKNOWN")}  # fmt: skip
    assert by_status == {"OK": 2, "INVALID_ARGUMENT": 1, "RESOURCE_EXHAUSTED": 2, "UNKNOWN": 1}
    rest = {"model_name": "shoes", "API": "predict", "entrypoint": "REST"}
    latency = ":tensorflow:serving:request_latency"
    assert of(found, f"{latency}_sum", **rest) == pytest.approx(4000)
    # The bounds are 10 * 1.8^i microseconds: 3570 is the tenth power, 6427 the one after.
    assert [of(found, f"{latency}_bucket", le=le, **rest) for le in ("3570.47", "6426.84", "+Inf")] == [0, 1, 1]
    assert of(found, f"{latency}_count", model_name="shoes", API="Predict", entrypoint="GRPC") == 1
    assert (
        of(found, ":tensorflow:serving:runtime_latency_count", model_name="shoes", API="Predict", runtime="ONNX") == 2
    )
    attempts = ":tensorflow:cc:saved_model:load_attempt_count"
    assert [of(found, attempts, model_path="shoes", status=status) for status in ("success", "fail")] == [1, 1]
    assert of(found, ":tensorflow:cc:saved_model:load_latency", model_path="shoes") == 1_500_000
    assert b"# TYPE :tensorflow:serving:request_latency histogram" in text
    assert b'\n:tensorflow:serving:request_count{model_name="shoes",status="OK"} 2.0\n' in text
    assert sum(name == f"{latency}_bucket" for name, _ in found) == 2 * 34


def test_processes_add_up() -> None:
    one, other = some(0.004), some(2.0)
    other.of_model("hats").count_status(200)
    other.gauges["endcap_ready"] = lambda: {(): 0.0}
    states = [json.loads(json.dumps(metrics.state())) for metrics in (one, other)]
    found = samples(exposition(merge(states)))
    assert of(found, "endcap_requests_total", route="predict", code="200") == 2
    duration = {"model": "shoes", "entrypoint": "REST"}
    assert of(found, "endcap_request_duration_seconds_count", **duration) == 2
    assert of(found, "endcap_request_duration_seconds_bucket", le="0.005", **duration) == 1
    assert of(found, "endcap_request_duration_seconds_sum", **duration) == pytest.approx(2.004)
    assert of(found, "endcap_connections") == 6
    assert of(found, "endcap_ready") == 0
    assert of(found, "endcap_release_info", model="shoes", version="1", name="n", digest="d") == 1
    assert of(found, ":tensorflow:serving:request_count", model_name="shoes", status="OK") == 4
    assert of(found, ":tensorflow:serving:request_count", model_name="hats", status="OK") == 1
    assert exposition(merge([states[0]])) == one.exposition()


def test_no_name_breaks_the_text() -> None:
    metrics = Metrics()
    metrics.of_model('a"b\\c\nd').count_status(200)
    assert (
        of(samples(metrics.exposition()), ":tensorflow:serving:request_count", model_name='a"b\\c\nd', status="OK") == 1
    )


def test_a_server_counts_by_stage_model_and_entrypoint(server: Any) -> None:
    def read() -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        return samples(server.ask("GET", "/monitoring/prometheus/metrics").body)

    server.predict({"instances": [{"user_id": "cyd"}]})
    before = read()
    server.predict({"instances": [{"user_id": "cyd"}]})
    server.predict({"instances": [{"user_id": 7}]})
    after = read()

    def grown(name: str, **labels: str) -> float:
        return of(after, name, **labels) - before.get((name, frozenset(labels.items())), 0.0)

    for stage in ("features", "tower", "search", "serialize"):
        assert grown("endcap_stage_duration_seconds_count", stage=stage, model="recommender") == 1
    rest = {"model_name": "recommender", "API": "predict", "entrypoint": "REST"}
    assert grown(":tensorflow:serving:request_latency_count", **rest) == 1
    assert grown(":tensorflow:serving:request_count", model_name="recommender", status="OK") == 1
    assert grown(":tensorflow:serving:request_count", model_name="recommender", status="INVALID_ARGUMENT") == 1
    assert of(after, "endcap_connections") >= 1
    assert of(after, "endcap_requests_in_flight") >= 0
