"""Transformed columns in, one dense vector a row out.

Legend: B rows, W words of a text, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from endcap.contracts.configuration import Layer
from endcap.contracts.encoded import EncodedColumn

_INIT_STD = 0.05
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh, "linear": nn.Identity
}  # fmt: skip


class ColumnEncoder(nn.Module):
    """Embeds indexes, averages bags of words, passes numbers through, and concatenates all in the order given."""

    def __init__(self, columns: Sequence[EncodedColumn]) -> None:
        super().__init__()
        self._columns = [column for column in columns if column.kind != "sequence"]
        self._places = {column.name: f"table_{place}" for place, column in enumerate(self._columns)}
        self.tables = nn.ModuleDict()
        for column in self._columns:
            if column.kind in ("index", "bag"):
                table = nn.Embedding(column.cardinality, column.dim)
                nn.init.normal_(table.weight, std=_INIT_STD)
                self.tables[self._places[column.name]] = table

    @property
    def dim(self) -> int:
        """Width of the result."""
        return sum(column.dim for column in self._columns)

    def table(self, name: str) -> nn.Embedding:
        """The vectors of an embedded column."""
        table = self.tables[self._places[name]]
        assert isinstance(table, nn.Embedding)  # noqa: S101 - nothing else is in there
        return table

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Encode rows; `tensors` holds each column by name."""
        parts: list[Tensor] = []
        for column in self._columns:
            x = tensors[column.name]
            if column.kind == "number":
                parts.append(x)
                continue
            table = self.tables[self._places[column.name]]
            embedded = table(x)
            parts.append(_masked_mean(embedded, x) if column.kind == "bag" else embedded)
        return torch.cat(parts, dim=1)


def _masked_mean(x_BWD: Tensor, index_BW: Tensor) -> Tensor:
    known_BW1 = (index_BW > 0).unsqueeze(2).to(x_BWD.dtype)
    return (x_BWD * known_BW1).sum(1) / known_BW1.sum(1).clamp(min=1.0)


class PenalizedLinear(nn.Linear):
    """A dense layer whose weights cost something."""

    def __init__(self, input_dim: int, output_dim: int, l2: float) -> None:
        super().__init__(input_dim, output_dim)
        self._l2 = l2

    def penalty(self) -> Tensor:
        """What is added to the loss."""
        return self._l2 * self.weight.square().sum()


def penalty(model: nn.Module) -> Tensor | None:
    """The sum of the penalties of a model's layers; None where none has one."""
    found = [module.penalty() for module in model.modules() if isinstance(module, PenalizedLinear)]
    return torch.stack(found).sum() if found else None


class BatchNorm(nn.BatchNorm1d):
    """Standardises over the rows of a step; a single row, which has no spread, by the running means and variances."""

    sum_across: Callable[[Tensor], Tensor] | None = None
    """Sums over the processes that share the rows of a step, with the gradient; None where all rows are here."""

    def forward(self, x: Tensor) -> Tensor:
        """Rows of one width, [B, D]."""
        if self.training and self.sum_across is not None:
            return self._over_all(x, self.sum_across)
        if not self.training or len(x) > 1:
            normed: Tensor = super().forward(x)
            return normed
        return self._by_running(x)

    def _by_running(self, x: Tensor) -> Tensor:
        # Copies: a second batch of the same step may move the running ones before the gradient comes back.
        mean_D, variance_D = self.running_mean.clone(), self.running_var.clone()  # type: ignore[union-attr]
        return torch.nn.functional.batch_norm(x, mean_D, variance_D, self.weight, self.bias, eps=self.eps)

    def _over_all(self, x: Tensor, sum_across: Callable[[Tensor], Tensor]) -> Tensor:
        counted = sum_across(torch.cat([x.sum(0), x.new_full((1,), len(x))]))
        num = float(counted[-1].detach())
        if num <= 1:
            return self._by_running(x)
        mean_D = counted[:-1] / num
        variance_D = sum_across((x - mean_D).square().sum(0)) / num
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean.lerp_(mean_D, self.momentum)  # type: ignore[union-attr, arg-type]
            self.running_var.lerp_(variance_D * (num / (num - 1)), self.momentum)  # type: ignore[union-attr, arg-type]
        return (x - mean_D) / torch.sqrt(variance_D + self.eps) * self.weight + self.bias


def dense_layers(
    input_dim: int, layers: Sequence[Layer], output_dim: int, *, starts_at_zero: bool = False
) -> nn.Sequential:
    """A stack of dense layers with a linear projection to `output_dim` at the end, whose weights may start at zero."""
    modules: list[nn.Module] = []
    for layer in layers:
        modules.append(
            PenalizedLinear(input_dim, layer.units, layer.l2) if layer.l2 else nn.Linear(input_dim, layer.units)
        )
        if layer.batch_norm:
            modules.append(BatchNorm(layer.units))
        modules.append(_ACTIVATIONS[layer.activation]())
        if layer.dropout:
            modules.append(nn.Dropout(layer.dropout))
        input_dim = layer.units
    last = nn.Linear(input_dim, output_dim)
    if starts_at_zero:
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
    return nn.Sequential(*modules, last)
