"""A configuration and a model's weights in, what moves them by their gradients out, and how far at each step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from endcap.contracts.configuration import TrainingConfig

_ADAGRAD_EPSILON = 1e-10
_MOMENTUM = 0.9


class RowWiseAdagrad(torch.optim.Optimizer):
    """Adagrad with one sum of squares a row, for tables of which a step touches few rows (as TorchRec's and FBGEMM's).

    Takes sparse gradients alone: rows that no gradient names are neither read nor written.
    """

    def __init__(self, params: Iterable[Tensor], lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move the rows that have a gradient."""
        del closure
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is None:
                    continue
                grad = table.grad.coalesce()
                rows, grad_RD = grad.indices()[0], grad.values()
                state = self.state[table]
                if not state:
                    state["sum"] = table.new_zeros(len(table))
                sums_R = state["sum"][rows] + grad_RD.square().mean(1)
                state["sum"][rows] = sums_R
                table[rows] -= group["lr"] * grad_RD / (sums_R.sqrt() + _ADAGRAD_EPSILON).unsqueeze(1)


class Optimizers:
    """One optimizer for dense weights and, where tables have sparse gradients, one for those; they share the schedule."""

    def __init__(self, model: nn.Module, settings: TrainingConfig) -> None:
        sparse_names = {
            f"{name}.weight" for name, module in model.named_modules() if getattr(module, "sparse", False) is True
        }
        named = list(model.named_parameters())
        self._dense = [weights for name, weights in named if name not in sparse_names]
        self._tables = [weights for name, weights in named if name in sparse_names]
        self._settings = settings
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = []
        if self._dense:
            self._optimizers.append((_dense_optimizer(self._dense, settings), settings.learning_rate))
        if self._tables:
            rate = settings.sparse_learning_rate or settings.learning_rate
            tables: torch.optim.Optimizer = (
                torch.optim.SparseAdam(self._tables, lr=rate)
                if settings.sparse_optimizer == "sparse_adam"
                else RowWiseAdagrad(self._tables, lr=rate)
            )
            self._optimizers.append((tables, rate))

    @property
    def each(self) -> list[torch.optim.Optimizer]:
        """The optimizers, always in the same order."""
        return [optimizer for optimizer, _ in self._optimizers]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer, _ in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def step(self, factor: float) -> None:
        """Move the weights by their gradients, with each learning rate times `factor`."""
        if self._settings.max_gradient_norm:
            torch.nn.utils.clip_grad_norm_(self._dense, self._settings.max_gradient_norm)
        for optimizer, rate in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * factor
            optimizer.step()


def _dense_optimizer(weights: list[nn.Parameter], settings: TrainingConfig) -> torch.optim.Optimizer:
    # Fused: one pass over a weight and its moments.
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adam":
        return torch.optim.Adam(weights, lr=rate, weight_decay=decay, fused=True)
    if settings.optimizer == "sgd":
        return torch.optim.SGD(weights, lr=rate, weight_decay=decay, momentum=_MOMENTUM, fused=True)
    if settings.optimizer == "adagrad":
        return torch.optim.Adagrad(weights, lr=rate, weight_decay=decay, fused=True)
    return torch.optim.AdamW(weights, lr=rate, weight_decay=decay, fused=True)


def rate_factor(settings: TrainingConfig, step: int, num_steps: int) -> float:
    """Share of the peak learning rate at a step (from 0): rises over `warmup_steps`, then as `schedule` says."""
    warm = min(1.0, (step + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
    done = min(1.0, step / max(num_steps, 1))
    if settings.schedule == "constant":
        return warm
    if settings.schedule == "linear":
        return warm * (1 - done)
    return warm * 0.5 * (1 + math.cos(math.pi * done))
