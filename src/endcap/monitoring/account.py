"""The tables of one dataset in, what they say together out: where rows went, sessions, unknown items, late rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

import ibis
import ibis.expr.types as ir
import msgspec
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.errors import ArtifactError
from endcap.contracts.events import BATCHES, BOTS_BATCH, EVENTS, ITEMS, LANDED, QUARANTINE, US_PER_DAY
from endcap.engines import duckdb
from endcap.monitoring import quantiles
from endcap.workspace.layout import Workspace

SESSION_SIZES: Final = ((1, 1), (2, 2), (3, 3), (4, 4), (5, 9), (10, 19), (20, 49), (50, None))
"""Events per session, from and to; the last group is open."""


class BatchAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the rows of one batch went."""

    batch: str
    source: str
    num_rows: int
    num_duplicates: int
    events: dict[str, int]
    quarantined: dict[str, int]
    num_late: int
    first_ts_us: int | None
    last_ts_us: int | None


class _Counts(msgspec.Struct, frozen=True):
    """What of a batch's counts is shown; there may be more."""

    events: dict[str, int] = {}
    quarantined: dict[str, int] = {}
    late: int = 0


class RowAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the rows of all batches went. What is counted in the tables is None where the dataset lacks one of them.

    Events are the landed rows without those that another batch brought too and those of users who act like a bot.
    """

    num_rows: int
    num_duplicates: int
    events: dict[str, int]
    quarantined: dict[str, int]
    num_landed: int | None
    num_events: int | None
    num_bot_rows: int
    batches: tuple[BatchAccount, ...]

    @property
    def num_good(self) -> int:
        """Rows that landed, as the batches tell."""
        return sum(self.events.values())

    @property
    def num_expired(self) -> int | None:
        """Good rows that lie there no more, since their dates are beyond the retention."""
        return None if self.num_landed is None else self.num_good - self.num_landed

    @property
    def num_repeated(self) -> int | None:
        """Landed rows that another batch brought too."""
        if self.num_landed is None or self.num_events is None:
            return None
        return self.num_landed - self.num_events - self.num_bot_rows

    @property
    def adds_up(self) -> bool:
        """Whether good rows, duplicates and quarantine make up the rows read, in every batch."""
        return all(
            batch.num_rows == batch.num_duplicates + sum(batch.events.values()) + sum(batch.quarantined.values())
            for batch in self.batches
        )


class Sessions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sessions by the day of their first event, by their number of events, and quantiles of that number."""

    num_sessions: int
    days: tuple[tuple[date, int], ...]
    sizes: tuple[tuple[str, int], ...]
    quantiles: dict[str, int]
    median_minutes: float


class UnknownItems(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Events whose product no catalog names (yet), and such products, among the events that name a product."""

    num_events: int
    num_with_item: int
    num_items: int

    @property
    def share(self) -> float:
        """Such events among those that name a product."""
        return self.num_events / self.num_with_item if self.num_with_item else 0.0


class LateRows(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Landed rows that came after a newer moment of their source was there already, and by how many seconds."""

    num_rows: int
    num_late: int
    quantiles_s: dict[str, float]

    @property
    def share(self) -> float:
        """Late rows among the landed ones."""
        return self.num_late / self.num_rows if self.num_rows else 0.0


def row_account(connection: Backend, workspace: Workspace, versions: Mapping[str, int]) -> RowAccount | None:
    """The account of all batches in force; None for a dataset without batches.

    Raises ArtifactError when a batch's counts can't be read.
    """
    if BATCHES not in versions:
        return None
    rows = duckdb.scan_table(connection, workspace, BATCHES, version=versions[BATCHES])
    batches = tuple(_batch(row) for row in connection.to_pyarrow(rows.order_by(c.BATCH)).to_pylist())
    events: Counter[str] = Counter()
    quarantined: Counter[str] = Counter()
    for batch in batches:
        events.update(batch.events)
        quarantined.update(batch.quarantined)
    return RowAccount(
        num_rows=sum(batch.num_rows for batch in batches),
        num_duplicates=sum(batch.num_duplicates for batch in batches),
        events=dict(events.most_common()),
        quarantined=dict(quarantined.most_common()),
        num_landed=_num_rows(connection, workspace, LANDED, versions),
        num_events=_num_rows(connection, workspace, EVENTS, versions),
        num_bot_rows=_num_bot_rows(connection, workspace, versions),
        batches=batches,
    )


def _num_rows(connection: Backend, workspace: Workspace, name: str, versions: Mapping[str, int]) -> int | None:
    if name not in versions:
        return None
    rows = duckdb.scan_table(connection, workspace, name, version=versions[name])
    return int(connection.to_pyarrow(rows.count()).as_py())


def _num_bot_rows(connection: Backend, workspace: Workspace, versions: Mapping[str, int]) -> int:
    if QUARANTINE not in versions:
        return 0
    rows = duckdb.scan_table(connection, workspace, QUARANTINE, version=versions[QUARANTINE], columns=[c.BATCH])
    return int(connection.to_pyarrow(rows.filter(rows[c.BATCH].startswith(BOTS_BATCH)).count()).as_py())


def _batch(row: Mapping[str, Any]) -> BatchAccount:
    try:
        counts = msgspec.json.decode(row["counts"], type=_Counts)
    except msgspec.DecodeError as error:
        raise ArtifactError(
            f"Table {BATCHES}, batch {row[c.BATCH]}: its counts can't be read: {error}. Ingest the batch again."
        ) from error
    return BatchAccount(
        batch=row[c.BATCH],
        source=row["source"],
        num_rows=row["num_rows"],
        num_duplicates=row["num_duplicates"],
        events=counts.events,
        quarantined=counts.quarantined,
        num_late=counts.late,
        first_ts_us=row["first_ts_us"],
        last_ts_us=row["last_ts_us"],
    )


def sessions(connection: Backend, events: ir.Table) -> Sessions:
    """Sessions of an event table that holds at least one row."""
    found = events.group_by(c.SESSION_ID).aggregate(
        n=events.count(), start_us=events[c.TS_US].min(), end_us=events[c.TS_US].max()
    )
    # Grouped once for all that follows; the engine may spill it, and lets go of it with the connection.
    found = connection.create_table(ibis.util.gen_name("sessions"), found.drop(c.SESSION_ID), temp=True)
    # Whole days by integers: the quotient as a float, floored, is exact for any moment that a calendar knows.
    day = (found.start_us / US_PER_DAY).floor().cast("int64")
    by_day = found.group_by(day=day).aggregate(n=found.count()).order_by("day")
    by_size = found.group_by(size=found.n).aggregate(n=found.count()).order_by("size")
    sizes = [(int(row["size"]), int(row["n"])) for row in connection.to_pyarrow(by_size).to_pylist()]
    lengths = quantiles.finite_values((found.end_us - found.start_us).name("length"))
    (median_us,) = quantiles.exact_quantiles(connection, lengths, (500,))
    return Sessions(
        num_sessions=sum(count for _, count in sizes),
        days=tuple(
            (date.fromordinal(_EPOCH + int(row["day"])), int(row["n"]))
            for row in connection.to_pyarrow(by_day).to_pylist()
        ),
        sizes=tuple(
            (_size_label(low, high), sum(n for size, n in sizes if low <= size and (high is None or size <= high)))
            for low, high in SESSION_SIZES
        ),
        quantiles={name: _rank(sizes, permille) for name, permille in _SIZE_QUANTILES.items()},
        median_minutes=median_us / 60e6,
    )


_EPOCH: Final = date(1970, 1, 1).toordinal()
_SIZE_QUANTILES: Final = {"median": 500, "p95": 950, "max": 1000}


def _size_label(low: int, high: int | None) -> str:
    if high is None:
        return f"{low}+"
    return str(low) if low == high else f"{low}\u2013{high}"


def _rank(counts: list[tuple[int, int]], permille: int) -> int:
    """The value at a rank, of values in order with their counts."""
    rank, below = max(1, -(-sum(count for _, count in counts) * permille // 1000)), 0
    for value, count in counts:
        below += count
        if below >= rank:
            return value
    raise ValueError("no values")


def unknown_items(
    connection: Backend, workspace: Workspace, events: ir.Table, versions: Mapping[str, int]
) -> UnknownItems | None:
    """Events whose product is marked as unknown or missing from `items`; None for a dataset without items."""
    if ITEMS not in versions:
        return None
    items = duckdb.scan_table(connection, workspace, ITEMS, version=versions[ITEMS], columns=[c.ITEM_ID, c.IS_KNOWN])
    known = items.filter(items[c.IS_KNOWN]).select(c.ITEM_ID)
    named = events.filter(events[c.ITEM_ID].notnull()).select(c.ITEM_ID)
    counts = named.group_by(c.ITEM_ID).aggregate(n=named.count())
    unknown = counts.anti_join(known, c.ITEM_ID)
    found = connection.to_pyarrow(unknown.aggregate(num_events=unknown.n.sum(), num_items=unknown.count()))
    row = found.to_pylist()[0]
    num_with_item = int(connection.to_pyarrow(named.count()).as_py())
    return UnknownItems(int(row["num_events"] or 0), num_with_item, int(row["num_items"]))


def late_rows(connection: Backend, workspace: Workspace, versions: Mapping[str, int]) -> LateRows | None:
    """Landed rows no newer than what an earlier batch of the same source had brought; None without such tables.

    Batches come in the order of their newest moment.
    """
    if not {BATCHES, LANDED} <= versions.keys():
        return None
    landed = duckdb.scan_table(connection, workspace, LANDED, version=versions[LANDED], columns=[c.BATCH, c.TS_US])
    batches = duckdb.scan_table(connection, workspace, BATCHES, version=versions[BATCHES])
    marks = _watermarks(connection.to_pyarrow(batches).to_pylist())
    late = landed.join(ibis.memtable(marks), c.BATCH)
    late = late.filter(late[c.TS_US] <= late["mark_us"])
    delays = quantiles.finite_values((late["mark_us"] - late[c.TS_US]).name("delay"))
    names = {"median": 500, "p95": 950, "max": 1000}
    found = quantiles.exact_quantiles(connection, delays, tuple(names.values()))
    return LateRows(
        num_rows=int(connection.to_pyarrow(landed.count()).as_py()),
        num_late=int(connection.to_pyarrow(late.count()).as_py()),
        quantiles_s={name: value / 1e6 for name, value in zip(names, found, strict=False)},
    )


def _watermarks(batches: list[dict[str, Any]]) -> pa.Table:
    """Each batch with the newest moment that batches of its source with an older newest moment had brought."""
    newest: dict[str, set[int]] = {}
    for batch in batches:
        if batch["last_ts_us"] is not None:
            newest.setdefault(batch["source"], set()).add(batch["last_ts_us"])
    rows = []
    for batch in batches:
        earlier = [ts_us for ts_us in newest.get(batch["source"], ()) if ts_us < (batch["last_ts_us"] or 0)]
        if earlier:
            rows.append({c.BATCH: batch[c.BATCH], "mark_us": max(earlier)})
    return pa.Table.from_pylist(rows, schema=pa.schema([(c.BATCH, pa.string()), ("mark_us", pa.int64())]))
