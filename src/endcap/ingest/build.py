"""Landed rows of some dates in, their `events` out: deduplicated, merged by identity, rid of bots, put into sessions.

A date depends on its landed rows, on who its guests are, and on the sessions that are open when it begins. So each date
can be built alone, and the next one follows only when the sessions open at midnight became others.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import ibis
import ibis.expr.types as ir
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts import events as contract
from endcap.contracts.errors import InputError
from endcap.engines import duckdb
from endcap.ingest import catalog, quality, sessions
from endcap.ingest.landing import grouped, scan
from endcap.ingest.quality import IngestSettings
from endcap.workspace import ledger, tables
from endcap.workspace.drafts import Draft
from endcap.workspace.layout import Workspace

BOTS_BATCH: Final = "bots/"
"""Events of bots stand in quarantine under this and their date."""

_RAW_OF_BOTS: Final = (c.BATCH, c.ROW_NUMBER, c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.TS_US)

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class DateResult:
    """What building a date came to: `num_landed` is the sum of events, repeated rows and those of bots.

    `num_repeated` rows have ids that another batch brought too. `open_changed` means that the next date has to be
    built as well.
    """

    date: str
    num_landed: int
    num_events: int
    num_repeated: int
    num_bots: int
    num_sessions: int
    changed: bool
    open_changed: bool


def landed_dates(workspace: Workspace) -> list[str]:
    """ISO dates in force for which there is anything to build, sorted."""
    return tables.partition_dates(workspace, contract.LANDED)


def build_date(
    workspace: Workspace,
    date: str,
    settings: IngestSettings,
    *,
    run_id: str | None = None,
    memory_mb: int = duckdb.DEFAULT_MEMORY_MB,
) -> DateResult:
    """Build one date from the tables in force, and put it in force.

    Items, users and later dates are left as they are. Raises InputError before the first ingest, TransientError when
    another process writes tables for long.
    """
    with tables.exclusive(workspace):
        draft = Draft(workspace)
        if draft.dataset is None:
            raise InputError(f"{workspace.path} holds no data yet. Fill it with: endcap ingest")
        with duckdb.session(workspace, memory_mb=memory_mb) as connection:
            (result,) = _build_group(connection, draft, [date], settings)
        if draft.versions != draft.dataset.versions:
            changed = msgspec.structs.replace(draft.dataset, versions=draft.versions)
            if run_id is not None:
                changed = msgspec.structs.replace(changed, run_id=run_id)
            tables.publish_dataset(workspace, changed)
    return result


def date_inputs_digest(workspace: Workspace, date: str, settings: IngestSettings) -> str:
    """Hex digest of all that the date's events depend on, by content: compaction of a table doesn't change it.

    That is its landed rows, the identities of its users, the sessions open when it begins, settings and code.
    """
    draft = Draft(workspace)
    landed = _read(draft, contract.LANDED, [date])
    known = _read(draft, contract.IDENTITIES, None)
    own = known.filter(pc.is_in(known[c.GUEST_ID], landed[c.USER_ID].combine_chunks().unique()))
    before = _read(draft, contract.OPEN_SESSIONS, [_day_before(date)])
    return ledger.digest_of([_digest(landed), _digest(own), _digest(before), build_digest(settings)])


def build_digest(settings: IngestSettings) -> str:
    """Hex digest of the settings and the code that decide what becomes of landed rows."""
    chosen = [settings.session_gap_minutes, settings.max_events_per_user_per_day]
    code = ledger.code_version_of(__name__, sessions.__name__, quality.__name__, contract.__name__)
    return ledger.digest_of([chosen, code])


def _read(draft: Draft, name: str, partitions: Sequence[str] | None) -> pa.Table:
    if not draft.has(name):
        return contract.TABLES[name].schema.empty_table()
    version = draft.versions[name]
    if partitions is None:
        return tables.read_table(draft.workspace, name, version=version)
    return tables.read_partitions(draft.workspace, name, partitions, version=version)


def _digest(table: pa.Table) -> str:
    # Not from a slice's own buffers, which may hold more than its rows.
    digest = hashlib.sha256(str(table.num_rows).encode())
    for batch in table.combine_chunks().to_batches(max_chunksize=1 << 16):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as stream:
            stream.write_batch(batch)
        digest.update(sink.getvalue())
    return digest.hexdigest()


def build_dates(
    connection: Backend,
    draft: Draft,
    dates: Iterable[str],
    settings: IngestSettings,
    report: Progress,
) -> list[DateResult]:
    """Build dates into the draft, and those after them as far as open sessions change; ordered by date.

    Each date is told once, as it was built last.
    """
    num_rows = draft.partition_rows(contract.LANDED)
    pending = set(dates)
    results: dict[str, DateResult] = {}
    num_done = 0
    while pending:
        group = next(grouped(sorted(pending), num_rows))
        report(f"building {group[0]} to {group[-1]}", num_done / (num_done + len(pending)))
        pending -= set(group)
        num_done += len(group)
        with duckdb.passing_memtables(connection):
            built = _build_group(connection, draft, group, settings)
        for result in built:
            earlier = results.get(result.date)
            results[result.date] = result
            if earlier is not None and earlier.changed and not result.changed:
                results[result.date] = earlier
            following = _day_after(result.date)
            if result.open_changed and following in num_rows and following not in group:
                pending.add(following)
    return [results[date] for date in sorted(results)]


def _build_group(connection: Backend, draft: Draft, dates: list[str], settings: IngestSettings) -> list[DateResult]:
    """Build dates that fit in memory together."""
    gap = settings.session_gap_minutes
    rows = scan(connection, draft, contract.LANDED, dates)
    landed = _counts(connection, rows.group_by(c.EVENT_DATE).aggregate(n=rows.count(), batches=rows[c.BATCH].nunique()))
    if any(counts["batches"] > 1 for counts in landed.values()):
        rows = quality.deduplicated(rows)
    if draft.has(contract.IDENTITIES):
        rows = catalog.identified(rows, scan(connection, draft, contract.IDENTITIES, None))
    bots = connection.to_pyarrow(quality.bots(rows, max_events_per_user_per_day=settings.max_events_per_user_per_day))
    before = [day for day in map(_day_before, dates) if day not in dates]
    carried = scan(connection, draft, contract.OPEN_SESSIONS, before)
    built = sessions.with_sessions(_people(rows, bots), gap_minutes=gap, open_sessions=carried)
    found = connection.to_pyarrow(built.select(*contract.EVENTS_TABLE.schema.names, c.START_US))
    narrow = ibis.memtable(found.select([c.EVENT_DATE, c.USER_ID, c.START_US, c.TS_US]))
    still_open = connection.to_pyarrow(sessions.open_at_midnight(narrow, gap_minutes=gap))
    excluded = _excluded(connection, rows, bots)
    written = draft.replace(contract.EVENTS, found.drop_columns([c.START_US]), dates)
    opened = draft.replace(contract.OPEN_SESSIONS, still_open, dates)
    draft.replace(contract.QUARANTINE, excluded, [BOTS_BATCH + date for date in dates])
    per_date = found.group_by(c.EVENT_DATE).aggregate([(c.EVENT_ID, "count"), (c.SESSION_ID, "count_distinct")])
    events = {str(row[c.EVENT_DATE]): row for row in per_date.to_pylist()}
    num_bots = {row["values"]: row["counts"] for row in pc.value_counts(excluded[c.BATCH]).to_pylist()}
    changed, open_changed = ({*write.replaced, *write.removed} for write in (written, opened))
    return [
        _result(date, landed.get(date, {}).get("n", 0), events.get(date, {}), num_bots, changed, open_changed)
        for date in dates
    ]


def _result(
    date: str,
    num_landed: int,
    events: dict[str, int],
    num_bots: dict[str, int],
    changed: set[str],
    open_changed: set[str],
) -> DateResult:
    num_events = events.get(f"{c.EVENT_ID}_count", 0)
    bots = num_bots.get(BOTS_BATCH + date, 0)
    return DateResult(
        date=date,
        num_landed=num_landed,
        num_events=num_events,
        num_repeated=num_landed - num_events - bots,
        num_bots=bots,
        num_sessions=events.get(f"{c.SESSION_ID}_count_distinct", 0),
        changed=date in changed,
        open_changed=date in open_changed,
    )


def _counts(connection: Backend, counted: ir.Table) -> dict[str, dict[str, int]]:
    return {str(row.pop(c.EVENT_DATE)): row for row in connection.to_pyarrow(counted).to_pylist()}


def _people(rows: ir.Table, bots: pa.Table) -> ir.Table:
    """What events need of each row that no bot made."""
    people = rows.anti_join(ibis.memtable(bots), [c.EVENT_DATE, c.USER_ID]) if bots.num_rows else rows
    return people.select(*(name for name in contract.EVENTS_TABLE.schema.names if name in rows.columns))


def _excluded(connection: Backend, rows: ir.Table, bots: pa.Table) -> pa.Table:
    """The bots' rows in the shape of `quarantine`."""
    schema = contract.QUARANTINE_TABLE.schema
    if not bots.num_rows:
        return schema.empty_table()
    made = rows.semi_join(ibis.memtable(bots), [c.EVENT_DATE, c.USER_ID])
    texts = ibis.struct({name: made[name].cast("string") for name in _RAW_OF_BOTS})
    by_date = ibis.window(group_by=made[c.EVENT_DATE], order_by=[made[c.TS_US], made[c.EVENT_ID]])
    content = made.select(
        **{
            c.BATCH: ibis.literal(BOTS_BATCH) + made[c.EVENT_DATE].cast("string"),
            c.ROW_NUMBER: ibis.row_number().over(by_date),
            c.REASON: ibis.literal(quality.BOT),
            c.RAW: quality.json_of(texts),
        }
    )
    return connection.to_pyarrow(content).cast(schema)


def _day_before(date: str) -> str:
    return str(dt.date.fromisoformat(date) - dt.timedelta(days=1))


def _day_after(date: str) -> str:
    return str(dt.date.fromisoformat(date) + dt.timedelta(days=1))
