"""Landed rows written by hand."""

from __future__ import annotations

from datetime import date, timedelta

import pyarrow as pa

from endcap.contracts.events import LANDED_TABLE

DAY_US = 86_400_000_000


def landed(*rows: tuple[int, str, str | None]) -> pa.Table:
    """Rows (day after 1970-01-01, user, guest), one view each."""
    found = [
        {
            "batch": "b", "row_number": place, "event_id": f"e{place}", "user_id": user, "guest_id": guest,
            "item_id": "i", "event_type": "view_item", "ts_us": day * DAY_US + place,
            "event_date": date(1970, 1, 1) + timedelta(days=day),
        }
        for place, (day, user, guest) in enumerate(rows)
    ]  # fmt: skip
    return pa.Table.from_pylist(found, schema=LANDED_TABLE.schema)
