"""Small event tables written as tuples."""

from decimal import Decimal

import ibis
import pyarrow as pa
import pytest

from endcap.contracts.events import EVENTS_TABLE, ITEM_VERSIONS_TABLE, PURCHASE


@pytest.fixture(scope="session")
def events_of():
    """A function of (user, item, type, ts_us) rows, each with options: value, basket_id, session_id, event_id."""

    def make(rows):
        columns = {name: [] for name in EVENTS_TABLE.schema.names}
        for number, (user, item, kind, ts_us, *more) in enumerate(rows):
            options = more[0] if more else {}
            row = {
                "event_id": f"e{number:04d}", "user_id": user, "item_id": item, "event_type": kind, "ts_us": ts_us,
                "session_id": f"{user}-1", "value": "2.5" if kind == PURCHASE else None, "currency": "GBP",
            } | options  # fmt: skip
            if row["value"] is not None:
                row["value"] = Decimal(row["value"])
            row["event_date"] = ts_us // 86_400_000_000
            for name, values in columns.items():
                values.append(row.get(name))
        types = {field.name: field.type for field in EVENTS_TABLE.schema}
        return ibis.memtable(pa.table({name: pa.array(values, types[name]) for name, values in columns.items()}))

    return make


@pytest.fixture(scope="session")
def versions_of():
    """A function of (item, from_us, to_us, price, category) rows."""

    def make(rows):
        table = [
            {
                "item_id": item, "valid_from_us": start, "valid_to_us": end, "in_stock": True, "category": category,
                "price": None if price is None else Decimal(price),
            }
            for item, start, end, price, category in rows
        ]  # fmt: skip
        return ibis.memtable(pa.Table.from_pylist(table, schema=ITEM_VERSIONS_TABLE.schema))

    return make


@pytest.fixture(scope="session")
def spine_of():
    """A function of (user, item, moment) rows: questions numbered in this order."""

    def make(rows):
        users, items, moments = zip(*rows, strict=True)
        return ibis.memtable(
            pa.table({
                "query_num": pa.array(range(len(rows)), pa.int64()),
                "user_id": pa.array(users, pa.string()),
                "item_id": pa.array(items, pa.string()),
                "event_time_us": pa.array(moments, pa.int64()),
            })
        )  # fmt: skip

    return make
