"""A workspace and the test period's purchases in, the groups that figures are shown for out.

Always: how long customers and products have been around. On demand any column that says something of customers, of products
or of the purchase itself, such as a country, a category or a device.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts import columns as c
from endcap.contracts.encoded import Side
from endcap.contracts.errors import InputError
from endcap.contracts.events import ATTRIBUTES, EVENTS, ITEMS, PURCHASE, USERS
from endcap.contracts.features import Column
from endcap.engines import duckdb
from endcap.evaluation.slices import SliceColumn, slice_by, slice_by_count
from endcap.features.as_of import FROM_US, UNTIL_US
from endcap.features.attributes import names_of, ranges_of
from endcap.features.dataset import FeatureTables, day_of
from endcap.features.point_in_time import DAY_US
from endcap.workspace import tables as stored
from endcap.workspace.layout import Workspace

SLICE_COLUMNS = "evaluation.slice_columns"
_CUSTOMER_AGES = (("up to 30", 0, 30), ("31 to 90", 31, 90), ("more than 90", 91, None))
_PRODUCT_AGES = (("first sold in the test period", -1, -1), *_CUSTOMER_AGES)
_LABEL = Column.model_validate({"type": "STRING", "embedding": {}})
_KEYS: dict[Side, str] = {"buyer": c.USER_ID, "product": c.ITEM_ID}

IntArray = npt.NDArray[np.int64]


def slices_of(workspace: Workspace, tables: FeatureTables, names: Sequence[str], bought: pa.Table) -> list[SliceColumn]:
    """A slice column for the age of customers, that of products, and each of `names`.

    `bought` are pairs `user_id, item_id` of the test period; codes stand in their order. Raises InputError for a name that
    nothing has, with the nearest one that there is.
    """
    purchases, is_known = tables.purchases_before("test")
    earlier = purchases.filter(pa.array(is_known))
    ages = [
        slice_by_count(title, _days_since_first(earlier, key, bought, tables.split.test_start_us), edges)
        for title, key, edges in (
            ("days as a customer", c.USER_ID, _CUSTOMER_AGES),
            ("days since first sold", c.ITEM_ID, _PRODUCT_AGES),
        )
    ]
    return ages + [slice_by(name, _column(workspace, tables, name, bought)) for name in names]


def check_slice_columns(workspace: Workspace, tables: FeatureTables, names: Sequence[str]) -> None:
    """Raise InputError for a name that nothing has, before anything is trained."""
    slices_of(workspace, tables, names, tables.table("purchases").select([c.USER_ID, c.ITEM_ID]).slice(0, 1))


def _days_since_first(earlier: pa.Table, key: str, bought: pa.Table, test_start_us: int) -> IntArray:
    """Whole days from the first purchase to the test period; -1 without one."""
    firsts = earlier.group_by(key).aggregate([(c.TS_US, "min")])
    places = pc.index_in(bought[key], value_set=firsts[key].combine_chunks())
    first_us = firsts[f"{c.TS_US}_min"].take(places)
    days = pc.divide(pc.subtract(test_start_us, first_us), DAY_US)
    return np.asarray(pc.fill_null(pc.max_element_wise(days, 0, skip_nulls=False), -1)).astype(np.int64)


def _column(workspace: Workspace, tables: FeatureTables, name: str, bought: pa.Table) -> pa.ChunkedArray:
    known: list[str] = []
    for key, table in _places(workspace, tables):
        known += [column for column in table.column_names if column != key]
        if name in known:
            places = pc.index_in(bought[key], value_set=table[key].combine_chunks())
            return table[name].take(places)
    said = _said_of_purchases(workspace, tables)
    if name in (names := {one for row in said.values() for one in row}):
        pairs = zip(bought[c.USER_ID].to_pylist(), bought[c.ITEM_ID].to_pylist(), strict=True)
        texts = [said.get(pair, {}).get(name) for pair in pairs]
        return pa.chunked_array([pa.array([None if text is None else str(text) for text in texts], pa.string())])
    known = sorted({*known, *names})
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    raise InputError(
        f"{SLICE_COLUMNS}: nothing has a column {name}; customers, products and purchases have {', '.join(known)}."
        + (f" Did you mean {close[0]}?" if close else "")
    )


def _places(workspace: Workspace, tables: FeatureTables) -> Iterator[tuple[str, pa.Table]]:
    """Tables that may have a column, each with the key that its rows are found by."""
    products = tables.products_on(day_of(tables.split.test_start_us)).drop_columns(["day"])
    yield c.USER_ID, stored.read_table(workspace, USERS)
    yield c.ITEM_ID, stored.read_table(workspace, ITEMS)
    yield c.ITEM_ID, products
    if stored.version_in_force(workspace, ATTRIBUTES) is None:
        return
    stated = stored.read_table(workspace, ATTRIBUTES)
    for side, table in (("buyer", stored.read_table(workspace, USERS)), ("product", products)):
        of_side: Side = "buyer" if side == "buyer" else "product"
        key = _KEYS[of_side]
        columns = dict.fromkeys(names_of(stated, of_side), _LABEL)
        ranges = ranges_of(table.select([key]), key, stated, of_side, columns)
        moment = tables.split.test_start_us
        held = pc.and_(pc.less_equal(ranges[FROM_US], moment), pc.greater(ranges[UNTIL_US], moment))
        yield key, ranges.filter(held).drop_columns([FROM_US, UNTIL_US])


def _said_of_purchases(workspace: Workspace, tables: FeatureTables) -> dict[tuple[str, str], dict[str, object]]:
    """What the first purchase of each pair in the test period says of itself."""
    with duckdb.session(workspace) as connection:
        wanted = [c.USER_ID, c.ITEM_ID, c.TS_US, c.EVENT_TYPE, c.PROPERTIES]
        events = duckdb.scan_table(connection, workspace, EVENTS, columns=wanted)
        late = (events[c.TS_US] >= tables.split.test_start_us) if tables.split.kind == "time" else True
        lines = events.filter((events[c.EVENT_TYPE] == PURCHASE) & events[c.PROPERTIES].notnull() & late)
        rows = connection.to_pyarrow(lines.order_by(c.TS_US)).to_pylist()
    said: dict[tuple[str, str], dict[str, object]] = {}
    for row in rows:
        said.setdefault((row[c.USER_ID], row[c.ITEM_ID]), msgspec.json.decode(row[c.PROPERTIES]))
    return said
