"""Purchases in, every model that a candidate must beat, fitted, out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from endcap.models.als import Als
from endcap.models.ease import Ease
from endcap.models.item_knn import ItemKnn
from endcap.models.purchases import Baseline, PurchaseLog
from endcap.models.rules import OwnMostBought, PopularLately

KINDS: Mapping[str, Any] = {kind.name: kind for kind in (PopularLately, OwnMostBought, ItemKnn, Ease, Als)}
"""By name, in the order in which they are shown."""

LEARNED = frozenset({Ease.name, Als.name})
"""Those that are no rules: they are fitted by solving, and may be left out."""


def fit_baseline(
    name: str, purchases: PurchaseLog, split_ts_us: int, window_days: int, settings: Mapping[str, Any]
) -> Baseline:
    """One baseline with these settings, fitted on the purchases before `split_ts_us`."""
    fitted: Baseline = KINDS[name].fit(purchases, split_ts_us, window_days=window_days, **settings)
    return fitted


def fit_baselines(purchases: PurchaseLog, split_ts_us: int, *, window_days: int = 30) -> tuple[Baseline, ...]:
    """Every baseline with its default settings, fitted on the purchases before `split_ts_us`."""
    return tuple(fit_baseline(name, purchases, split_ts_us, window_days, {}) for name in KINDS)
