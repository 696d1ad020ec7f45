"""Events of a day and of a reference in, counts per hour, event type and bin out, with the reference's own counts.

Numbers are binned by the reference's deciles, text by the reference's commonest values and the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Any, Final

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c

NUM_TOP: Final = 20
NUM_PARTS: Final = 10

_KIND: Final = "kind"
_X: Final = "x"
_N: Final = "n"
_BIN: Final = "bin"
_RANK: Final = "rank"


Key = tuple[int | None, str]
"""Hour and event type; None stands for the whole day."""


@dataclass(frozen=True)
class Binned:
    """One column: the reference's counts by event type and bin, the day's by (hour, event type).

    `unseen` counts the day's rows whose value the reference lacks; None for numbers.
    """

    reference: Mapping[str, list[int]]
    actual: Mapping[Key, list[int]]
    unseen: Mapping[Key, int] | None = None
    num_values: Mapping[Key, int] = field(default_factory=dict)


def bin_numbers(connection: Backend, reference: ir.Table, current: ir.Table, column: str) -> Binned:
    """Counts by the deciles of the reference, exact and by nearest rank, one set of bins per event type.

    A bin ends with its decile, which belongs to it; equal deciles make one; the outer bins are open. A column whose
    deciles are all equal gets three bins: below, equal, above. Both tables have the columns `kind` and `column`, the
    day's has `hour`.
    """
    edges, counts = _deciles(connection, reference, column)
    if not edges:
        return Binned({}, {})
    rows = _values(current, column)
    place = ibis.cases(
        *((rows[_KIND] == kind, _place(rows[_X], parts)) for kind, parts in sorted(edges.items())),
        else_=ibis.null("int64"),
    )
    placed = rows.mutate(**{_BIN: place})
    placed = placed.filter(placed[_BIN].notnull())
    grouped = placed.group_by([c.HOUR, _KIND, _BIN]).aggregate(n=placed.count())
    actual: dict[Key, list[int]] = {}
    for row in connection.to_pyarrow(grouped).to_pylist():
        bins = actual.setdefault((row[c.HOUR], row[_KIND]), [0] * len(counts[row[_KIND]]))
        bins[row[_BIN]] += int(row[_N])
    return Binned(counts, actual)


def _place(value: ir.Column, edges: list[Any]) -> ir.Column:
    dtype = value.type()
    bounds = [ibis.literal(edge, dtype) for edge in edges]
    if len(bounds) == 1:
        return (value >= bounds[0]).cast("int64") + (value > bounds[0]).cast("int64")
    return reduce(add, ((value > bound).cast("int64") for bound in bounds))


def _deciles(
    connection: Backend, reference: ir.Table, column: str
) -> tuple[dict[str, list[Any]], dict[str, list[int]]]:
    """Distinct deciles by event type, ascending, and the reference's rows in the bins that they make."""
    rows = _values(reference, column)
    counts = rows.group_by([_KIND, _X]).aggregate(n=rows.count())
    so_far = ibis.window(group_by=_KIND, order_by=_X, preceding=None, following=0)
    summed = counts.mutate(
        up_to=counts[_N].sum().over(so_far).cast("int64"),
        total=counts[_N].sum().over(ibis.window(group_by=_KIND)).cast("int64"),
    )
    # A value is the k-th decile when the rows up to it, but not those before it, reach k tenths of all.
    before = ((summed["up_to"] - summed[_N]) * NUM_PARTS) // summed["total"]
    reached = (summed["up_to"] * NUM_PARTS) // summed["total"]
    found = summed.filter((reached > before) & (before < NUM_PARTS - 1)).order_by([_KIND, _X])
    edges: dict[str, list[Any]] = defaultdict(list)
    sums: dict[str, list[int]] = defaultdict(list)
    totals: dict[str, int] = {}
    for row in connection.to_pyarrow(found.select(_KIND, _X, "up_to", "total")).to_pylist():
        edges[row[_KIND]].append(row[_X])
        sums[row[_KIND]].append(int(row["up_to"]))
        totals[row[_KIND]] = int(row["total"])
    binned = {
        kind: [high - low for low, high in zip([0, *parts], [*parts, totals[kind]], strict=True)]
        for kind, parts in sums.items()
    }
    single = {kind for kind, parts in edges.items() if len(parts) == 1}
    if single:
        binned |= _around(connection, rows.filter(rows[_KIND].isin(sorted(single))), edges)
    return dict(edges), binned


def _around(connection: Backend, rows: ir.Table, edges: Mapping[str, list[Any]]) -> dict[str, list[int]]:
    """The reference's rows below, at and above the one decile of an event type."""
    kinds = connection.to_pyarrow(rows.select(_KIND).distinct())[_KIND].to_pylist()
    place = ibis.cases(
        *((rows[_KIND] == kind, _place(rows[_X], edges[kind])) for kind in sorted(kinds)), else_=ibis.null("int64")
    )
    placed = rows.mutate(**{_BIN: place})
    grouped = placed.group_by([_KIND, _BIN]).aggregate(n=placed.count())
    found: dict[str, list[int]] = {kind: [0, 0, 0] for kind in kinds}
    for row in connection.to_pyarrow(grouped).to_pylist():
        found[row[_KIND]][row[_BIN]] += int(row[_N])
    return found


def bin_texts(connection: Backend, reference: ir.Table, current: ir.Table, column: str) -> Binned:
    """Counts by the reference's `NUM_TOP` commonest values per event type, ties by value, and all the rest together.

    Columns as for `bin_numbers`.
    """
    known = _values(reference, column)
    counts = known.group_by([_KIND, _X]).aggregate(n=known.count())
    order = ibis.window(group_by=_KIND, order_by=[counts[_N].desc(), counts[_X]])
    ranked = counts.mutate(**{_RANK: ibis.row_number().over(order).cast("int64")})
    tops = ranked.group_by(_KIND, **{_BIN: _clipped(ranked[_RANK])}).aggregate(n=ranked[_N].sum())
    expected = _expected(connection.to_pyarrow(tops.order_by([_KIND, _BIN])).to_pylist())
    rows = _values(current, column)
    today = rows.group_by([c.HOUR, _KIND, _X]).aggregate(today=rows.count())
    joined = today.left_join(ranked.rename(known_kind=_KIND, known_x=_X), [(_KIND, "known_kind"), (_X, "known_x")])
    places = joined.group_by(c.HOUR, _KIND, **{_BIN: _clipped(joined[_RANK])}).aggregate(n=joined["today"].sum())
    actual: dict[Key, list[int]] = {}
    unseen: dict[Key, int] = defaultdict(int)
    num_values: dict[Key, int] = defaultdict(int)
    for row in connection.to_pyarrow(places).to_pylist():
        key, count = (row[c.HOUR], row[_KIND]), int(row[_N])
        num_values[key] += count
        unseen[key] += count if row[_BIN] is None else 0
        if row[_KIND] in expected:
            bins = actual.setdefault(key, [0] * len(expected[row[_KIND]]))
            bins[-1 if row[_BIN] is None else row[_BIN]] += count
    return Binned(expected, actual, dict(unseen), dict(num_values))


def _expected(rows: list[dict[str, Any]]) -> dict[str, list[int]]:
    """The reference's rows by event type: its commonest values, then the rest, which may be none."""
    found: dict[str, list[int]] = defaultdict(list)
    for row in rows:
        found[row[_KIND]].append(int(row[_N]))
    return {kind: bins if len(bins) > NUM_TOP else [*bins, 0] for kind, bins in found.items()}


def _clipped(rank: ir.Column) -> ir.Column:
    """The rank, all beyond the top as one; null stays null on every engine."""
    return (rank > NUM_TOP).ifelse(NUM_TOP, rank)


def _values(rows: ir.Table, column: str) -> ir.Table:
    hour = [c.HOUR] if c.HOUR in rows.columns else []
    return rows.filter(rows[column].notnull()).select(*hour, _KIND, **{_X: rows[column]})
