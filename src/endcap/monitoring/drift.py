"""Events of some days and a reference in, the table `drift` out: how far each hour and day differ, and how late they came.

A feature is an event type (`purchase`), or a column of its events (`purchase.price`); `all` stands for every type.
Rows of a whole day have the prefix `day:` and the day's first microsecond as `hour`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import product
from typing import Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.contracts.events import BATCHES, DRIFT, DRIFT_TABLE, EVENTS, LANDED, US_PER_DAY, US_PER_MINUTE
from endcap.contracts.reporting import Reporter
from endcap.engines import duckdb
from endcap.monitoring.binning import Binned, Key, bin_numbers, bin_texts
from endcap.monitoring.divergence import jensen_shannon_distance, population_stability_index
from endcap.workspace import tables
from endcap.workspace.exclusive import exclusive
from endcap.workspace.layout import Workspace

REFERENCE_DAYS: Final = 28
MEMORY_MB: Final = 2048

PSI: Final = "psi"
JS: Final = "js"
NULL_RATE: Final = "null_rate"
UNSEEN_RATE: Final = "unseen_rate"
NUM_ROWS: Final = "count"
LAG_SECONDS: Final = "lag_seconds"

ALL: Final = "all"
DAY_PREFIX: Final = "day:"
NUMBERS: Final = (c.VALUE, c.PRICE, c.QUANTITY)
TEXTS: Final = (c.ITEM_ID, c.CURRENCY)
IDS: Final = (c.USER_ID,)
"""Columns of which only the share of unseen values says something."""
NULLABLE: Final = (c.ITEM_ID, c.VALUE, c.QUANTITY, c.CURRENCY, c.PROPERTIES, c.BASKET_ID, c.PRICE)

_KIND: Final = "kind"
_US_PER_HOUR: Final = 60 * US_PER_MINUTE
_EPOCH: Final = date(1970, 1, 1)
_READ: Final = (c.EVENT_TYPE, c.TS_US, *NUMBERS, *TEXTS, *IDS, c.PROPERTIES, c.BASKET_ID)


@dataclass(frozen=True)
class Measured:
    """One number of one hour or day."""

    hour: int
    feature: str
    statistic: str
    value: float
    count: int


@dataclass(frozen=True)
class DriftResult:
    """What was measured: the days, the table's version afterwards, and the days whose numbers changed."""

    days: tuple[date, ...]
    version: int
    num_rows: int
    changed: bool
    replaced: tuple[str, ...]


@dataclass(frozen=True)
class _Reference:
    """What days are compared with: a version's days before, or all of another version."""

    version: int
    is_whole: bool
    dates: tuple[str, ...]

    def of(self, day: date) -> tuple[str, list[str]]:
        """The name of the reference for a day, and the dates that it is made of."""
        if self.is_whole:
            return str(self.version), list(self.dates)
        first, last = day - timedelta(days=REFERENCE_DAYS), day - timedelta(days=1)
        return f"{self.version}:{first}/{last}", [d for d in self.dates if str(first) <= d <= str(last)]


def measure_drift(
    workspace: Workspace,
    report: Reporter,
    *,
    first: date,
    last: date,
    reference_version: int | None = None,
    memory_mb: int = MEMORY_MB,
) -> DriftResult:
    """Measure every day from `first` to `last` and replace those days in the table `drift`.

    Each day is compared with the `REFERENCE_DAYS` days before it, or with all of `reference_version` of the events.
    The same numbers leave the table's version as it is. Raises InputError when nothing was ingested or the days or the
    version make no sense.
    """
    dates = event_dates(workspace)
    if last < first:
        raise InputError(f"The days from {first} to {last} hold nothing: the first comes after the last.")
    if str(first) > dates[-1] or str(last) < dates[0]:
        raise InputError(f"There are no events from {first} to {last}: they reach from {dates[0]} to {dates[-1]}.")
    dataset = tables.current_dataset(workspace)
    assert dataset is not None  # noqa: S101 - event_dates found one
    version = dataset.versions[EVENTS]
    reference = _reference(workspace, version, reference_version, dates)
    days = [first + timedelta(days=i) for i in range((min(last, date.fromisoformat(dates[-1])) - first).days + 1)]
    found = []
    with duckdb.session(workspace, memory_mb=memory_mb) as connection:
        for place, day in enumerate(days):
            report.progress("measuring drift", place, len(days), str(day))
            name, before = reference.of(day)
            known = _typed(duckdb.scan_table(
                connection, workspace, EVENTS, version=reference.version, columns=_READ, partitions=before
            ))  # fmt: skip
            now = _typed(duckdb.scan_table(
                connection, workspace, EVENTS, version=version, columns=_READ, partitions=[str(day)]
            ))  # fmt: skip
            lags = _lags(connection, workspace, dataset.versions, day)
            found.append(
                _as_rows(day, name, _measure_day(connection, known, now, lags, day, is_last=str(day) == dates[-1]))
            )
    rows = pa.concat_tables(found)
    with exclusive(workspace):
        # No part of the dataset, whose versions training pins: numbers about data are not data.
        newest = tables.table_version(workspace, DRIFT)
        write = tables.replace_partitions(workspace, DRIFT, rows, [str(day) for day in days], since=newest)
    report.progress("measuring drift", len(days), len(days), f"{rows.num_rows:,} numbers for {len(days)} days")
    return DriftResult(tuple(days), write.version, rows.num_rows, write.changed, write.replaced)


def event_dates(workspace: Workspace) -> list[str]:
    """ISO dates that have events, sorted. Raises InputError when there are none."""
    dates = tables.partition_dates(workspace, EVENTS) if tables.current_dataset(workspace) is not None else []
    if not dates:
        raise InputError(
            f"{workspace.path} holds no events: nothing to compare. Ingest first: endcap ingest --source KIND PATH"
        )
    return dates


def _reference(workspace: Workspace, version: int, chosen: int | None, dates: Sequence[str]) -> _Reference:
    if chosen is None:
        return _Reference(version, False, tuple(dates))
    return _Reference(chosen, True, tuple(tables.partition_rows(workspace, EVENTS, version=chosen)))


def _typed(events: ir.Table) -> ir.Table:
    ts_us = events[c.TS_US]
    return events.rename({_KIND: c.EVENT_TYPE}).mutate(**{c.HOUR: ts_us - ts_us % _US_PER_HOUR}).drop(c.TS_US)


def _lags(connection: Backend, workspace: Workspace, versions: Mapping[str, int], day: date) -> dict[Key, float]:
    """Seconds from the beginning of an hour to the newest moment of the last batch that brought events of it.

    Of the whole day too, at the hour None.
    """
    if not {LANDED, BATCHES} <= versions.keys():
        return {}
    landed = duckdb.scan_table(
        connection, workspace, LANDED, version=versions[LANDED], partitions=[str(day)],
        columns=[c.BATCH, c.EVENT_TYPE, c.TS_US],
    )  # fmt: skip
    batches = duckdb.scan_table(
        connection, workspace, BATCHES, version=versions[BATCHES], columns=[c.BATCH, "last_ts_us"]
    )
    joined = _typed(landed).join(batches, c.BATCH)
    grouped = joined.group_by([c.HOUR, _KIND]).aggregate(newest=joined["last_ts_us"].max())
    newest: dict[Key, int] = {}
    for row in connection.to_pyarrow(grouped).to_pylist():
        for at in product((row[c.HOUR], None), (row[_KIND], ALL)):
            newest[at] = max(row["newest"], newest.get(at, row["newest"]))
    start = _start_us(day)
    return {at: (moment - (start if at[0] is None else at[0])) / 1e6 for at, moment in sorted(newest.items(), key=str)}


def _measure_day(
    connection: Backend, known: ir.Table, now: ir.Table, lags: Mapping[Key, float], day: date, *, is_last: bool
) -> Iterator[Measured]:
    counts, nulls = _counts(connection, now)
    kinds = set(connection.to_pyarrow(known.select(_KIND).distinct())[_KIND].to_pylist()) | {kind for _, kind in counts}
    start = _start_us(day)
    hours = range(start, start + US_PER_DAY, _US_PER_HOUR)
    if is_last:  # it is not over: what comes after its newest hour is not silence
        hours = range(start, max((hour for hour, _ in counts if hour is not None), default=start) + 1, _US_PER_HOUR)
    by_hour: dict[Key, int] = {(hour, kind): counts.get((hour, kind), 0) for hour in hours for kind in kinds}
    for hour in hours:
        by_hour[hour, ALL] = sum(by_hour[hour, kind] for kind in kinds)
    sizes = _with_day(by_hour)
    for at, count in sizes.items():
        yield _measured(start, at, None, NUM_ROWS, count, count)
    for column, by_key in nulls.items():
        filled = _with_day(by_key)
        for at, count in _with_day(counts).items():
            yield _measured(start, at, column, NULL_RATE, filled[at] / count, count)
    for at, lag in lags.items():
        yield _measured(start, at, None, LAG_SECONDS, lag, sizes.get(at, 0))
    for column in NUMBERS:
        yield from _compared(bin_numbers(connection, known, now, column), column, start)
    for column in (*TEXTS, *IDS):
        yield from _compared(bin_texts(connection, known, now, column), column, start)
    known_types, types = (rows.mutate(**{c.EVENT_TYPE: rows[_KIND], _KIND: ibis.literal(ALL)}) for rows in (known, now))
    yield from _compared(bin_texts(connection, known_types, types, c.EVENT_TYPE), c.EVENT_TYPE, start)


def _counts(connection: Backend, now: ir.Table) -> tuple[dict[Key, int], dict[str, dict[Key, int]]]:
    """Rows by hour and event type, and by column those of them that are null."""
    nulls = {column: now[column].isnull().sum() for column in NULLABLE}
    rows = connection.to_pyarrow(now.group_by([c.HOUR, _KIND]).aggregate(n=now.count(), **nulls)).to_pylist()
    rows.sort(key=lambda row: (row[c.HOUR], row[_KIND]))
    counts = {(row[c.HOUR], row[_KIND]): int(row["n"]) for row in rows}
    return counts, {column: {(row[c.HOUR], row[_KIND]): int(row[column]) for row in rows} for column in NULLABLE}


def _compared(binned: Binned, column: str, start: int) -> Iterator[Measured]:
    """PSI and JS where the reference knows the event type, the unseen rate of text."""
    if column not in IDS:
        for at, bins in _with_day_bins(binned.actual).items():
            expected, count = binned.reference[at[1]], sum(bins)
            psi, js = population_stability_index(expected, bins), jensen_shannon_distance(expected, bins)
            if psi is not None and js is not None:
                yield _measured(start, at, column, PSI, psi, count)
                yield _measured(start, at, column, JS, js, count)
    if binned.unseen is not None and binned.reference:
        unseen = _with_day(binned.unseen)
        for at, count in _with_day(binned.num_values).items():
            yield _measured(start, at, column, UNSEEN_RATE, unseen[at] / count, count)


def _with_day(counts: Mapping[Key, int]) -> dict[Key, int]:
    """The hours' counts, and each event type's sum over the day at the hour None."""
    found = dict(counts)
    for (_, kind), count in counts.items():
        found[None, kind] = found.get((None, kind), 0) + count
    return found


def _with_day_bins(counts: Mapping[Key, list[int]]) -> dict[Key, list[int]]:
    """The same for counts per bin."""
    found = dict(counts)
    for (_, kind), bins in counts.items():
        found[None, kind] = [a + b for a, b in zip(bins, found.get((None, kind), [0] * len(bins)), strict=True)]
    return found


def _measured(start: int, at: Key, column: str | None, statistic: str, value: float, count: int) -> Measured:
    hour, kind = at
    name = kind if column is None else f"{kind}.{column}"
    return Measured(start if hour is None else hour, name if hour is not None else DAY_PREFIX + name, statistic,
                    float(value), count)  # fmt: skip


def _start_us(day: date) -> int:
    return (day - _EPOCH).days * US_PER_DAY


def _as_rows(day: date, reference: str, measured: Iterator[Measured]) -> pa.Table:
    rows = [
        {
            c.HOUR: one.hour,
            c.FEATURE: one.feature,
            c.STATISTIC: one.statistic,
            c.VALUE: one.value,
            c.REFERENCE_VERSION: reference,
            c.COUNT: one.count,
            c.EVENT_DATE: day,
        }
        for one in measured
    ]
    return pa.Table.from_pylist(rows, schema=DRIFT_TABLE.schema)
