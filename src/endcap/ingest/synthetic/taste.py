"""A world and a day in, draws of products by taste and popularity, among those on sale that day, out."""

from __future__ import annotations

from typing import Final

import numpy as np

from endcap.ingest.synthetic.draws import Floats, Ints
from endcap.ingest.synthetic.world import CATEGORIES, DEPARTMENTS, NUM_GROUPS, NUM_TIERS, World

_TASTE_SHARES: Final = np.array([0.55, 0.85, 1.0])
_PER_DEPARTMENT: Final = len(CATEGORIES) // len(DEPARTMENTS)
_NOVELTY: Final = 2.0
_NOVELTY_DAYS: Final = 5.0


class Assortment:
    """The products on sale on one day."""

    def __init__(self, world: World, day: int) -> None:
        """Weigh each product by its popularity, new ones more."""
        items = world.items
        age = day - items.launch_day
        weights: Floats = items.popularity * (age >= 0)
        is_new = (items.launch_day > 0) & (age >= 0)
        weights = weights * np.where(is_new, 1 + _NOVELTY * np.exp(-age / _NOVELTY_DAYS), 1.0)
        self._world = world
        self._order = np.argsort(items.group, kind="stable")
        self._cumulative = np.concatenate([[0.0], np.cumsum(weights[self._order])])
        self._bounds = np.searchsorted(items.group[self._order], np.arange(NUM_GROUPS + 1))

    def anything(self, rng: np.random.Generator, count: int) -> Ints:
        """Products by popularity alone."""
        return self._find(rng.random(count) * self._cumulative[-1])

    def from_groups(self, rng: np.random.Generator, groups: Ints) -> Ints:
        """A product of each group by popularity; any product where the group has none."""
        low = self._cumulative[self._bounds[groups]]
        high = self._cumulative[self._bounds[groups + 1]]
        is_empty = high <= low
        low, high = np.where(is_empty, 0.0, low), np.where(is_empty, self._cumulative[-1], high)
        return self._find(low + rng.random(len(groups)) * (high - low))

    def _find(self, marks: Floats) -> Ints:
        places = np.searchsorted(self._cumulative, marks, side="right") - 1
        # Rounding may lead past the last product on sale.
        last = int(np.searchsorted(self._cumulative, self._cumulative[-1], side="left")) - 1
        found: Ints = self._order[np.clip(places, 0, last)]
        return found

    def favourite_categories(self, rng: np.random.Generator, users: Ints) -> Ints:
        """One of each user's favourites, the dearest most often."""
        which = np.searchsorted(_TASTE_SHARES, rng.random(len(users)), side="right")
        chosen: Ints = self._world.people.tastes[users, np.minimum(which, 2)]
        return chosen

    def groups_of(self, rng: np.random.Generator, users: Ints, categories: Ints) -> Ints:
        """The price tier that suits each user, mostly, in the given categories."""
        is_own = rng.random(len(users)) < 0.7
        tiers = np.where(is_own, self._world.people.tier[users], rng.integers(0, NUM_TIERS, len(users)))
        return categories * NUM_TIERS + tiers


def complements(categories: Ints) -> Ints:
    """The category that is often bought beside each: the department's next."""
    return categories // _PER_DEPARTMENT * _PER_DEPARTMENT + (categories + 1) % _PER_DEPARTMENT
