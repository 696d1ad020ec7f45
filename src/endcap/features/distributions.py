"""Values in, a few bars that show how they lie out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec
import numpy as np
import numpy.typing as npt

NUM_BARS = 16
NUM_CATEGORIES = 12
_FEW = 12


class Bar(msgspec.Struct, frozen=True):
    """So many rows with what the label says."""

    label: str
    count: int


class Distribution(msgspec.Struct, frozen=True):
    """Bars in the order of what they stand for; `what` says what is counted."""

    what: str
    bars: list[Bar]
    is_ordered: bool
    """Whether neighbours are close to each other: numbers, moments, lengths. Otherwise values, the commonest first."""
    num_missing: int = 0
    summary: str = ""
    """A few figures in words."""

    @classmethod
    def of_bars(
        cls, what: str, bars: list[tuple[str, int]], *, ordered: bool = True, num_missing: int = 0, summary: str = ""
    ) -> Distribution:
        """From pairs of label and count."""
        return cls(what, [Bar(label, count) for label, count in bars], ordered, num_missing, summary)


def of_numbers(values: npt.NDArray[np.float64]) -> Distribution:
    """A bar for each number where they are few, else equal bars.

    Those reach from the 1st to the 99th percentile; the outer ones hold what lies beyond.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0:
        return Distribution.of_bars("number", [], num_missing=len(values))
    low, middle, high = np.quantile(finite, [0.01, 0.5, 0.99])
    summary = f"{_short(finite.min())} to {_short(finite.max())}, median {_short(middle)}, mean {_short(finite.mean())}"
    distinct, counts = np.unique(finite, return_counts=True)
    if len(distinct) <= _FEW:
        bars = [(_short(value), int(count)) for value, count in zip(distinct, counts, strict=True)]
    else:
        low, high = (low, high) if low < high else (finite.min(), finite.max())
        counts, edges = np.histogram(np.clip(finite, low, high), bins=NUM_BARS, range=(low, high))
        bars = [(_short(edge), int(count)) for edge, count in zip(edges[:-1], counts, strict=True)]
    return Distribution.of_bars("number", bars, num_missing=len(values) - len(finite), summary=summary)


def of_moments(moments_us: npt.NDArray[np.int64]) -> Distribution:
    """Equal bars from the first to the last moment."""
    if len(moments_us) == 0:
        return Distribution.of_bars("moment", [])
    low, high = int(moments_us.min()), int(moments_us.max())
    counts, edges = np.histogram((moments_us - low).astype(np.float64), bins=NUM_BARS if high > low else 1)
    bars = [(_date(low + int(edge)), int(count)) for edge, count in zip(edges[:-1], counts, strict=True)]
    return Distribution.of_bars("moment", bars, summary=f"{_date(low)} to {_date(high)} (UTC)")


def of_categories(counts: Counter[str], *, num_missing: int = 0, more: Mapping[str, int] | None = None) -> Distribution:
    """The commonest values, ties in their order, and the rest as one."""
    ordered = sorted(((value, count) for value, count in counts.items() if count), key=lambda pair: (-pair[1], pair[0]))
    bars = ordered[:NUM_CATEGORIES]
    if len(ordered) > NUM_CATEGORIES:
        rest = ordered[NUM_CATEGORIES:]
        bars = [*bars, (f"{len(rest):,} others", sum(count for _, count in rest))]
    bars += list((more or {}).items())
    summary = f"{len(ordered):,} values" if len(ordered) != 1 else "1 value"
    return Distribution.of_bars("value", bars, ordered=False, num_missing=num_missing, summary=summary)


def of_lengths(lengths: npt.NDArray[np.int64], what: str) -> Distribution:
    """Rows by how many of something they hold."""
    found = of_numbers(lengths.astype(np.float64))
    return msgspec.structs.replace(found, what=what)


def of_counts(counts: npt.NDArray[np.int64], what: str, *, num_without: int = 0) -> Distribution:
    """How often something occurs: 1, 2, 3 to 4, 5 to 8 times and so on; never is a bar too, where it happens.

    `num_without` rows that have none of it are told in words: the bars count things, not rows.
    """
    if len(counts) == 0:
        return Distribution.of_bars(what, [])
    places = np.where(counts > 0, np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64) + 1, 0)
    bars: list[tuple[str, int]] = []
    for place, count in enumerate(np.bincount(places).tolist()):
        first, last = (2 ** (place - 2) + 1, 2 ** (place - 1)) if place > 1 else (place, place)
        label = f"{first:,}" if first == last else f"{first:,}–{last:,}"
        if place or count:
            bars.append((label, count))
    summary = f"{len(counts):,} of them, the most frequent {int(counts.max()):,} times"
    if num_without:
        summary = f"{summary}; {num_without:,} rows without one"
    return Distribution.of_bars(what, bars, summary=summary)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e9 else f"{value:.4g}"


def _date(ts_us: int) -> str:
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=ts_us)).date().isoformat()
    except OverflowError:
        return f"year {1970 + ts_us / 31_556_952_000_000:,.0f}"
