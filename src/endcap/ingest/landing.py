"""A source's batches in, tables `landed`, `quarantine` and `batches` with an account of every row out.

A batch is staged first: read once, judged, and written to a scratch file, so that a batch which doesn't fit in memory
can be looked at again date by date. Only when all batches of an ingest are staged and accepted is a table touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import ibis
import ibis.expr.types as ir
import msgspec
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts import events as contract
from endcap.contracts.errors import EndcapError, InputError
from endcap.engines import duckdb
from endcap.ingest import quality, quarantine
from endcap.ingest.quality import IngestSettings
from endcap.ingest.quarantine import Rejected
from endcap.ingest.sources.normalized import NOT_USED
from endcap.ingest.sources.protocol import Batch, Source
from endcap.workspace import tables
from endcap.workspace.drafts import Draft

ROWS_PER_GROUP: Final = 600_000
"""About so many rows are held in memory at once; a single date is never divided."""

DUPLICATE: Final = "duplicate"
_FATE: Final = "fate"
_KEPT: Final = "kept_row"
_KEPT_ID: Final = "kept_id"


class RowAccount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where every row went: `num_rows` is the sum of events, duplicates and quarantined rows.

    `events` counts good rows by event type. `num_late` of them came late.
    """

    num_rows: int
    events: dict[str, int]
    num_duplicates: int
    quarantined: dict[str, int]
    num_late: int = 0

    @property
    def num_events(self) -> int:
        """Good rows of all types."""
        return sum(self.events.values())

    @property
    def num_quarantined(self) -> int:
        """Bad rows of all reasons."""
        return sum(self.quarantined.values())

    @property
    def num_bad(self) -> int:
        """Bad rows but for those that the source leaves out on purpose, which say nothing against an export."""
        return self.num_quarantined - self.quarantined.get(NOT_USED, 0)


class Counts(msgspec.Struct, frozen=True):
    """The column `counts` of table `batches`: `dates` are good rows by date, `late` how many of them came late.

    `first_future_us` is the earliest moment of a row that is in quarantine because it lies too far ahead.
    """

    events: dict[str, int]
    quarantined: dict[str, int]
    dates: dict[str, int]
    late: int = 0
    first_future_us: int | None = None


@dataclass(frozen=True)
class Landing:
    """A batch in force: its row of table `batches`."""

    name: str
    source: str
    sha256: str
    num_rows: int
    num_duplicates: int
    counts: Counts
    first_ts_us: int | None
    last_ts_us: int | None
    landed_at_us: int | None

    @property
    def account(self) -> RowAccount:
        """Where the batch's rows went."""
        return RowAccount(
            num_rows=self.num_rows,
            events=self.counts.events,
            num_duplicates=self.num_duplicates,
            quarantined=self.counts.quarantined,
            num_late=self.counts.late,
        )


@dataclass(frozen=True)
class Staged:
    """A batch that was read and judged: its account, and the scratch file that holds its normalized rows."""

    batch: Batch
    landing: Landing
    raw: ir.Table
    file: Path
    kept: pa.Table
    """Event ids that stand in several rows, each with the row that is kept."""


def scan(connection: Backend, draft: Draft, name: str, partitions: Sequence[str] | None = None) -> ir.Table:
    """The draft's version of a table, lazily; no rows where the draft has none."""
    if not draft.has(name):
        return ibis.memtable(contract.TABLES[name].schema.empty_table())
    version = draft.versions[name]
    return duckdb.scan_table(connection, draft.workspace, name, version=version, partitions=partitions)


def landings(draft: Draft) -> dict[str, Landing]:
    """The batches that the draft holds, by name."""
    if not draft.has(contract.BATCHES):
        return {}
    found = tables.read_table(draft.workspace, contract.BATCHES, version=draft.versions[contract.BATCHES]).to_pylist()
    return {
        row[c.BATCH]: Landing(
            name=row[c.BATCH], counts=msgspec.json.decode(row["counts"], type=Counts),
            **{name: row[name] for name in row if name not in (c.BATCH, "counts")},
        )
        for row in found
    }  # fmt: skip


def total(landed: Iterable[Landing], reasons: Sequence[str]) -> RowAccount:
    """The account of several batches together, event types and reasons in their order."""
    accounts = [landing.account for landing in landed]
    events, bad = _added(a.events for a in accounts), _added(a.quarantined for a in accounts)
    return RowAccount(
        num_rows=sum(account.num_rows for account in accounts),
        events=_in_order(events, contract.EVENT_TYPES),
        num_duplicates=sum(account.num_duplicates for account in accounts),
        quarantined=_in_order(bad, reasons),
        num_late=sum(account.num_late for account in accounts),
    )


def _added(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for each in counts:
        for name, count in each.items():
            sums[name] = sums.get(name, 0) + count
    return sums


def _in_order(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    order = [*names, *sorted(counts)]
    return dict(sorted(counts.items(), key=lambda entry: order.index(entry[0])))


def reasons_of(source: Source) -> tuple[str, ...]:
    """Why a row of this source may be quarantined, in the order in which reasons are tried."""
    return tuple(dict.fromkeys((*source.reasons, *quality.COMMON_REASONS)))


def stage(
    connection: Backend,
    source: Source,
    batch: Batch,
    *,
    sha256: str,
    folder: Path,
    settings: IngestSettings,
    now_us: int,
) -> Staged:
    """Read and judge a batch into a scratch file below `folder`; `now_us` is the moment of the ingest.

    Raises InputError when the batch doesn't fit the source or too large a share of its rows is bad.
    """
    file = folder / f"{len(list(folder.iterdir()))}.parquet"
    raw = source.read(connection, batch)
    latest_us = now_us + settings.future_days * contract.US_PER_DAY
    connection.to_parquet(quality.judged(source.normalize(raw), latest_us=latest_us), file)
    staged = connection.read_parquet(str(file))
    kept = _kept_rows(connection, staged)
    counted = _marked(staged, kept)
    fates = counted.group_by([_FATE, c.EVENT_TYPE, c.EVENT_DATE]).aggregate(
        num_rows=counted.count(), first_us=counted[c.TS_US].min(), last_us=counted[c.TS_US].max()
    )
    landing = _landing(source, batch, sha256, connection.to_pyarrow(fates).to_pylist(), settings, now_us)
    _check(source, batch, landing, connection.to_pyarrow(raw.count()).as_py(), settings)
    return Staged(batch=batch, landing=landing, raw=raw, file=file, kept=kept)


def _kept_rows(connection: Backend, staged: ir.Table) -> pa.Table:
    """Event ids that stand in several rows, with the row that is kept: the first good one, else the first."""
    good_row = staged[c.REASON].isnull().ifelse(staged[c.ROW_NUMBER], ibis.null("int64"))
    rows = staged.mutate(good_row=good_row).filter(staged[c.EVENT_ID].notnull())
    by_id = rows.group_by(c.EVENT_ID).aggregate(
        num_rows=rows.count(), **{_KEPT: ibis.coalesce(rows["good_row"].min(), rows[c.ROW_NUMBER].min())}
    )
    several = by_id.filter(by_id["num_rows"] > 1)
    return connection.to_pyarrow(several.select(**{_KEPT_ID: several[c.EVENT_ID], _KEPT: several[_KEPT]}))


def _marked(staged: ir.Table, kept: pa.Table) -> ir.Table:
    """Rows with their fate: `duplicate`, a reason, or null for a good row."""
    if not kept.num_rows:
        return staged.mutate(**{_FATE: staged[c.REASON]})
    joined = staged.left_join(firsts := ibis.memtable(kept), staged[c.EVENT_ID] == firsts[_KEPT_ID])
    is_duplicate = (joined[_KEPT] != joined[c.ROW_NUMBER]).fill_null(False)
    fate = ibis.ifelse(is_duplicate, DUPLICATE, joined[c.REASON])
    return joined.mutate(**{_FATE: fate}).drop(_KEPT_ID, _KEPT)


def _landing(
    source: Source, batch: Batch, sha256: str, fates: list[dict[str, Any]], settings: IngestSettings, now_us: int
) -> Landing:
    good = [fate for fate in fates if fate[_FATE] is None]
    bad = _added({fate[_FATE]: fate["num_rows"]} for fate in fates if fate[_FATE] not in (None, DUPLICATE))
    dates = _added({str(fate[c.EVENT_DATE]): fate["num_rows"]} for fate in good)
    newest = max((fate[c.EVENT_DATE] for fate in good), default=None)
    num_late = sum(fate["num_rows"] for fate in good if (newest - fate[c.EVENT_DATE]).days > settings.late_days)
    # Where most rows are older than that, the batch brings history: nothing in it came late.
    is_delivery = not source.is_whole_export and 2 * num_late < sum(dates.values())
    return Landing(
        name=batch.name,
        source=source.name,
        sha256=sha256,
        num_rows=sum(fate["num_rows"] for fate in fates),
        num_duplicates=sum(fate["num_rows"] for fate in fates if fate[_FATE] == DUPLICATE),
        counts=Counts(
            events=_in_order(_added({fate[c.EVENT_TYPE]: fate["num_rows"]} for fate in good), contract.EVENT_TYPES),
            quarantined=_in_order(bad, reasons_of(source)),
            dates=dict(sorted(dates.items())),
            late=num_late if is_delivery else 0,
            first_future_us=min((f["first_us"] for f in fates if f[_FATE] == quality.FUTURE_EVENT), default=None),
        ),
        first_ts_us=min((fate["first_us"] for fate in good), default=None),
        last_ts_us=max((fate["last_us"] for fate in good), default=None),
        landed_at_us=now_us,
    )


def _check(source: Source, batch: Batch, landing: Landing, num_rows: int, settings: IngestSettings) -> None:
    account = landing.account
    num_accounted = account.num_events + account.num_duplicates + account.num_quarantined
    if not num_rows == account.num_rows == num_accounted:
        raise EndcapError(
            f"{batch.name} has {num_rows} rows, but {num_accounted} of {account.num_rows} were accounted for: nothing "
            "was written. Please report this."
        )
    reasons = reasons_of(source)
    if unknown := [reason for reason in settings.max_quarantined if reason not in reasons]:
        raise InputError(
            f"--max-quarantined {unknown[0]}: source {source.name} knows no such reason; expected one of: "
            f"{', '.join(reasons)}."
        )
    limits = [(account.num_bad, settings.max_quarantined_share)]
    limits += [(account.quarantined.get(reason, 0), share) for reason, share in settings.max_quarantined.items()]
    for num_bad, share in limits:
        if num_bad > share * account.num_rows:
            found = ", ".join(f"{count} {reason}" for reason, count in account.quarantined.items())
            paths = ", ".join(str(path) for path in batch.paths)
            raise InputError(
                f"{paths}: {num_bad} of {account.num_rows} rows can't be used ({found}), more than {100 * share:g}%; "
                "nothing was written. Check the export and its column mapping."
            )


def land(
    connection: Backend,
    draft: Draft,
    staged: Sequence[Staged],
    removed: Iterable[str],
    report: Callable[[str, float], None],
) -> set[str]:
    """Put staged batches in the place of those of the same names, drop the `removed` ones; give the dates that changed."""
    before = landings(draft)
    new = {one.batch.name: one.landing for one in staged}
    gone = {name for name in (*removed, *new) if name in before}
    others = _added(landing.counts.dates for name, landing in before.items() if name not in gone)
    num_new = _added(landing.counts.dates for landing in new.values())
    touched = sorted({*num_new, *(date for name in gone for date in before[name].counts.dates)})
    groups = list(grouped(touched, {date: num_new.get(date, 0) + others.get(date, 0) for date in touched}))
    changed: set[str] = set()
    for place, dates in enumerate(groups):
        report(f"landing {dates[0]} to {dates[-1]}", place / len(groups))
        with duckdb.passing_memtables(connection):
            rows = _rows_of(connection, staged, dates)
            if shared := [date for date in dates if date in others]:
                old = scan(connection, draft, contract.LANDED, shared)
                rows = rows.union(old.filter(old[c.BATCH].notin(sorted(gone))) if gone else old)
            write = draft.replace(contract.LANDED, connection.to_pyarrow(rows), dates)
        changed |= {*write.replaced, *write.removed}
    if not draft.has(contract.LANDED):
        draft.replace(contract.LANDED, contract.LANDED_TABLE.schema.empty_table(), [])
    quarantine.replace(connection, draft, (_rejected(connection, one) for one in staged), sorted(gone - new.keys()))
    in_force = {name: landing for name, landing in before.items() if name not in gone}
    in_force |= {name: _as_known(landing, before.get(name)) for name, landing in new.items()}
    draft.write(contract.BATCHES, _as_table(in_force.values()))
    return changed


def _as_known(landing: Landing, before: Landing | None) -> Landing:
    """The batch as it was known, where reading it again found the same: it landed when it did first."""
    if before is not None and landing == replace(before, landed_at_us=landing.landed_at_us):
        return before
    return landing


def grouped(dates: Iterable[str], num_rows: Mapping[str, int]) -> Iterator[list[str]]:
    """Neighbouring dates together, as long as their rows fit."""
    group: list[str] = []
    size = 0
    for date in dates:
        if group and size + num_rows.get(date, 0) > ROWS_PER_GROUP:
            yield group
            group, size = [], 0
        group.append(date)
        size += num_rows.get(date, 0)
    if group:
        yield group


def _rows_of(connection: Backend, staged: Sequence[Staged], dates: Sequence[str]) -> ir.Table:
    """Good rows of neighbouring dates, in the shape of `landed`."""
    types = ibis.Schema.from_pyarrow(contract.LANDED_TABLE.schema)
    rows: ir.Table = ibis.memtable(contract.LANDED_TABLE.schema.empty_table())
    first, last = (ibis.literal(date).cast("date") for date in (dates[0], dates[-1]))
    for one in staged:
        if one.landing.counts.dates.keys().isdisjoint(dates):
            continue
        own = connection.read_parquet(str(one.file))
        own = own.filter(own[c.EVENT_DATE] >= first, own[c.EVENT_DATE] <= last)
        good = _marked(own, one.kept).filter(lambda t: t[_FATE].isnull())
        named = good.mutate(**{c.BATCH: ibis.literal(one.batch.name)})
        rows = rows.union(named.select(**{name: named[name].cast(dtype) for name, dtype in types.items()}))
    return rows


def _rejected(connection: Backend, staged: Staged) -> Rejected:
    """What of the batch goes to quarantine: rows left out on purpose are counted alone, most of a day may be such."""
    marked = _marked(connection.read_parquet(str(staged.file)), staged.kept)
    bad = marked.filter(marked[_FATE].notnull() & marked[_FATE].notin([DUPLICATE, NOT_USED]))
    return Rejected(
        batch=staged.batch.name,
        num_rows=staged.landing.account.num_bad,
        rows=bad.select(c.ROW_NUMBER, **{c.REASON: bad[_FATE]}),
        raw=staged.raw,
        file=staged.file.with_suffix(".rejected.parquet"),
    )


def _as_table(landed: Iterable[Landing]) -> pa.Table:
    rows = [
        {
            c.BATCH: one.name,
            "source": one.source,
            "sha256": one.sha256,
            "num_rows": one.num_rows,
            "num_duplicates": one.num_duplicates,
            "counts": msgspec.json.encode(one.counts).decode(),
            "first_ts_us": one.first_ts_us,
            "last_ts_us": one.last_ts_us,
            c.LANDED_AT_US: one.landed_at_us,
        }
        for one in landed
    ]
    return pa.Table.from_pylist(rows, schema=contract.BATCHES_TABLE.schema)
