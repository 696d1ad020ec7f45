"""Vectors of both towers and what is known of a customer with a product in, what the customer's line of it will come to out.

The towers are those of retrieval. The head sees the query vector, the item vector and their product, the numbers of both
sides, and what the history says of the product itself: how often and how long ago it was bought, and what its last target
was. A linear term over the numbers carries most of the answer; the dense layers start at zero and learn what it lacks.

Legend: B questions, P pairs of a question and a product, D vector width, F numbers, L history length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from endcap.contracts.configuration import ModelConfig
from endcap.models.encoders import dense_layers
from endcap.models.item_map import MapTables
from endcap.models.neighbors import NeighborTables
from endcap.models.towers import History, Products, Towers
from endcap.models.two_tower import Columns, TwoTower

_NUM_PAIR_FEATURES = 6


class TargetMoments(NamedTuple):
    """Mean and deviation of the learned target over the training lines."""

    mean: float
    std: float


class OwnLines(NamedTuple):
    """What each pair's history says of its product, all [P]: 0 and NaN where the product isn't in it."""

    count_P: Tensor
    age_days_P: Tensor
    last_P: Tensor
    """The last target, on the learned scale; NaN where there is none."""

    def on(self, device: torch.device) -> OwnLines:
        """The same on another device."""
        return OwnLines(*(x.to(device) for x in self))


class RatingHead(nn.Module):
    """The standardised target of a pair."""

    def __init__(self, num_buyer: int, num_product: int, config: ModelConfig, moments: TargetMoments) -> None:
        super().__init__()
        num_numbers = num_buyer + num_product + _NUM_PAIR_FEATURES
        self.linear = nn.Linear(num_numbers, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        width = 3 * (config.tower_dim + 1) + num_numbers
        self.dense = dense_layers(width, config.rating_head, 1, starts_at_zero=True)
        self.dropout = nn.Dropout(config.dropout)
        self.moments_2: Tensor
        self.register_buffer("moments_2", torch.tensor([moments.mean, moments.std]))

    def forward(self, query_PD: Tensor, vector_PD: Tensor, numbers_PF: Tensor, own: OwnLines) -> Tensor:
        """Standardised predictions [P]."""
        numbers_PF = torch.cat([numbers_PF, self._of_pair(own)], 1)
        vectors = self.dropout(torch.cat([query_PD, vector_PD, query_PD * vector_PD], 1))
        rating: Tensor = self.linear(numbers_PF) + self.dense(torch.cat([vectors, numbers_PF], 1))
        return rating.squeeze(1)

    def _of_pair(self, own: OwnLines) -> Tensor:
        is_own_P = (own.count_P > 0).to(own.count_P.dtype)
        has_last_P = is_own_P * (~torch.isnan(own.last_P)).to(own.count_P.dtype)
        last_P = torch.where(has_last_P > 0, own.last_P, self.moments_2[0])
        last_P = ((last_P - self.moments_2[0]) / self.moments_2[1]).clamp(-10.0, 10.0)
        age_P = torch.log1p(own.age_days_P.clamp(min=0.0)) / 2
        return torch.stack(
            [is_own_P, has_last_P, last_P, torch.log1p(own.count_P) * is_own_P, age_P * is_own_P, last_P * age_P], 1
        )


class RatedTowers(Towers):
    """A member with a rating head."""

    def __init__(
        self,
        buyer: Columns,
        product: Columns,
        item_id: str,
        config: ModelConfig,
        moments: TargetMoments,
    ) -> None:
        """`item_id` is the product side's primary id column."""
        super().__init__(buyer, product, item_id, config)
        num_buyer = sum(column.dim for column in buyer if column.kind == "number")
        self.rating_head = RatingHead(num_buyer, self.item_tower.num_numbers, config, moments)
        self.task_log_variance_2 = nn.Parameter(torch.zeros(2)) if config.task_weighting == "learned" else None
        """Of retrieval and of rating, where their weights are learned (Kendall, Gal and Cipolla, CVPR 2018)."""

    def rate(
        self,
        tensors: Mapping[str, Tensor],
        query_BD: Tensor,
        question_P: Tensor | None,
        products: Products,
        own: OwnLines,
    ) -> Tensor:
        """Standardised predictions [P]: of `question_P` among the B questions, with each pair's row of `products`.

        Without `question_P` each pair has a question of its own.
        """
        numbers = [tensors[name] for name in self.buyer_numbers]
        if question_P is not None:
            query_BD = torch.nn.functional.embedding(question_P, query_BD)
            numbers = [number[question_P] for number in numbers]
        rating: Tensor = self.rating_head(
            query_BD, products.vector_ND, torch.cat([*numbers, products.numbers_NF], 1), own
        )
        return rating


class RatedTwoTower(TwoTower):
    """Members with rating heads, whose mean is the prediction."""

    def __init__(
        self,
        buyer: Columns,
        product: Columns,
        item_id: str,
        config: ModelConfig,
        moments: TargetMoments,
        map_tables: MapTables | None = None,
        neighbor_tables: NeighborTables | None = None,
    ) -> None:
        """`item_id` is the product side's primary id column."""
        member = partial(RatedTowers, moments=moments)
        super().__init__(buyer, product, item_id, config, map_tables, neighbor_tables, member=member)

    @property
    def moments(self) -> TargetMoments:
        """Mean and deviation that predictions are standardised by."""
        return TargetMoments(*self._rated[0].rating_head.moments_2.double().tolist())

    def ask(self, tensors: Mapping[str, Tensor], base_ND: Tensor, history: History | None) -> list[Tensor]:
        """Each member's query vectors, [B, D]; `base_ND` is that of `learned_products`."""
        parts = base_ND.chunk(len(self.members), 1)
        return [member.query_tower(tensors, part, history) for member, part in zip(self._rated, parts, strict=True)]

    def rate(
        self,
        tensors: Mapping[str, Tensor],
        queries: Sequence[Tensor],
        question_P: Tensor | None,
        products: Products,
        own: OwnLines,
    ) -> Tensor:
        """Standardised predictions [P]: of the `queries` that `ask` gave, with each pair's row of `learned_products`."""
        vectors = products.vector_ND.chunk(len(self.members), 1)
        rated = [
            member.rate(tensors, query_BD, question_P, products._replace(vector_ND=vector_PD), own)
            for member, query_BD, vector_PD in zip(self._rated, queries, vectors, strict=True)
        ]
        return rated[0] if len(rated) == 1 else torch.stack(rated).mean(0)

    @property
    def _rated(self) -> list[RatedTowers]:
        return list(self.members)  # type: ignore[arg-type]
