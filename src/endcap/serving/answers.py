"""Predict requests in, the JSON bodies of their answers out: one batch through the predictor, then serialized."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import orjson

from endcap.contracts.release import Tensor
from endcap.releases.bundle import Release
from endcap.serving.metrics import Metrics
from endcap.serving.predictor import IDS_OUTPUT, SCORES_OUTPUT, Predictor, Recommendation, client_inputs
from endcap.serving.requests import PredictRequest

_TF_TYPES = {"STRING": "DT_STRING", "INT64": "DT_INT64", "FLOAT": "DT_FLOAT"}


class PredictWork:
    """Answers batches of requests; the worker thread calls it."""

    def __init__(self, predictor: Predictor, metrics: Metrics) -> None:
        """Take the loaded release and where its stages are counted."""
        self._predictor = predictor
        self._metrics = metrics

    def __call__(self, requests: Sequence[PredictRequest]) -> list[bytes]:
        """The body of each request's answer."""
        queries = [query for request in requests for query in request.queries]
        found = self._predictor.recommend(queries, self._observe)
        started = time.perf_counter()
        bodies: list[bytes] = []
        place = 0
        for request in requests:
            end = place + len(request.queries)
            bodies.append(_encode(found[place:end], request.is_columns))
            place = end
        self._observe("serialize", time.perf_counter() - started, len(queries))
        return bodies

    def _observe(self, stage: str, seconds: float, _num_instances: int) -> None:
        self._metrics.stages[stage].observe(seconds)


def _encode(found: Sequence[Recommendation], is_columns: bool) -> bytes:
    answer: dict[str, Any]
    if is_columns:
        answer = {
            "outputs": {
                IDS_OUTPUT: [recommendation.product_ids for recommendation in found],
                SCORES_OUTPUT: [recommendation.scores for recommendation in found],
            }
        }
    else:
        answer = {
            "predictions": [
                {IDS_OUTPUT: recommendation.product_ids, SCORES_OUTPUT: recommendation.scores}
                for recommendation in found
            ]
        }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def describe_signatures(release: Release, predictor: Predictor, model_name: str, version: int) -> dict[str, Any]:
    """The metadata answer, in TensorFlow Serving's shape."""
    definitions: dict[str, Any] = {}
    for name, signature in release.manifest.signatures.items():
        inputs = client_inputs(predictor.decoder) if name == predictor.signature_name else signature.inputs
        definitions[name] = {
            "inputs": {tensor.name: _describe_tensor(tensor) for tensor in inputs},
            "outputs": {tensor.name: _describe_tensor(tensor) for tensor in signature.outputs},
            "method_name": "tensorflow/serving/predict",
        }
    return {
        "model_spec": {"name": model_name, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": definitions}},
    }


def _describe_tensor(tensor: Tensor) -> dict[str, Any]:
    return {
        "dtype": _TF_TYPES[tensor.dtype],
        "tensor_shape": {"dim": [{"size": str(size), "name": ""} for size in tensor.shape], "unknown_rank": False},
        "name": f"{tensor.name}:0",
    }
