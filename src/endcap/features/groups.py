"""Events of products in, the same events of groups of variants out: a shirt in five sizes counts as one product."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from endcap.contracts import columns as c


def by_group(events: ir.Table, items: ir.Table) -> ir.Table:
    """Put `group_id` in the place of `item_id`; products in no group stay what they are.

    Args:
        events: With `item_id`; also a spine, or any other rows.
        items: `item_id, group_id`, each product once.
    """
    grouped = items.filter(items[c.GROUP_ID].notnull()).select(grouped_item_id=c.ITEM_ID, own_group=c.GROUP_ID)
    joined = events.left_join(grouped, events[c.ITEM_ID] == grouped["grouped_item_id"])
    return joined.select(
        **{
            name: ibis.coalesce(joined["own_group"], joined[name]) if name == c.ITEM_ID else joined[name]
            for name in events.columns
        }
    )
