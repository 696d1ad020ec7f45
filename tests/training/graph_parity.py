"""A module and its inputs in, held against its graph on random ones: of one row and of several, of short lists and of long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from endcap.training.export import Given, export_module

HIGHEST = 5
"""Every index lies below it."""
SIZES = [(1, 1), (1, 6), (7, 1), (7, 4)]
"""Rows, and the least length of what may be of any."""


def with_random_weights(module: nn.Module) -> nn.Module:
    """No weight is zero, nor is what batch norm has seen that of the start."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 2)
        for name, tensor in module.named_buffers():
            if name.endswith(("running_var", "moments_2")):
                tensor.abs_().add_(0.1)
    return module.eval()


def drawn(given: Sequence[Given], num_rows: int, shortest: int) -> list[Tensor]:
    """Random inputs; the first row of each has only padding, and what is as long as something else is it."""
    generator = torch.Generator().manual_seed(100 * num_rows + shortest)
    lengths = {"batch": num_rows}
    for one in given:
        for dim in one.dims[1:]:
            if isinstance(dim, str):
                lengths.setdefault(dim, shortest + len(lengths) - 1)
    tensors = []
    for one in given:
        shape = [lengths[dim] if isinstance(dim, str) else dim for dim in one.dims]
        if one.dtype == torch.int64:
            x = torch.randint(0, HIGHEST, shape, generator=generator)
        else:
            x = torch.randn(shape, generator=generator) * 3
            x = x.abs().round() if one.name.startswith("bought") else x
        if num_rows > 1 and len(shape) > 1:
            x[0] = 0
        tensors.append(x)
    return tensors


def run(graph: onnx.ModelProto, given: Sequence[Given], tensors: Sequence[Tensor]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray] = session.run(None, {one.name: x.numpy() for one, x in zip(given, tensors, strict=True)})
    return found


def assert_same(module: nn.Module, given: Sequence[Given]) -> onnx.ModelProto:
    """The module and its graph answer the same, of one row and of several, of short lists and of long ones."""
    module = with_random_weights(module)
    with torch.no_grad():
        first = module(*drawn(given, 7, 4))
    outputs = [f"out {place}" for place in range(len(first) if isinstance(first, tuple) else 1)]
    graph = export_module(module, given, outputs)
    onnx.checker.check_model(graph, full_check=True)
    for num_rows, shortest in SIZES:
        tensors = drawn(given, num_rows, shortest)
        with torch.no_grad():
            said = module(*tensors)
        for found, expected in zip(
            run(graph, given, tensors), said if isinstance(said, tuple) else (said,), strict=True
        ):
            assert found.dtype == expected.numpy().dtype
            assert found.shape == tuple(expected.shape)
            np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-5)
    return graph
