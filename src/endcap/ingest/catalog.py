"""Accepted rows in, what they say about products, their prices over time and users out."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from endcap.contracts import columns as c
from endcap.contracts.events import PURCHASE


def item_prices(rows: ir.Table) -> ir.Table:
    """Each product's price over time, as ranges that begin at the purchase which first paid it.

    Of several prices at one moment the one of the smallest quantity counts (no bulk discount), then the highest.
    """
    sales = rows.filter(rows[c.EVENT_TYPE] == PURCHASE)
    moment = ibis.window(
        group_by=[sales[c.ITEM_ID], sales[c.TS_US]],
        order_by=[sales[c.QUANTITY], sales[c.PRICE].desc(), sales[c.EVENT_ID]],
    )
    paid = sales.mutate(place=ibis.row_number().over(moment)).filter(lambda t: t.place == 0)
    paid = paid.select(c.ITEM_ID, c.TS_US, c.PRICE)
    by_item = ibis.window(group_by=paid[c.ITEM_ID], order_by=paid[c.TS_US])
    before = paid.mutate(price_before=paid[c.PRICE].lag().over(by_item))
    changes = before.filter(before["price_before"].isnull() | (before["price_before"] != before[c.PRICE]))
    changes = changes.select(
        **{c.ITEM_ID: changes[c.ITEM_ID], c.VALID_FROM_US: changes[c.TS_US], c.PRICE: changes[c.PRICE]}
    )
    by_item = ibis.window(group_by=changes[c.ITEM_ID], order_by=changes[c.VALID_FROM_US])
    ranges = changes.mutate(**{c.VALID_TO_US: changes[c.VALID_FROM_US].lead().over(by_item)})
    return ranges.select(c.ITEM_ID, c.VALID_FROM_US, c.VALID_TO_US, c.PRICE)


def items(rows: ir.Table, prices: ir.Table) -> ir.Table:
    """One row per product: best title, the price in force at the end, currency, first and last sale.

    The best title is the one of most purchases, then the latest, then the first in the alphabet; a product without
    any title is called by its id. A product that was only returned has the price of its latest return.
    """
    latest = ibis.window(group_by=rows[c.ITEM_ID], order_by=[rows[c.TS_US].desc(), rows[c.EVENT_ID].desc()])
    facts = rows.mutate(
        latest_price=rows[c.PRICE].first().over(latest), latest_currency=rows[c.CURRENCY].first().over(latest)
    )
    facts = facts.group_by(c.ITEM_ID).aggregate(
        **{
            "returned_at": facts["latest_price"].min(),
            c.CURRENCY: facts["latest_currency"].min(),
            c.FIRST_SOLD_US: facts[c.TS_US].min(where=facts[c.EVENT_TYPE] == PURCHASE),
            c.LAST_SOLD_US: facts[c.TS_US].max(where=facts[c.EVENT_TYPE] == PURCHASE),
        }
    )
    titled = rows.mutate(sold=(rows[c.EVENT_TYPE] == PURCHASE).cast("int64")).filter(rows[c.TITLE].notnull())
    titles = titled.group_by([c.ITEM_ID, c.TITLE]).aggregate(
        num_sold=titled.sold.sum(), latest_us=titled[c.TS_US].max()
    )
    best = ibis.window(
        group_by=titles[c.ITEM_ID], order_by=[titles.num_sold.desc(), titles.latest_us.desc(), titles[c.TITLE]]
    )
    titles = titles.mutate(place=ibis.row_number().over(best)).filter(lambda t: t.place == 0).select(c.ITEM_ID, c.TITLE)
    last_prices = prices.filter(prices[c.VALID_TO_US].isnull()).select(c.ITEM_ID, c.PRICE)
    joined = facts.left_join(titles, c.ITEM_ID).drop(f"{c.ITEM_ID}_right")
    joined = joined.left_join(last_prices, c.ITEM_ID).drop(f"{c.ITEM_ID}_right")
    return joined.select(
        **{
            c.ITEM_ID: joined[c.ITEM_ID],
            c.TITLE: ibis.coalesce(joined[c.TITLE], joined[c.ITEM_ID]),
            c.PRICE: ibis.coalesce(joined[c.PRICE], joined["returned_at"]),
            c.CURRENCY: joined[c.CURRENCY],
            c.FIRST_SOLD_US: joined[c.FIRST_SOLD_US],
            c.LAST_SOLD_US: joined[c.LAST_SOLD_US],
        }
    )


def users(rows: ir.Table) -> ir.Table:
    """One row per user, with the country of the latest event that names one."""
    latest = ibis.window(
        group_by=rows[c.USER_ID],
        order_by=[rows[c.COUNTRY].isnull(), rows[c.TS_US].desc(), rows[c.EVENT_ID].desc()],
    )
    placed = rows.mutate(place=ibis.row_number().over(latest))
    return placed.filter(placed.place == 0).select(c.USER_ID, c.COUNTRY)
