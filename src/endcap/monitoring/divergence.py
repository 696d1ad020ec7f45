"""Counts per bin of a reference and of what is looked at in, one number out: how far apart the two distributions are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

PSEUDO_COUNT: Final = 0.5
"""Added to every bin of both sides for the population stability index, which an empty bin would make infinite."""


def population_stability_index(reference: Sequence[int], actual: Sequence[int]) -> float | None:
    """Sum of (p - q) ln(p / q), p and q being shares after half a row is added to every bin; None without rows.

    Bins that are empty on both sides are left out. 0 for equal distributions of equally many rows, without an upper
    bound. Half a row is Jeffreys' prior: with few rows an empty bin says little, and a fixed tiny share in its place
    would make it say much.
    """
    if not _comparable(reference, actual):
        return None
    bins = [(r + PSEUDO_COUNT, a + PSEUDO_COUNT) for r, a in zip(reference, actual, strict=True) if r or a]
    q_total, p_total = sum(r for r, _ in bins), sum(a for _, a in bins)
    shares = [(a / p_total, r / q_total) for r, a in bins]
    return math.fsum((p - q) * math.log(p / q) for p, q in shares)


def jensen_shannon_distance(reference: Sequence[int], actual: Sequence[int]) -> float | None:
    """Square root of the Jensen-Shannon divergence in bits, without smoothing; None without rows.

    0 for equal shares, 1 when no bin is shared; a metric (Endres and Schindelin, 2003).
    """
    if not _comparable(reference, actual):
        return None
    q_total, p_total = sum(reference), sum(actual)
    terms = []
    for r, a in zip(reference, actual, strict=True):
        p, q = a / p_total, r / q_total
        middle = (p + q) / 2
        terms += [share * math.log2(share / middle) for share in (p, q) if share]
    # Rounding may leave a trace below 0 for equal shares.
    return math.sqrt(max(math.fsum(terms) / 2, 0.0))


def _comparable(reference: Sequence[int], actual: Sequence[int]) -> bool:
    if len(reference) != len(actual):
        raise ValueError(f"{len(reference)} bins against {len(actual)}")
    return sum(reference) > 0 and sum(actual) > 0
