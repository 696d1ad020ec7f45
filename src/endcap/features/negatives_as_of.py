"""Questions of many days in, negatives drawn for each from what was known at the midnight that began its day out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.events import PURCHASE, US_PER_DAY
from endcap.engines.portable import nullable
from endcap.features.as_of import FOREVER_US, with_category
from endcap.features.exact import MOMENT_US, QUERY_NUM
from endcap.features.negatives import NUM, Kind, draw_negatives

Drawer = Callable[[pa.Table, pa.Table], pa.Table]

_KNOWN_US: Final = "known_us"
_DAY: Final = "day"


class CatalogByDay:
    """The products that were known at a midnight, how often each was bought until then, and their category then."""

    def __init__(self, connection: Backend, events: ir.Table, item_versions: ir.Table, items: ir.Table) -> None:
        """Count once what every day needs."""
        self._connection, self._versions = connection, item_versions
        named = events.filter(events[c.ITEM_ID].notnull())
        # An event is known after its own microsecond, a range of the catalog from it on.
        seen = named.group_by(c.ITEM_ID).aggregate(at_us=named[c.TS_US].min() + 1)
        # From the beginning of time holds what has no date: it says nothing about when the product came.
        dated = item_versions.filter(item_versions[c.VALID_FROM_US] > 0)
        listed = dated.group_by(c.ITEM_ID).aggregate(at_us=dated[c.VALID_FROM_US].min())
        either = nullable(seen).union(nullable(listed))
        known = either.group_by(c.ITEM_ID).aggregate(**{_KNOWN_US: either["at_us"].min()})
        groups = items.select(c.ITEM_ID, c.GROUP_ID)
        self._items = connection.to_pyarrow(known.left_join(groups, c.ITEM_ID).select(c.ITEM_ID, _KNOWN_US, c.GROUP_ID))
        self._items = self._items.sort_by(c.ITEM_ID)
        bought = events.filter(events[c.EVENT_TYPE] == PURCHASE)
        by_day = bought.select(c.ITEM_ID, day=(bought[c.TS_US] // US_PER_DAY).cast("int64"))
        daily = connection.to_pyarrow(by_day.group_by(c.ITEM_ID, _DAY).aggregate(num=by_day.count()).order_by(_DAY))
        self._days = daily[_DAY].to_numpy()
        places = pc.index_in(daily[c.ITEM_ID], value_set=self._items[c.ITEM_ID].combine_chunks())
        self._places, self._nums = np.asarray(places.to_numpy(), np.int64), daily["num"].to_numpy()

    def at(self, day: int, kind: Kind) -> pa.Table:
        """The catalog as of the midnight that begins `day`: `item_id, group_id`, and what `kind` needs."""
        midnight_us = day * US_PER_DAY
        catalog = self._items
        if kind == "popular":
            until = int(np.searchsorted(self._days, day))
            num = np.bincount(self._places[:until], weights=self._nums[:until], minlength=catalog.num_rows)
            catalog = catalog.append_column(NUM, pa.array(num.astype(np.int64)))
        known = catalog.filter(pc.less_equal(catalog[_KNOWN_US], midnight_us)).drop_columns([_KNOWN_US])
        if kind != "in_category":
            return known
        asked = ibis.memtable(known).mutate(at_us=ibis.literal(midnight_us, "int64"))
        held = self._versions.filter(
            self._versions[c.VALID_FROM_US] <= midnight_us,
            self._versions[c.VALID_TO_US].fill_null(FOREVER_US) > midnight_us,
        )
        return self._connection.to_pyarrow(with_category(asked, held, moment="at_us").drop("at_us"))


def draw_as_of(
    questions: pa.Table,
    catalogs: CatalogByDay,
    kind: Kind,
    *,
    num_negatives: int,
    seed: int,
    excluded: Callable[[pa.Table], pa.Table] | None = None,
) -> pa.Table:
    """`draw_negatives` for questions of any moments, each from the catalog of the midnight before it.

    Questions for which nothing can be drawn, such as those of the shop's first day, get none. `excluded` gives what isn't
    drawn for some questions; it is asked for a day's at a time. `query_num, place, item_id`, by `query_num` and `place`.
    """
    days = questions[MOMENT_US].to_numpy() // US_PER_DAY
    parts = []
    for day in np.unique(days).tolist():
        own = questions.filter(pa.array(days == day))
        catalog = catalogs.at(day, kind)
        left_out = excluded(own) if excluded is not None else None
        drawn = draw_negatives(
            own, catalog, kind, num_negatives=num_negatives, seed=seed, excluded=left_out, may_fall_short=True
        )
        parts.append(drawn)
    return pa.concat_tables(parts).sort_by([(QUERY_NUM, "ascending"), ("place", "ascending")])
