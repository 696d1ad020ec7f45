"""What an export says of users and products beyond the tables' columns in, table `attributes` out: since when it holds.

As in catalogs, a statement with a moment of its own holds from that moment. One without is part of a snapshot: the first holds
from the beginning, and what a later one says differently holds from the moment at which it was taken.
"""

from __future__ import annotations

from typing import Final

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.events import ATTRIBUTES
from endcap.ingest.landing import scan
from endcap.ingest.sources.protocol import ATTRIBUTE_TYPES
from endcap.workspace.drafts import Draft

_KEY: Final = (c.SIDE, c.ENTITY_ID, c.VALID_FROM_US)


def write(connection: Backend, draft: Draft, name: str, said: ir.Table, as_of_us: int) -> bool:
    """Bring what an export says (`ATTRIBUTE_TYPES`) into the draft under its name, and say whether that changed anything.

    What was said before stands, but for what is said of the same user or product and moment.
    """
    # Once into memory: it is looked at several times, and may be read from text.
    known = ibis.memtable(connection.to_pyarrow(said))
    held = scan(connection, draft, ATTRIBUTES, [name]).select(*ATTRIBUTE_TYPES)
    dated, undated = known.filter(known[c.VALID_FROM_US] > 0), known.filter(known[c.VALID_FROM_US] <= 0)
    news = dated.union(_said_differently(held, undated, as_of_us))
    rows = news.union(held.anti_join(news, _KEY)).mutate(**{c.BATCH: ibis.literal(name)})
    return draft.replace(ATTRIBUTES, connection.to_pyarrow(rows.select(c.BATCH, *ATTRIBUTE_TYPES)), [name]).changed


def _said_differently(held: ir.Table, snapshot: ir.Table, as_of_us: int) -> ir.Table:
    """Rows of the snapshot that are new, from the beginning, or say something else than what held, from its moment on."""
    latest = held.group_by(held_side=c.SIDE, held_id=c.ENTITY_ID).aggregate(
        held=held[c.PROPERTIES].argmax(held[c.VALID_FROM_US])
    )
    joined = snapshot.left_join(
        latest, [snapshot[c.SIDE] == latest["held_side"], snapshot[c.ENTITY_ID] == latest["held_id"]]
    )
    told = joined.filter(joined["held"].isnull() | (joined["held"] != joined[c.PROPERTIES]))
    since = told["held"].isnull().ifelse(0, as_of_us).cast("int64")
    return told.select(c.SIDE, c.ENTITY_ID, c.PROPERTIES, **{c.VALID_FROM_US: since}).select(*ATTRIBUTE_TYPES)
