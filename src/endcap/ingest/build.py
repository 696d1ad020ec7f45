"""Landed rows of some dates in, their `events` out: deduplicated, merged by identity, rid of bots, put into sessions.

A date depends on its landed rows, on who its guests are, and on the sessions that are open when it begins. So each date
can be built alone, and the next one follows only when the sessions open at midnight became others.
"""

from __future__ import annotations

import datetime as dt
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import ibis
import ibis.expr.types as ir
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts import events as contract
from endcap.contracts.errors import ArtifactError, InputError
from endcap.engines import duckdb, portable
from endcap.ingest import catalog, quality, sessions
from endcap.ingest.landing import grouped, scan
from endcap.ingest.quality import IngestSettings
from endcap.workspace import ledger, manifests, tables
from endcap.workspace.drafts import Draft
from endcap.workspace.layout import Workspace

_NARROW: Final = (c.BATCH, c.ROW_NUMBER, c.EVENT_DATE, c.EVENT_ID, c.USER_ID, c.TS_US)

_RAW_OF_BOTS: Final = (c.BATCH, c.ROW_NUMBER, c.EVENT_ID, c.USER_ID, c.ITEM_ID, c.EVENT_TYPE, c.TS_US)

CODE: Final = (__name__, *(module.__name__ for module in (sessions, quality, catalog, contract, portable)))
"""The modules that decide what becomes of landed rows."""

Progress = Callable[[str, float], None]

_DEFAULTS: Final = IngestSettings()
_OPEN: Final = _DEFAULTS.built_with


@dataclass(frozen=True)
class DateResult:
    """What building a date came to: `num_landed` is the sum of events, repeated rows and those of bots.

    `num_repeated` rows have ids that another batch brought too. `num_sessions` began on that date. `open_changed` means
    that the next date has to be built as well.
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


def settings_in_force(workspace: Workspace, given: IngestSettings = _DEFAULTS) -> IngestSettings:
    """`given`, with what it leaves open about sessions and bots as the workspace's events have it, else the defaults."""
    dataset = tables.current_dataset(workspace)
    kept = {} if dataset is None else dataset.settings or _told_by_run(workspace, dataset.run_id)
    # A struct that is changed is made anew, and so its values are checked.
    return msgspec.structs.replace(
        given, **{name: _first(getattr(given, name), kept.get(name), default) for name, default in _OPEN.items()}
    )


def _first(*values: int | None) -> int:
    return next(value for value in values if value is not None)


def _told_by_run(workspace: Workspace, run_id: str) -> dict[str, int]:
    """What the run's manifest says, for datasets that don't keep their settings themselves."""
    try:
        told = manifests.read_manifest(workspace, run_id).configuration
    except (ArtifactError, InputError):
        return {}
    return {name: told[name] for name in _OPEN if isinstance(told.get(name), int)}


def build_date(
    workspace: Workspace,
    date: str,
    settings: IngestSettings,
    *,
    are_others_built: bool = False,
    run_id: str | None = None,
    memory_mb: int = duckdb.DEFAULT_MEMORY_MB,
) -> DateResult:
    """Build one date from the tables in force, and put it in force, with `settings` as those chosen last.

    Items, users and later dates are left as they are. `are_others_built` tells that all other dates have these settings
    and this code; otherwise the dataset says that its dates differ, until an ingest has built them all. Raises
    InputError before the first ingest, TransientError when another process writes tables for long.
    """
    with tables.exclusive(workspace):
        draft = Draft(workspace)
        dataset = draft.dataset
        if dataset is None:
            raise InputError(f"{workspace.path} holds no data yet. Fill it with: endcap ingest")
        settings = settings_in_force(workspace, settings)
        with duckdb.session(workspace, memory_mb=memory_mb) as connection:
            (result,) = _build_group(connection, draft, [date], settings)
        own = build_digest(settings)
        built = own if are_others_built or dataset.build == own else ""
        changed = msgspec.structs.replace(
            dataset, versions=draft.versions, build=built, settings=settings.built_with, run_id=run_id or dataset.run_id
        )
        if (changed.versions, changed.build, changed.settings) != (dataset.versions, dataset.build, dataset.settings):
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
    chosen = list(settings.built_with.values())
    return ledger.digest_of([chosen, ledger.code_version_of(*CODE)])


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
    gap = settings.gap_minutes
    rows = scan(connection, draft, contract.LANDED, dates)
    landed = _counted(connection, rows)
    key = _row_key(landed)
    # Who did it, and whether it counts, is found on narrow rows; the wide ones join the outcome once.
    narrow = rows.select(*_NARROW)
    if any(counts["first_batch"] != counts["last_batch"] for counts in landed.values()):
        narrow = quality.deduplicated(narrow)
    if draft.has(contract.IDENTITIES):
        narrow = catalog.identified(narrow, scan(connection, draft, contract.IDENTITIES, None))
    bots = connection.to_pyarrow(quality.bots(narrow, max_events_per_user_per_day=settings.max_events))
    people = narrow.anti_join(ibis.memtable(bots), [c.EVENT_DATE, c.USER_ID]) if bots.num_rows else narrow
    before = [day for day in map(_day_before, dates) if day not in dates]
    carried = scan(connection, draft, contract.OPEN_SESSIONS, before)
    built = sessions.with_sessions(rows, gap_minutes=gap, open_sessions=carried, key=key, chosen=people)
    found = connection.to_pyarrow(built.select(*contract.EVENTS_TABLE.schema.names, c.START_US))
    moments = ibis.memtable(found.select([c.EVENT_DATE, c.USER_ID, c.START_US, c.TS_US]))
    still_open = connection.to_pyarrow(sessions.open_at_midnight(moments, gap_minutes=gap))
    excluded = _excluded(connection, rows, narrow, bots, key)
    num_begun = _begun(found)
    written = draft.replace(contract.EVENTS, found.drop_columns([c.START_US]), dates)
    opened = draft.replace(contract.OPEN_SESSIONS, still_open, dates)
    draft.replace(contract.QUARANTINE, excluded, [contract.BOTS_BATCH + date for date in dates])
    num_events = _num_by(found, c.EVENT_DATE)
    num_bots = _num_by(excluded, c.BATCH)
    changed, open_changed = ({*write.replaced, *write.removed} for write in (written, opened))
    results = []
    for date in dates:
        num_landed, bots_events = landed.get(date, {}).get("n", 0), num_bots.get(contract.BOTS_BATCH + date, 0)
        results.append(
            DateResult(
                date=date,
                num_landed=num_landed,
                num_events=num_events.get(date, 0),
                num_repeated=num_landed - num_events.get(date, 0) - bots_events,
                num_bots=bots_events,
                num_sessions=num_begun.get(date, 0),
                changed=date in changed,
                open_changed=date in open_changed,
            )
        )
    return results


def _num_by(rows: pa.Table, name: str) -> dict[str, int]:
    return {str(row["values"]): row["counts"] for row in pc.value_counts(rows[name]).to_pylist()}


def _begun(found: pa.Table) -> dict[str, int]:
    """Numbers of sessions by the date on which they began; those that go on from the day before aren't among them."""
    day = pc.divide(found[c.START_US], contract.US_PER_DAY).cast(pa.int32()).cast(pa.date32())
    own = found.select([c.EVENT_DATE, c.SESSION_ID]).filter(pc.equal(day, found[c.EVENT_DATE]))
    return _num_by(own.group_by([c.EVENT_DATE, c.SESSION_ID]).aggregate([]), c.EVENT_DATE)


def _counted(connection: Backend, rows: ir.Table) -> dict[str, dict[str, Any]]:
    """By date the number of rows, `n`, and the first and last of the batches that brought them, by name."""
    counted = rows.group_by(c.EVENT_DATE).aggregate(
        n=rows.count(), first_batch=rows[c.BATCH].min(), last_batch=rows[c.BATCH].max()
    )
    return {str(row.pop(c.EVENT_DATE)): row for row in connection.to_pyarrow(counted).to_pylist()}


def _row_key(landed: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """The shortest columns that tell the rows apart: within one batch the row number alone."""
    batches = {counts[name] for counts in landed.values() for name in ("first_batch", "last_batch")}
    return (c.BATCH, c.ROW_NUMBER) if len(batches) > 1 else (c.ROW_NUMBER,)


def _excluded(connection: Backend, rows: ir.Table, narrow: ir.Table, bots: pa.Table, key: Sequence[str]) -> pa.Table:
    """The bots' rows in the shape of `quarantine`."""
    schema = contract.QUARANTINE_TABLE.schema
    if not bots.num_rows:
        return schema.empty_table()
    theirs = narrow.semi_join(ibis.memtable(bots), [c.EVENT_DATE, c.USER_ID])
    made = rows.drop(c.USER_ID).inner_join(theirs.select(*key, c.USER_ID), list(key))
    texts = ibis.struct({name: made[name].cast("string") for name in _RAW_OF_BOTS})
    by_date = ibis.window(group_by=made[c.EVENT_DATE], order_by=[made[c.TS_US], made[c.EVENT_ID]])
    content = made.select(
        **{
            c.BATCH: ibis.literal(contract.BOTS_BATCH) + made[c.EVENT_DATE].cast("string"),
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
