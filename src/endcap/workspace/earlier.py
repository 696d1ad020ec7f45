"""Events, items and users of a workspace that kept no landed rows in, the rows and the batch they stand for out."""

from __future__ import annotations

from collections import Counter
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts import columns as c
from endcap.contracts.events import BATCHES_TABLE, LANDED_TABLE
from endcap.workspace.checked import checked

EARLIER_BATCH: Final = "online_retail"
"""The only source that workspaces without batches knew; its export was one batch, of this name."""


def landed_of(events: pa.Table, items: pa.Table, users: pa.Table) -> pa.Table:
    """Table `landed`: what `events` can be made from again, numbered in the order of their key.

    Titles and countries are the ones that items and users kept.
    """
    titled = items.filter(pc.not_equal(items[c.TITLE], items[c.ITEM_ID]))  # without a title an item has its id's
    titles = dict(zip(titled[c.ITEM_ID].to_pylist(), titled[c.TITLE].to_pylist(), strict=True))
    countries = dict(zip(users[c.USER_ID].to_pylist(), users[c.COUNTRY].to_pylist(), strict=True))
    num_rows = events.num_rows
    known = {
        c.BATCH: pa.repeat(EARLIER_BATCH, num_rows),
        c.ROW_NUMBER: pa.array(range(num_rows), pa.int64()),
        c.TITLE: pa.array([titles.get(item) for item in events[c.ITEM_ID].to_pylist()], pa.string()),
        c.COUNTRY: pa.array([countries.get(user) for user in events[c.USER_ID].to_pylist()], pa.string()),
    }
    columns = []
    for wanted in LANDED_TABLE.schema:
        if wanted.name in known:
            columns.append(known[wanted.name])
        elif wanted.name in events.column_names:
            columns.append(events[wanted.name])
        else:
            columns.append(pa.nulls(num_rows, wanted.type))
    return checked(LANDED_TABLE, pa.table(columns, names=LANDED_TABLE.schema.names))


def batch_of(landed: pa.Table, quarantine: pa.Table) -> pa.Table:
    """Table `batches`: one row that accounts for all rows, with no digest, so that the export is read when it comes."""
    by_type = Counter(landed[c.EVENT_TYPE].to_pylist())
    by_date = Counter(str(date) for date in landed[c.EVENT_DATE].to_pylist())
    reasons = Counter(quarantine[c.REASON].to_pylist())
    counts = {
        "events": dict(sorted(by_type.items())),
        "quarantined": dict(sorted(reasons.items())),
        "dates": dict(sorted(by_date.items())),
        "late": 0,
    }
    span = pc.min_max(landed[c.TS_US]).as_py()
    row = {
        c.BATCH: EARLIER_BATCH,
        "source": EARLIER_BATCH,
        "sha256": "",
        "num_rows": landed.num_rows + quarantine.num_rows,
        "num_duplicates": 0,
        "counts": msgspec.json.encode(counts).decode(),
        "first_ts_us": span["min"],
        "last_ts_us": span["max"],
    }
    return pa.Table.from_pylist([row], schema=BATCHES_TABLE.schema)
