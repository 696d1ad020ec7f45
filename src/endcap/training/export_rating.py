"""A ranker and its fitted transforms in, `rank.onnx` from raw buyer and product features to a calibrated prediction out.

Row i of every input belongs to pair i. What the history says of the paired product is worked out inside.

Legend: B pairs, L history length, N products, P = B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import onnx
import torch
from onnx import compose
from torch import Tensor, nn

from endcap.evaluation.rating import Calibration
from endcap.features.fitted import FittedFeatures
from endcap.features.transforms.graph import IR_VERSION
from endcap.models.rating import OwnLines, RatedTwoTower
from endcap.models.segments import PaddedSegments
from endcap.models.towers import History, Products
from endcap.training.export import Given, export_module, finish, given_columns

PREDICTION: Final = "prediction"
"""In the shop's own units."""
LEARNED: Final = "learned"
"""The same on the scale that was learned."""
BUYER: Final = "buyer/"
"""Before the names of the buyer's transformed columns in a graph of both sides."""
PRODUCT: Final = "product/"
_TOWER = "tower/"


class _Ranker(nn.Module):
    """Transformed columns of both sides to scores, with the catalog of the release's day for what histories hold."""

    def __init__(
        self, model: RatedTwoTower, fitted: FittedFeatures, base_ND: Tensor, calibration: Calibration, *, is_bce: bool
    ) -> None:
        super().__init__()
        self._model = model
        self._buyer = [name for column in fitted.columns("buyer") for name in column.tensors]
        self._product = [column.name for column in fitted.columns("product")]
        self._sequence = next((column for column in fitted.columns("buyer") if column.kind == "sequence"), None)
        self._id = f"{fitted.definition.item_id}.embedding"
        self._calibration, self._is_bce, self._moments = calibration, is_bce, model.moments
        self.base_ND: Tensor
        self.register_buffer("base_ND", base_ND)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        num_buyer = len(self._buyer)
        tensors = dict(zip(self._buyer, inputs[:num_buyer], strict=True))
        columns = dict(zip(self._product, inputs[num_buyer : num_buyer + len(self._product)], strict=True))
        products = self._model.learned_products(columns)
        item_B = columns[self._id]
        history = None
        nothing_B = torch.zeros_like(products.vector_ND[:, 0])
        own = OwnLines(nothing_B, nothing_B, nothing_B + torch.nan)
        if self._sequence is not None:
            item_BL, age_BL, count_BL = (tensors[name] for name in self._sequence.tensors)
            history = History(
                item_BL.reshape(-1), age_BL.reshape(-1), count_BL.reshape(-1), PaddedSegments(item_BL > 0)
            )
            own = self._own(item_B, item_BL, age_BL, count_BL, inputs[-1])
        queries = self._model.ask(tensors, self.base_ND, history)
        score_B = self._model.rate(tensors, queries, None, products, own)
        mean, std = self._moments
        learned_B = torch.sigmoid(score_B) if self._is_bce else mean + std * score_B
        return calibrated(learned_B, self._calibration)

    def _own(self, item_B: Tensor, item_BL: Tensor, age_BL: Tensor, count_BL: Tensor, last_BL: Tensor) -> OwnLines:
        match_BL = ((item_BL == item_B.unsqueeze(1)) & (item_BL > 0)).to(age_BL.dtype)
        # As many as the history has products, whatever came: a client may give the one without the other.
        last_BL = torch.cat([last_BL, torch.zeros_like(age_BL)], 1)[:, : item_BL.shape[1]]
        last_B = (torch.nan_to_num(last_BL, nan=0.0) * match_BL).sum(1)
        low, high = self._calibration.low, self._calibration.high
        learned_B = last_B.clamp(max(low, -3e38), min(high, 3e38))
        if self._calibration.is_log:
            learned_B = torch.log1p(learned_B.clamp(min=0.0))
        missing_B = torch.full_like(learned_B, torch.nan)
        return OwnLines(
            (count_BL * match_BL).sum(1),
            (age_BL * match_BL).sum(1),
            torch.where(last_B == 0.0, missing_B, learned_B),
        )


def calibrated(learned_B: Tensor, calibration: Calibration) -> tuple[Tensor, Tensor]:
    """Predictions in the shop's own units, and on the learned scale; as `Calibration` has them in NumPy."""
    line, low, high = calibration.line, max(calibration.low, -3e38), min(calibration.high, 3e38)
    learned_B = learned_B * line.slope + line.intercept
    if not calibration.is_log:
        return learned_B.clamp(low, high), learned_B
    own_B = calibration.smearing * torch.exp(learned_B.clamp(max=80.0)) - 1.0
    return own_B.clamp(max(low, 0.0), high), learned_B


def export_ranker(
    model: RatedTwoTower,
    fitted: FittedFeatures,
    products: Products,
    calibration: Calibration,
    path: Path,
    *,
    is_bce: bool = False,
) -> None:
    """Write the graph of pairs: the rating head on both towers; `products` are those of the release's day."""
    buyer, product = fitted.columns("buyer"), fitted.columns("product")
    module = _Ranker(model.eval(), fitted, products.base_ND, calibration, is_bce=is_bce)
    extra = [tensor.name for tensor in fitted.rating_inputs()]
    given = [*given_columns(buyer, BUYER), *given_columns(product, PRODUCT)]
    names = [one.name for one in given]
    given += [Given(name, torch.float32, ("batch", "num_last")) for name in extra]
    tower = export_module(module, given, [PREDICTION, LEARNED])
    write_pairs(fitted, tower, names, {name: name for name in extra}, path)


def write_pairs(
    fitted: FittedFeatures, tower: onnx.ModelProto, inputs: Sequence[str], raw: Mapping[str, str], path: Path
) -> None:
    """Join the preprocessing graphs of both sides and what scores their outputs, and write the whole.

    `raw` says which of the tower's inputs come as they are, and what they are called outside.
    """
    taken = {tensor.name for tensor in fitted.raw_inputs("buyer")}
    merged = compose.add_prefix(tower, _TOWER)
    merged.ir_version = IR_VERSION
    names = {_TOWER + PREDICTION: PREDICTION, _TOWER + LEARNED: LEARNED} | {
        _TOWER + name: public for name, public in raw.items()
    }
    for side, prefix in (("buyer", BUYER), ("product", PRODUCT)):
        features = fitted.graph(side)  # type: ignore[arg-type]
        features.ir_version = IR_VERSION
        for value in features.graph.input:
            name = f"product.{value.name}" if side == "product" and value.name in taken else value.name
            names[prefix + value.name] = name
        met = [name for name in inputs if name.startswith(prefix)]
        merged = compose.merge_models(
            compose.add_prefix(features, prefix), merged, io_map=[(name, _TOWER + name) for name in met],
            outputs=[_TOWER + PREDICTION, _TOWER + LEARNED],
        )  # fmt: skip
    finish(merged, names, path)
