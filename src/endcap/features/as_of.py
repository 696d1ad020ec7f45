"""Rows with a product and a moment in, the same rows with the category that the product was in at that moment out."""

from __future__ import annotations

from typing import Final

import ibis
import ibis.expr.types as ir

from endcap.contracts import columns as c

FOREVER_US: Final = 2**62
"""Later than any moment: the end of a range that is still open."""


def with_category(rows: ir.Table, item_versions: ir.Table, *, moment: str = c.TS_US) -> ir.Table:
    """Add `category` as of each row's `moment`: null for a product that no version names then, or that has none.

    `rows` hold `item_id` and `moment` and no column of that name yet; `item_versions` is the table of that contract.
    """
    ranges = _category_ranges(item_versions)
    joined = rows.left_join(
        ranges,
        [
            rows[c.ITEM_ID] == ranges["range_item_id"],
            ranges["from_us"] <= rows[moment],
            ranges["until_us"] > rows[moment],
        ],
    )
    return joined.select(*[joined[name] for name in rows.columns], joined[c.CATEGORY])


def _category_ranges(item_versions: ir.Table) -> ir.Table:
    """How long each product stayed in a category, whatever its price and stock did: few ranges keep the join narrow."""
    versions = item_versions.select(
        c.ITEM_ID,
        c.CATEGORY,
        from_us=item_versions[c.VALID_FROM_US],
        until_us=item_versions[c.VALID_TO_US].fill_null(FOREVER_US),
    )
    by_item = ibis.window(group_by=c.ITEM_ID, order_by="from_us")
    continues = (versions[c.CATEGORY].lag().over(by_item) == versions[c.CATEGORY]) & (
        versions["until_us"].lag().over(by_item) == versions["from_us"]
    )
    starts = versions.mutate(start_us=continues.fill_null(False).ifelse(ibis.null("int64"), versions["from_us"]))
    so_far = ibis.window(group_by=c.ITEM_ID, order_by="from_us", preceding=None, following=0)
    # Starts only grow, so the largest so far is the latest: the range's own name.
    dated = starts.mutate(range_us=starts["start_us"].max().over(so_far))
    known = dated.filter(dated[c.CATEGORY].notnull())
    ranges = known.group_by(c.ITEM_ID, c.CATEGORY, "range_us").aggregate(
        from_us=known["from_us"].min(), until_us=known["until_us"].max()
    )
    return ranges.drop("range_us").rename(range_item_id=c.ITEM_ID)
