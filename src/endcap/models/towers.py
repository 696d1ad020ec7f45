"""Transformed buyer and product columns in, one member's query vectors, item vectors and scores for repeat purchases out.

score(question, product) = query vector · item vector + repeat score, the last for products of the user's history alone.
A plain inner product can tell which products are alike, but can't count: "she buys this every week" needs a place of its
own, as in pointer networks and RepeatNet (Ren et al., AAAI 2019).

Legend: B questions, E entries of their histories, N products (row 0 is the unknown product), D vector width, H heads,
F numbers, K types of events.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from endcap.contracts.configuration import Layer, ModelConfig
from endcap.contracts.encoded import EncodedColumn
from endcap.models.encoders import ColumnEncoder, dense_layers
from endcap.models.segments import Segments

_NUM_HEADS = 2
_ATTENTION_UNITS = 16
_REPEAT_UNITS = 32
_NUM_ENTRY_FEATURES = 4
_MAX_LOGIT = 15.0  # exp of it fits float32 with room for a sum over any history
_ID_STD = 0.05


class History(NamedTuple):
    """Entries of histories: item indexes, age in days, number of baskets, all [E]; how they belong to questions.

    `counted_EK`, where types of events are told apart: how often the product was met in each; 0 where nobody knows.
    """

    item_E: Tensor
    age_days_E: Tensor
    count_E: Tensor
    segments: Segments
    counted_EK: Tensor | None = None


class Products(NamedTuple):
    """What the item tower says of every product as of a day."""

    base_ND: Tensor
    """What the product is, apart from how it sells: what histories are pooled from."""
    vector_ND: Tensor
    """Item vectors, the last dimension a bias."""
    numbers_NF: Tensor
    """Its numbers as of the day, for the repeat head."""


class ItemTower(nn.Module):
    """Item vector = id vector + what the other columns say + a bias from its numbers, such as how it sells lately."""

    def __init__(self, columns: Sequence[EncodedColumn], id_column: str, config: ModelConfig) -> None:
        super().__init__()
        dim = config.tower_dim
        by_name = {column.name: column for column in columns}
        self._id_column = id_column
        numbers = [column for column in columns if column.kind == "number"]
        self._number_names = [column.name for column in numbers]
        self.num_numbers = sum(column.dim for column in numbers)
        self.id_table = nn.Embedding(by_name[id_column].cardinality, by_name[id_column].dim)
        nn.init.normal_(self.id_table.weight, std=_ID_STD)
        same_width = by_name[id_column].dim == dim
        self.id_projection = nn.Identity() if same_width else nn.Linear(by_name[id_column].dim, dim, bias=False)
        described = [column for column in columns if column.kind != "number" and column.name != id_column]
        self.encoder = ColumnEncoder(described)
        self.described = nn.Linear(self.encoder.dim, dim) if described else None
        self.dropout = nn.Dropout(config.dropout)
        self.selling: nn.Module | None = None
        if numbers:
            self.selling = dense_layers(self.num_numbers, config.product_tower, dim + 1, starts_at_zero=True)

    def forward(self, tensors: Mapping[str, Tensor]) -> Products:
        """Vectors of N products from their transformed columns."""
        base_ND = self.id_projection(self.id_table(tensors[self._id_column]))
        if self.described is not None:
            base_ND = base_ND + self.described(self.dropout(self.encoder(tensors)))
        if self.selling is None:
            # By padding and slicing: a length read here would stand in the exported graph as a constant.
            return Products(base_ND, torch.nn.functional.pad(base_ND, (0, 1)), base_ND[:, :0])
        numbers_NF = torch.cat([tensors[name] for name in self._number_names], 1)
        moved = self.selling(numbers_NF)
        padded = torch.nn.functional.pad(base_ND, (0, 1))
        return Products(base_ND, padded + moved, numbers_NF)


class QueryTower(nn.Module):
    """Query vector = projection of the pooled history + dense layers over it and the buyer's columns; then 1 for the bias."""

    def __init__(self, columns: Sequence[EncodedColumn], config: ModelConfig) -> None:
        super().__init__()
        dim = config.tower_dim
        self.has_history = any(column.kind == "sequence" for column in columns)
        pooled_dim = _NUM_HEADS * dim if self.has_history else 0
        self.encoder = ColumnEncoder(columns)
        self.dropout = nn.Dropout(config.dropout)
        self.dense = dense_layers(self.encoder.dim + pooled_dim, config.buyer_tower, dim)
        if self.has_history:
            attention = [Layer(units=_ATTENTION_UNITS)]
            self.attention = dense_layers(num_entry_features(columns), attention, _NUM_HEADS, starts_at_zero=True)
            self.pooled_projection = nn.Linear(pooled_dim, dim, bias=False)
            with torch.no_grad():  # starts as the mean of the heads
                self.pooled_projection.weight.copy_(torch.eye(dim).repeat(1, _NUM_HEADS) / _NUM_HEADS)

    def forward(self, tensors: Mapping[str, Tensor], base_ND: Tensor, history: History | None) -> Tensor:
        """Query vectors [B, D]."""
        encoded = self.dropout(self.encoder(tensors))
        if not self.has_history or history is None:
            vector_BD = self.dense(encoded)
        else:
            pooled = self.dropout(self._pool(base_ND, history))
            vector_BD = self.pooled_projection(pooled) + self.dense(torch.cat([encoded, pooled], 1))
        return torch.cat([vector_BD, torch.ones_like(vector_BD[:, :1])], 1)

    def _pool(self, base_ND: Tensor, history: History) -> Tensor:
        known_E1 = (history.item_E > 0).unsqueeze(1).to(base_ND.dtype)
        logits_EH = self.attention(entry_features(history)).clamp(-_MAX_LOGIT, _MAX_LOGIT)
        weight_EH = torch.exp(logits_EH) * known_E1
        total_BH = history.segments.total(weight_EH) + 1e-6
        weight_EH = weight_EH / history.segments.spread(total_BH)
        vector_ED = torch.nn.functional.embedding(history.item_E, base_ND)
        heads = [history.segments.total(vector_ED * weight_EH[:, head : head + 1]) for head in range(_NUM_HEADS)]
        return torch.cat(heads, 1)


class RepeatHead(nn.Module):
    """How likely the user is to buy a product of the history again, beyond what the vectors say."""

    def __init__(self, num_entry: int, num_buyer: int, num_product: int) -> None:
        super().__init__()
        width = num_entry + num_buyer + num_product
        self.dense = nn.Sequential(
            nn.Linear(width, _REPEAT_UNITS), nn.ReLU(),
            nn.Linear(_REPEAT_UNITS, _REPEAT_UNITS), nn.ReLU(),
            nn.Linear(_REPEAT_UNITS, 1),
        )  # fmt: skip

    def forward(self, history: History, buyer_numbers_BF: Tensor, product_numbers_NF: Tensor) -> Tensor:
        """Scores [E]; 0 for unknown products and padding."""
        product_EF = torch.nn.functional.embedding(history.item_E, product_numbers_NF)
        buyer_EF = history.segments.spread(buyer_numbers_BF)
        score_E = self.dense(torch.cat([entry_features(history), buyer_EF, product_EF], 1)).squeeze(1)
        scores: Tensor = score_E * (history.item_E > 0)
        return scores


class Towers(nn.Module):
    """A query tower, an item tower and a repeat head: what is trained as one."""

    def __init__(
        self, buyer: Sequence[EncodedColumn], product: Sequence[EncodedColumn], item_id: str, config: ModelConfig
    ) -> None:
        """`item_id` is the product side's primary id column."""
        super().__init__()
        self.item_tower = ItemTower(product, f"{item_id}.embedding", config)
        self.query_tower = QueryTower(buyer, config)
        self.buyer_numbers = [column.name for column in buyer if column.kind == "number"]
        """Names of the buyer's columns of numbers, in order."""
        num_entry = num_entry_features(buyer)
        num_buyer = sum(column.dim for column in buyer if column.kind == "number")
        self.repeat_head = RepeatHead(num_entry, num_buyer, self.item_tower.num_numbers) if config.repeat_head else None

    def products(self, tensors: Mapping[str, Tensor]) -> Products:
        """The item tower's say on N products."""
        products: Products = self.item_tower(tensors)
        return products

    def query(
        self, tensors: Mapping[str, Tensor], products: Products, history: History | None
    ) -> tuple[Tensor, Tensor | None]:
        """Query vectors [B, D] and repeat scores [E] (None without a repeat head or a history)."""
        vector_BD = self.query_tower(tensors, products.base_ND, history)
        if self.repeat_head is None or history is None:
            return vector_BD, None
        numbers = [tensors[name] for name in self.buyer_numbers]
        numbers_BF = torch.cat(numbers, 1) if numbers else vector_BD[:, :0]
        return vector_BD, self.repeat_head(history, numbers_BF, products.numbers_NF)


def num_entry_features(buyer: Sequence[EncodedColumn]) -> int:
    """Width of `entry_features`."""
    return _NUM_ENTRY_FEATURES + sum(len(column.counted) for column in buyer)


def entry_columns(history: History) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each entry: count, age, the user's counts together, days before the last one; [E] each, 0 or more."""
    known_E = (history.item_E > 0).to(history.count_E.dtype)
    count_E = history.count_E * known_E
    age_E = history.age_days_E.clamp(min=0.0)
    total_E = history.segments.spread(history.segments.total(count_E.unsqueeze(1)))[:, 0]
    last_E = torch.where(known_E > 0, age_E, torch.full_like(age_E, torch.inf))
    lowest_E = history.segments.spread(history.segments.lowest(last_E).unsqueeze(1))[:, 0]
    gap_E = torch.where(known_E > 0, age_E - lowest_E, torch.zeros_like(age_E)).clamp(min=0.0)
    return count_E, age_E, total_E, gap_E


def entry_features(history: History) -> Tensor:
    """What is told of each entry: count, age, share of the user's purchases, days before the last one, counts by type; [E, 4 + K]."""
    known_E = (history.item_E > 0).to(history.count_E.dtype)
    count_E, age_E, total_E, gap_E = entry_columns(history)
    features = torch.stack(
        [torch.log1p(count_E), torch.log1p(age_E) / 2, count_E / total_E.clamp(min=1.0) * 10, torch.log1p(gap_E) / 2], 1
    )
    if history.counted_EK is not None:
        features = torch.cat([features, torch.log1p(history.counted_EK)], 1)
    return features * known_E.unsqueeze(1)
