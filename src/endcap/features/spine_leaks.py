"""Features of a spine in, an error out when any of them counts what happened at or after its moment.

A sample's features are made again from events that end before the moment and a catalog cut there; what differs was
made with knowledge of what came later.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import ibis
import ibis.expr.types as ir
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.errors import ArtifactError
from endcap.contracts.events import US_PER_DAY
from endcap.features.daily import DAY
from endcap.features.exact import MOMENT_US, QUERY_NUM

Compute = Callable[[ir.Table, ir.Table, ir.Table], dict[str, ir.Table]]
"""A spine, events and item versions in, tables by group out, each keyed by `query_num`."""

NUM_MOMENTS: Final = 6
NUM_AT_MOMENT: Final = 16
_SPINE: Final = (QUERY_NUM, c.USER_ID, c.ITEM_ID, MOMENT_US)
_NEXT: Final = "Nothing of this build was kept. A feature uses what isn't known yet: mend it, then build again."


def sampled(spine: pa.Table) -> pa.Table:
    """Up to `NUM_AT_MOMENT` questions at each of `NUM_MOMENTS` moments, spread over the spine's rows in time."""
    moments = np.sort(spine[MOMENT_US].to_numpy())
    places = np.unique(np.linspace(0, len(moments) - 1, NUM_MOMENTS).astype(np.int64))
    parts = [
        spine.select(list(_SPINE)).filter(pc.equal(spine[MOMENT_US], int(moment))).slice(0, NUM_AT_MOMENT)
        for moment in np.unique(moments[places])
    ]
    return pa.concat_tables(parts)


def events_about(sample: pa.Table, events: ir.Table) -> ir.Table:
    """All that a sample's features may depend on: events of its users and of its products."""
    users, items = (pc.unique(sample[name].drop_null()).to_pylist() for name in (c.USER_ID, c.ITEM_ID))
    return events.filter(events[c.USER_ID].isin(users) | events[c.ITEM_ID].isin(items).fill_null(False))


def refuse_counted_future(
    connection: Backend,
    sample: pa.Table,
    made: Mapping[str, pa.Table],
    events: ir.Table,
    item_versions: ir.Table,
    compute: Compute,
) -> None:
    """Make a sample's features again, each from what came before its moment, and compare.

    Args:
        connection: Where expressions run.
        sample: Rows of the spine, as `sampled` gives them.
        made: By group, the rows under test of these questions.
        events: At least those that `events_about` names, of all time.
        item_versions: Those of all time.
        compute: What made the features.

    Raises:
        ArtifactError: A feature differs.
    """
    for moment in pc.unique(sample[MOMENT_US]).to_pylist():
        asked = sample.filter(pc.equal(sample[MOMENT_US], moment))
        before = compute(ibis.memtable(asked), events.filter(events[c.TS_US] < moment), cut(item_versions, moment))
        for name, rows in made.items():
            own = rows.filter(pc.is_in(rows[QUERY_NUM], value_set=asked[QUERY_NUM].combine_chunks()))
            _compare(name, in_order(own), in_order(connection.to_pyarrow(before[name])))


def cut(item_versions: ir.Table, moment_us: int) -> ir.Table:
    """The ranges that were known at a moment, those that held then without their end."""
    known = item_versions.filter(item_versions[c.VALID_FROM_US] <= moment_us)
    ended = (known[c.VALID_TO_US] <= moment_us).fill_null(False)
    return known.mutate(**{c.VALID_TO_US: ended.ifelse(known[c.VALID_TO_US], ibis.null("int64"))})


def in_order(rows: pa.Table) -> pa.Table:
    """Rows by question, and by rank where a question has several."""
    return rows.sort_by([(name, "ascending") for name in (QUERY_NUM, "rank") if name in rows.column_names])


def _compare(name: str, found: pa.Table, again: pa.Table) -> None:
    for column in again.column_names:
        if not found[column].combine_chunks().equals(again[column].combine_chunks()):
            raise ArtifactError(
                f"Leak: {name}.{column} changes when what happened at or after a row's moment is taken away; "
                f"expected it to depend on what came before alone. {_NEXT}"
            )


def refuse_later_inputs(connection: Backend, sources: Mapping[str, ir.Table], day: int) -> None:
    """Refuse to make windows as of the midnight that begins `day` from anything that happened at it or later.

    Args:
        connection: Where expressions run.
        sources: By name, daily rows (with `day`) or ranges of the catalog (with `valid_from_us`).
        day: Days since 1970-01-01.

    Raises:
        ArtifactError: A row is of that day or a later one, or a range begins after the midnight.
    """
    for name, rows in sources.items():
        late = rows[DAY] >= day if DAY in rows.columns else rows[c.VALID_FROM_US] > day * US_PER_DAY
        num_late = connection.to_pyarrow(late.sum().fill_null(0).cast("int64")).as_py()
        if num_late:
            raise ArtifactError(
                f"Leak: {num_late:,} rows of {name} are of day {day} or later; expected what came before its midnight "
                "alone. Nothing of this date was kept. Make the daily aggregates again: endcap features build."
            )
