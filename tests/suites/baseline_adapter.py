"""Baselines as the model suite takes them: purchases in, answers by customer number out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from endcap.models.baselines import KINDS
from endcap.models.purchases import DAY_US, Baseline, PurchaseLog
from tests.suites.model_suite import LAST_DAY, Answer, Asked, Shop


@dataclasses.dataclass(frozen=True)
class FittedBaseline:
    """A baseline, the numbers of its customers, and one number more for whoever has bought nothing."""

    baseline: Baseline
    items: tuple[str, ...]
    user_nums: Mapping[str, int]

    def recommend(self, asked: Sequence[Asked], k: int, *, exclude_seen: bool) -> list[Answer]:
        """A baseline knows what customers bought; without a history it is told of nobody."""
        nums = [self.user_nums[one.user_id] if one.history else len(self.user_nums) for one in asked]
        ranked = self.baseline.recommend(np.array(nums, np.int64), k, exclude_seen=exclude_seen)
        return [
            Answer(tuple(self.items[item] for item in items if item >= 0), tuple(scores[items >= 0].tolist()))
            for items, scores in zip(ranked.item_nums, ranked.scores, strict=True)
        ]

    def numbers(self) -> Mapping[str, np.ndarray]:
        """Scores of everybody: what a baseline keeps is its own affair."""
        nums = np.arange(len(self.user_nums) + 1)
        ranked = self.baseline.recommend(nums, len(self.items), exclude_seen=False)
        return {"item_nums": ranked.item_nums, "scores": ranked.scores}


@dataclasses.dataclass(frozen=True)
class BaselineAdapter:
    """A kind of `endcap.models.baselines` with settings of its own."""

    name: str
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    takes_seed: bool = False

    def fit(self, shop: Shop, seed: int) -> FittedBaseline:
        """Fit on the shop's purchases; a basket is what a customer bought on one day."""
        user_nums = {user: num for num, user in enumerate(dict.fromkeys(line.user_id for line in shop.purchases))}
        item_nums = {item: num for num, item in enumerate(shop.items)}
        columns = [
            (user_nums[line.user_id], item_nums[line.item_id], user_nums[line.user_id], line.day * DAY_US)
            for line in shop.purchases
        ]
        users, items, baskets, moments = (np.array(column, np.int64) for column in zip(*columns, strict=True))
        log = PurchaseLog(users, items, baskets, moments, len(user_nums) + 1, len(shop.items))
        more = {"seed": seed} if self.takes_seed else {}
        baseline = KINDS[self.name].fit(log, (LAST_DAY + 1) * DAY_US, **self.settings, **more)
        return FittedBaseline(baseline, shop.items, user_nums)
