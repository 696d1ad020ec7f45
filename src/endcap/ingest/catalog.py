"""Accepted rows and catalogs in, products, what held for them over time, and users out.

Everything is first reduced by plain aggregates, then ordered: windows over all events would need them all at once.
"""

from __future__ import annotations

import functools
from typing import Final

import ibis
import ibis.expr.types as ir

from endcap.contracts import columns as c
from endcap.contracts.events import ITEM_VERSIONS_TABLE, ITEMS_TABLE, PURCHASE, REFUND
from endcap.engines.portable import nullable

_VERSIONS: Final = ibis.Schema.from_pyarrow(ITEM_VERSIONS_TABLE.schema)
_ATTRIBUTES: Final = (c.PRICE, c.IN_STOCK, c.CATEGORY)


def price_changes(rows: ir.Table) -> ir.Table:
    """When events first had another price of a product than before: `item_id, valid_from_us, price`.

    Refunds don't count. Of several prices at one moment that of the smallest quantity counts (no bulk discount), then
    the highest.
    """
    known = _speaking(rows, c.PRICE)
    pieces = known[c.QUANTITY].fill_null(1).name("pieces")
    highest = known.group_by([c.ITEM_ID, c.TS_US, pieces]).aggregate(**{c.PRICE: known[c.PRICE].max()})
    moment = ibis.window(group_by=[highest[c.ITEM_ID], highest[c.TS_US]], order_by=highest["pieces"])
    placed = highest.mutate(place=ibis.row_number().over(moment))
    first = placed.filter(placed["place"] == 0)
    return changes(first.select(c.ITEM_ID, c.PRICE, **{c.VALID_FROM_US: first[c.TS_US]}), c.PRICE)


def category_changes(rows: ir.Table) -> ir.Table:
    """When events first had another category of a product than before: `item_id, valid_from_us, category`."""
    known = _speaking(rows, c.CATEGORY)
    single = known.group_by([c.ITEM_ID, c.TS_US]).aggregate(**{c.CATEGORY: known[c.CATEGORY].min()})
    return changes(
        single.select(c.ITEM_ID, c.CATEGORY, **{c.VALID_FROM_US: single[c.TS_US]}),
        c.CATEGORY,
    )


def _speaking(rows: ir.Table, name: str) -> ir.Table:
    return rows.filter(rows[name].notnull() & rows[c.ITEM_ID].notnull() & (rows[c.EVENT_TYPE] != REFUND))


def item_versions(prices: ir.Table, categories: ir.Table, catalog: ir.Table | None = None) -> ir.Table:
    """What held for each product over time, as ranges; neighbouring ranges differ in price, stock or category.

    `prices` and `categories` are what events say. From the first moment at which a catalog states an attribute of a
    product it is taken from catalogs alone; what events said before stands. A moment without a word keeps what held.
    """
    said = {c.PRICE: prices, c.CATEGORY: categories}
    if catalog is not None:
        stated = {name: changes(_from_catalog(catalog, name), name) for name in _ATTRIBUTES}
        said = {name: _until_stated(own, stated[name], name) for name, own in said.items()}
        said[c.IN_STOCK] = stated[c.IN_STOCK]
    types = {name: dtype.copy(nullable=True) for name, dtype in _VERSIONS.items()}
    long = [
        table.select(
            **{
                name: (table[name] if name in table.columns else ibis.null()).cast(types[name])
                for name in (c.ITEM_ID, c.VALID_FROM_US, *_ATTRIBUTES)
            }
        )
        for table in said.values()
    ]
    moments = functools.reduce(lambda left, right: left.union(right), long)
    wide = moments.group_by([c.ITEM_ID, c.VALID_FROM_US]).aggregate(
        **{name: moments[name].max() for name in (c.PRICE, c.CATEGORY)},
        **{c.IN_STOCK: moments[c.IN_STOCK].cast("int8").max()},
    )
    return _ranges(wide)


def _until_stated(own: ir.Table, stated: ir.Table, name: str) -> ir.Table:
    """What catalogs state, and before their first word what events said."""
    first = stated.group_by(c.ITEM_ID).aggregate(first_us=stated[c.VALID_FROM_US].min())
    first = first.rename(stated_item_id=c.ITEM_ID)
    joined = own.left_join(first, own[c.ITEM_ID] == first["stated_item_id"])
    before = joined.filter(joined["first_us"].isnull() | (joined[c.VALID_FROM_US] < joined["first_us"]))
    return changes(nullable(stated).union(nullable(before.select(stated.columns))), name)


def _from_catalog(catalog: ir.Table, name: str) -> ir.Table:
    """The same from catalogs; at one moment the last batch in the alphabet counts."""
    known = catalog.filter(catalog[name].notnull())
    last = ibis.window(group_by=[known[c.ITEM_ID], known[c.VALID_FROM_US]], order_by=known[c.BATCH].desc())
    first = known.mutate(place=ibis.row_number().over(last)).filter(lambda t: t.place == 0)
    return first.select(c.ITEM_ID, c.VALID_FROM_US, name)


def changes(said: ir.Table, name: str) -> ir.Table:
    """Of `item_id, valid_from_us, NAME` only the moments at which the attribute became another.

    Changes that were found in days after days, taken together, have the changes of all days.
    """
    by_item = ibis.window(group_by=said[c.ITEM_ID], order_by=said[c.VALID_FROM_US])
    before = said.mutate(before=said[name].lag().over(by_item))
    return before.filter(before["before"].isnull() | (before["before"] != before[name])).drop("before")


def _ranges(wide: ir.Table) -> ir.Table:
    """Moments with the attributes that changed then, to ranges with all attributes."""
    so_far = ibis.window(group_by=wide[c.ITEM_ID], order_by=wide[c.VALID_FROM_US], preceding=None, following=0)
    # The moment of the last word on each attribute, then the word itself: no engine has to ignore nulls in a window.
    dated = wide.mutate(
        **{
            f"{name}_from": ibis.ifelse(wide[name].notnull(), wide[c.VALID_FROM_US], ibis.null("int64"))
            .max()
            .over(so_far)
            for name in _ATTRIBUTES
        }
    )
    filled = dated.select(
        c.ITEM_ID,
        c.VALID_FROM_US,
        **{
            name: dated[name].max().over(ibis.window(group_by=[dated[c.ITEM_ID], dated[f"{name}_from"]]))
            for name in _ATTRIBUTES
        },
    )
    # Before the first word on an attribute its moment is null, and so are all words of that group.
    by_item = ibis.window(group_by=filled[c.ITEM_ID], order_by=filled[c.VALID_FROM_US])
    ranges = filled.mutate(**{c.VALID_TO_US: filled[c.VALID_FROM_US].lead().over(by_item)})
    return ranges.select(**{name: ranges[name].cast(dtype) for name, dtype in _VERSIONS.items()})


def facts(rows: ir.Table) -> ir.Table:
    """What events say of products: one row for each product and each set of title, category, brand, currency.

    `price` is told apart for refunds alone: for all others `price_changes` says it, and this stays small.
    """
    is_sale = rows[c.EVENT_TYPE] == PURCHASE
    refunded = ibis.ifelse(rows[c.EVENT_TYPE] == REFUND, rows[c.PRICE], ibis.null(rows[c.PRICE].type()))
    named = rows.mutate(is_sale=is_sale, **{c.PRICE: refunded}).filter(rows[c.ITEM_ID].notnull())
    return named.group_by([c.ITEM_ID, c.TITLE, c.CATEGORY, c.BRAND, c.CURRENCY, c.PRICE]).aggregate(
        num_sold=named["is_sale"].cast("int64").sum().cast("int64"),
        latest_us=named[c.TS_US].max(),
        **{
            c.FIRST_SOLD_US: named[c.TS_US].min(where=named["is_sale"]),
            c.LAST_SOLD_US: named[c.TS_US].max(where=named["is_sale"]),
        },
    )


def items(facts: ir.Table, versions: ir.Table, catalog: ir.Table | None = None) -> ir.Table:
    """One row per product of events (`facts`) and catalogs, as of the end of the data.

    A catalog's latest word counts, then the events'. The best title of events is the one of most purchases, then the
    latest, then the first in the alphabet; a product without any title is called by its id. A product without a price
    in force has the one of its latest event. Only with a catalog can a product be unknown.
    """
    joined = nullable(
        facts.group_by(c.ITEM_ID).aggregate(
            **{c.FIRST_SOLD_US: facts[c.FIRST_SOLD_US].min(), c.LAST_SOLD_US: facts[c.LAST_SOLD_US].max()}
        )
    )
    if catalog is not None:
        unseen = catalog.select(c.ITEM_ID).distinct().anti_join(joined, c.ITEM_ID)
        none = ibis.null("int64")
        joined = joined.union(nullable(unseen.mutate(**{c.FIRST_SOLD_US: none, c.LAST_SOLD_US: none})))
    parts = {f"own_{name}": _latest(facts, name) for name in (c.PRICE, c.CURRENCY, c.CATEGORY, c.BRAND)}
    parts[f"own_{c.TITLE}"] = _best_title(facts)
    in_force = versions.filter(versions[c.VALID_TO_US].isnull())
    parts |= {f"kept_{name}": in_force.select(c.ITEM_ID, name) for name in _ATTRIBUTES}
    if catalog is not None:
        texts = (c.TITLE, c.BRAND, c.GROUP_ID, c.CURRENCY)
        parts |= {f"catalog_{name}": _last_stated(catalog, name) for name in texts}
        parts["listed"] = catalog.select(c.ITEM_ID).distinct().mutate(listed=True)
    for name, part in parts.items():
        value = next(column for column in part.columns if column != c.ITEM_ID)
        renamed = part.select(**{"part_item_id": part[c.ITEM_ID], name: part[value]})
        joined = joined.left_join(renamed, joined[c.ITEM_ID] == renamed["part_item_id"]).drop("part_item_id")
    return _chosen(joined, has_catalog=catalog is not None)


def _chosen(joined: ir.Table, *, has_catalog: bool) -> ir.Table:
    def first(name: str, *prefixes: str) -> ir.Value:
        found = [joined[f"{prefix}_{name}"] for prefix in prefixes if f"{prefix}_{name}" in joined.columns]
        return ibis.coalesce(*found) if found else ibis.null()

    chosen = {
        c.ITEM_ID: joined[c.ITEM_ID],
        c.TITLE: ibis.coalesce(first(c.TITLE, "catalog", "own"), joined[c.ITEM_ID]),
        c.CATEGORY: first(c.CATEGORY, "kept", "own"),
        c.BRAND: first(c.BRAND, "catalog", "own"),
        c.GROUP_ID: first(c.GROUP_ID, "catalog"),
        c.PRICE: first(c.PRICE, "kept", "own"),
        c.CURRENCY: first(c.CURRENCY, "catalog", "own"),
        c.IN_STOCK: first(c.IN_STOCK, "kept"),
        c.FIRST_SOLD_US: joined[c.FIRST_SOLD_US],
        c.LAST_SOLD_US: joined[c.LAST_SOLD_US],
        c.IS_KNOWN: joined["listed"].fill_null(False) if has_catalog else ibis.literal(True),
    }
    types = ibis.Schema.from_pyarrow(ITEMS_TABLE.schema)
    return joined.select(**{name: value.cast(types[name]) for name, value in chosen.items()})


def _latest(facts: ir.Table, name: str) -> ir.Table:
    """`item_id` and what its latest event said; of several at one moment the first in order, of prices the highest."""
    seen = (
        facts.filter(facts[name].notnull()).group_by([c.ITEM_ID, name]).aggregate(latest_us=ibis._["latest_us"].max())
    )
    value = seen[name].desc() if name == c.PRICE else seen[name]
    best = ibis.window(group_by=seen[c.ITEM_ID], order_by=[seen["latest_us"].desc(), value])
    placed = seen.mutate(place=ibis.row_number().over(best))
    return placed.filter(placed["place"] == 0).select(c.ITEM_ID, name)


def _best_title(facts: ir.Table) -> ir.Table:
    titled = facts.filter(facts[c.TITLE].notnull())
    titles = titled.group_by([c.ITEM_ID, c.TITLE]).aggregate(
        num_sold=titled["num_sold"].sum(), latest_us=titled["latest_us"].max()
    )
    best = ibis.window(
        group_by=titles[c.ITEM_ID], order_by=[titles["num_sold"].desc(), titles["latest_us"].desc(), titles[c.TITLE]]
    )
    placed = titles.mutate(place=ibis.row_number().over(best))
    return placed.filter(placed["place"] == 0).select(c.ITEM_ID, c.TITLE)


def _last_stated(catalog: ir.Table, name: str) -> ir.Table:
    known = catalog.filter(catalog[name].notnull())
    latest = ibis.window(group_by=known[c.ITEM_ID], order_by=[known[c.VALID_FROM_US].desc(), known[c.BATCH].desc()])
    return known.mutate(place=ibis.row_number().over(latest)).filter(lambda t: t.place == 0).select(c.ITEM_ID, name)


def users(rows: ir.Table) -> ir.Table:
    """One row per user, with the country of the latest event that names one; at one moment the first in the alphabet."""
    seen = rows.group_by([c.USER_ID, c.COUNTRY]).aggregate(latest_us=rows[c.TS_US].max())
    latest = ibis.window(
        group_by=seen[c.USER_ID], order_by=[seen[c.COUNTRY].isnull(), seen["latest_us"].desc(), seen[c.COUNTRY]]
    )
    placed = seen.mutate(place=ibis.row_number().over(latest))
    return placed.filter(placed.place == 0).select(c.USER_ID, c.COUNTRY)


def identified(rows: ir.Table, identities: ir.Table) -> ir.Table:
    """Rows of guests as those of the users that they turned out to be."""
    users = identities.select(known_guest=identities[c.GUEST_ID], known_user=identities[c.USER_ID])
    joined = rows.left_join(users, rows[c.USER_ID] == users["known_guest"])
    merged = joined.mutate(**{c.USER_ID: ibis.coalesce(joined["known_user"], joined[c.USER_ID])})
    return merged.drop("known_guest", "known_user")
