"""Rows with a product and a moment in, the same rows with what held for the product at that moment out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import ibis
import ibis.expr.types as ir

from endcap.contracts import columns as c

FOREVER_US: Final = 2**62
"""Later than any moment: the end of a range that is still open."""

FROM_US: Final = "from_us"
UNTIL_US: Final = "until_us"
"""Columns of ranges: what a row says holds for `from_us <= moment < until_us`."""
ATTRIBUTES: Final = (c.PRICE, c.IN_STOCK, c.CATEGORY)
"""What changes with time."""


def as_of(
    rows: ir.Table, item_versions: ir.Table, *, moment: str = c.TS_US, attributes: Sequence[str] = ATTRIBUTES
) -> ir.Table:
    """Add `price`, `in_stock` and `category`, or some of them, as they held at each row's moment; null where none did.

    `valid_from_us <= moment < valid_to_us`: a change counts from its own microsecond on. `rows` hold `item_id` and
    `moment` and no column of these names yet, and keep their number; `item_versions` is the table of that contract.
    """
    ranges = ranges_of(item_versions, attributes)
    joined = rows.left_join(
        ranges,
        [
            rows[c.ITEM_ID] == ranges["range_item_id"],
            ranges["from_us"] <= rows[moment],
            ranges["until_us"] > rows[moment],
        ],
    )
    return joined.select(*[joined[name] for name in rows.columns], *[joined[name] for name in attributes])


def with_category(rows: ir.Table, item_versions: ir.Table, *, moment: str = c.TS_US) -> ir.Table:
    """Add `category` alone; see `as_of`."""
    return as_of(rows, item_versions, moment=moment, attributes=(c.CATEGORY,))


def ranges_of(item_versions: ir.Table, attributes: Sequence[str]) -> ir.Table:
    """`range_item_id, from_us, until_us` and the attributes: how long they stayed, whatever the others did.

    Few ranges keep a join narrow.
    """
    versions = item_versions.select(
        c.ITEM_ID,
        *attributes,
        from_us=item_versions[c.VALID_FROM_US],
        until_us=item_versions[c.VALID_TO_US].fill_null(FOREVER_US),
    )
    by_item = ibis.window(group_by=c.ITEM_ID, order_by="from_us")
    continues = ibis.and_(
        versions["until_us"].lag().over(by_item) == versions["from_us"],
        *(versions[name].lag().over(by_item).identical_to(versions[name]) for name in attributes),
    )
    starts = versions.mutate(start_us=continues.fill_null(False).ifelse(ibis.null("int64"), versions["from_us"]))
    so_far = ibis.window(group_by=c.ITEM_ID, order_by="from_us", preceding=None, following=0)
    # Starts only grow, so the largest so far is the latest: the range's own name.
    dated = starts.mutate(range_us=starts["start_us"].max().over(so_far))
    known = dated.filter(ibis.or_(*(dated[name].notnull() for name in attributes)))
    ranges = known.group_by(c.ITEM_ID, *attributes, "range_us").aggregate(
        from_us=known["from_us"].min(), until_us=known["until_us"].max()
    )
    return ranges.drop("range_us").rename(range_item_id=c.ITEM_ID)
