"""The hand-written protobuf is a valid model that ONNX's own checker and runtime agree on."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

from endcap.retrieval.onnx_bytes import int8_product_graph


def test_is_a_valid_model_and_multiplies() -> None:
    rng = np.random.default_rng(0)
    matrix = rng.integers(-64, 65, (7, 300)).astype(np.int8)
    raw = int8_product_graph(matrix, 128, 4)
    model = onnx.load_from_string(raw)
    onnx.checker.check_model(model, full_check=True)
    np.testing.assert_array_equal(numpy_helper.to_array(model.graph.initializer[0]), matrix)
    queries = rng.integers(0, 256, (5, 7)).astype(np.uint8)
    session = ort.InferenceSession(raw, providers=["CPUExecutionProvider"])
    scores, maxima = session.run(["scores", "maxima"], {"query": queries})
    np.testing.assert_array_equal(scores, (queries.astype(np.int32) - 128) @ matrix.astype(np.int32))
    np.testing.assert_array_equal(maxima, scores.reshape(5, 75, 4).max(axis=2))


def test_extreme_levels_do_not_saturate() -> None:
    matrix = np.full((64, 40), 64, dtype=np.int8)
    matrix[:, ::2] = -64
    session = ort.InferenceSession(int8_product_graph(matrix, 128, 2), providers=["CPUExecutionProvider"])
    for level in (1, 255):
        (scores,) = session.run(["scores"], {"query": np.full((3, 64), level, dtype=np.uint8)})
        np.testing.assert_array_equal(scores, np.full((3, 64), level - 128) @ matrix.astype(np.int32))
