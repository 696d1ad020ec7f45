"""Each torch function that has nodes: ONNX Runtime computes by them what torch does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from endcap.training.export import Given
from endcap.training.torch_nodes import FUNCTIONS
from tests.training.graph_parity import HIGHEST, assert_same


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def floats(name: str, *dims: int | str) -> Given:
    return Given(name, torch.float32, ("batch", *dims))


INDEX = Given("index", torch.int64, ("batch",))
X, Y = floats("x", 4), floats("y", 4)
LIST = floats("list", "length")
BY_FUNCTION: dict[Callable[..., Any], list[tuple[Callable[..., Any], Sequence[Given]]]] = {
    Tensor.add: [(lambda x, y: x + y, [X, Y]), (lambda x: 1 + x, [X]), (lambda i: i + 0.5, [INDEX])],
    Tensor.sub: [(lambda x, y: x - y, [X, Y]), (lambda i: i - 1, [INDEX]), (lambda x: random(4) - x, [X])],
    Tensor.__rsub__: [(lambda x: 1.5 - x, [X])],
    Tensor.mul: [(lambda x, y: 2 * x * y, [X, Y]), (lambda x, i: x * (i > 1).unsqueeze(1), [X, INDEX]), (lambda x: 3.0 * (x > 0), [X])],
    Tensor.div: [(lambda x, y: x / (y * y + 1), [X, Y]), (lambda i: i / 2, [INDEX])],
    Tensor.__rdiv__: [(lambda x: 2 / (x * x + 1), [X])],
    Tensor.__pow__: [(lambda x: (x * x + 1) ** -0.3, [X])],
    Tensor.gt: [(lambda x, y: (x > y).long(), [X, Y]), (lambda i: (i > 2).long(), [INDEX])],
    Tensor.__eq__: [(lambda i: (i == 2).long(), [INDEX])],
    Tensor.__and__: [(lambda x, y: ((x > 0) & (y > 0)).long(), [X, Y])],
    Tensor.__invert__: [(lambda x: (~(x > 0)).long(), [X])],
    Tensor.sqrt: [(lambda x: (x * x).sqrt(), [X])],
    Tensor.square: [(lambda x: x.square(), [X])],
    Tensor.clamp: [(lambda x: x.clamp(-0.5, 1), [X]), (lambda x: x.clamp(min=0.0), [X]), (lambda x: x.clamp(max=1.0), [X])],
    Tensor.sum: [(lambda x: x.sum(1), [X]), (lambda x: x.sum(-1, keepdim=True), [X]), (lambda x: x.sum(1), [LIST])],
    Tensor.mean: [(lambda x, y: torch.stack([x, y]).mean(0), [X, Y])],
    Tensor.amin: [(lambda x: x.amin(1), [LIST])],
    Tensor.to: [(lambda i: i.to(torch.float32), [INDEX]), (lambda x: (x > 0).to(x.dtype), [X])],
    Tensor.long: [(lambda x: x.clamp(0, 9).long(), [X])],
    Tensor.dim: [(lambda x: x * x.dim(), [X])],
    Tensor.unsqueeze: [(lambda x: x.unsqueeze(1), [X]), (lambda x: x.unsqueeze(-1), [X])],
    Tensor.squeeze: [(lambda x: x[:, :1].squeeze(1), [X])],
    Tensor.reshape: [
        (lambda x: x.reshape(-1), [LIST]), (lambda x: x.reshape(x.shape[0], 1, x.shape[1]), [LIST]),
        (lambda x: x.reshape(-1).reshape(x.shape), [LIST]), (lambda x: x.reshape((x.shape[0] * 2, 2)), [X]),
    ],
    Tensor.expand: [
        (lambda x, y: x.unsqueeze(1).expand(-1, y.shape[1], -1), [X, LIST]),
        (lambda x: x.unsqueeze(1).expand(-1, 3, -1), [X]),
    ],
    Tensor.chunk: [(lambda x: x.chunk(3, 1), [floats("x", 7)]), (lambda x: x.chunk(1, -1), [X])],
    Tensor.__getitem__: [
        (lambda x: x[:, 1], [X]), (lambda x: x[:, -1], [X]), (lambda x: x[:, 1:3], [X]), (lambda x: x[:, :-1], [X]),
        (lambda x, y: torch.cat([x, y], 1)[:, : x.shape[1]], [LIST, floats("y", "other")]),
        (lambda x: x[:, :0], [X]), (lambda x: x.unsqueeze(1)[:, 0, 2:], [X]),
    ],
    torch.exp: [(torch.exp, [X])],
    torch.log1p: [(lambda x: torch.log1p(x * x), [X])],
    torch.sigmoid: [(torch.sigmoid, [X])],
    torch.tanh: [(torch.tanh, [X])],
    torch.isnan: [(lambda x: torch.isnan(torch.log1p(x.clamp(max=-2.0))).long(), [X])],
    torch.nan_to_num: [
        (lambda x: torch.nan_to_num(torch.where(x > 0, torch.nan, x), nan=7.0), [X]),
        (lambda x: torch.nan_to_num(x / torch.zeros_like(x), nan=0.0), [X]),
    ],
    torch.where: [
        (lambda x, y: torch.where(x > 0, x, y), [X, Y]), (lambda x: torch.where(x > 0, x, torch.tensor(2.0)), [X]),
        (lambda i: torch.where(i > 0, i, 0), [INDEX]),
    ],
    torch.full_like: [(lambda x: torch.full_like(x, torch.inf), [LIST])],
    torch.zeros_like: [(torch.zeros_like, [LIST]), (torch.zeros_like, [INDEX])],
    torch.ones_like: [(torch.ones_like, [LIST])],
    torch.cat: [
        (lambda x, y: torch.cat([x, y], 1), [X, Y]), (lambda x, y: torch.cat([x, y], -1), [X, LIST]),
        (lambda x: torch.cat([x[:, :0], x], 1), [X]), (lambda x: torch.cat([x[:, :0], x[:, 4:]], 1), [X]),
        (lambda i, x: torch.cat([i.unsqueeze(1), x], 1), [INDEX, X]),
    ],
    torch.stack: [(lambda x, y: torch.stack([x, y], 1), [X, Y]), (lambda x, y: torch.stack([x, y], -1), [X, Y])],
    torch.index_select: [(lambda i: torch.index_select(random(HIGHEST, 2).int(), 0, i).long(), [INDEX])],
    functional.embedding: [(lambda i: functional.embedding(i, random(HIGHEST, 2)), [INDEX])],
    functional.linear: [(lambda x: functional.linear(x, random(3, 4), random(3)), [X]), (lambda x: functional.linear(x, random(3, 4)), [X])],
    functional.batch_norm: [
        (lambda x: functional.batch_norm(x, random(4), random(4).abs(), random(4), random(4), training=False), [X])
    ],
    functional.dropout: [(lambda x: functional.dropout(x, 0.5, training=False) + 1, [X])],
    functional.relu: [(functional.relu, [X])],
    functional.gelu: [(functional.gelu, [X]), (lambda x: functional.gelu(x, approximate="tanh"), [X])],
    functional.silu: [(functional.silu, [X])],
    functional.pad: [(lambda x: functional.pad(x, (0, 1)), [X]), (lambda x: functional.pad(x, (2, 0), value=3.0), [X])],
}  # fmt: skip


class Computed(nn.Module):
    def __init__(self, compute: Callable[..., Any]) -> None:
        super().__init__()
        self._compute = compute

    def forward(self, *tensors: Tensor) -> Any:
        return self._compute(*tensors)


def test_every_function_with_nodes_is_held_against_torch() -> None:
    assert BY_FUNCTION.keys() == FUNCTIONS.keys()


@pytest.mark.parametrize("function", BY_FUNCTION, ids=torch.overrides.resolve_name)
def test_a_functions_nodes_compute_what_it_computes(
    function: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    met = []

    def heard(*args: Any, **kwargs: Any) -> Any:
        met.append(function)
        return FUNCTIONS[function](*args, **kwargs)

    monkeypatch.setattr("endcap.training.export.FUNCTIONS", {**FUNCTIONS, function: heard})
    for compute, given in BY_FUNCTION[function]:
        met.clear()
        assert_same(Computed(lambda *x, compute=compute: _tuple(compute(*x))), given)
        assert met, "another function was asked"


def _tuple(said: Any) -> Any:
    return tuple(said) if isinstance(said, list) else said
