"""Events of some days and a reference in, how far each hour and day differ and how late they came out.

Hours go to table `drift`, whole days to `drift_days`. A feature is an event type (`purchase`), or a column of its events
(`purchase.price`); `all` stands for every type.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.contracts.events import BATCHES, DRIFT, DRIFT_DAYS, EVENTS, LANDED, TABLES, US_PER_DAY, US_PER_MINUTE
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
LAG_P50: Final = "lag_seconds_p50"
LAG_P95: Final = "lag_seconds_p95"
LAG_MAX: Final = "lag_seconds_max"
LAGS: Final = {LAG_P50: 500, LAG_P95: 950, LAG_MAX: 1000}
"""Seconds from an event to its landing: names with their permille."""

ALL: Final = "all"
NUMBERS: Final = (c.VALUE, c.PRICE, c.QUANTITY)
TEXTS: Final = (c.ITEM_ID, c.CURRENCY)
IDS: Final = (c.USER_ID,)
"""Columns of which only the share of unseen values says something."""
NULLABLE: Final = (c.ITEM_ID, c.VALUE, c.QUANTITY, c.CURRENCY, c.PROPERTIES, c.BASKET_ID, c.PRICE)

_KIND: Final = "kind"
_LAG: Final = "lag"
_US_PER_HOUR: Final = 60 * US_PER_MINUTE
_EPOCH: Final = date(1970, 1, 1)
_READ: Final = (c.EVENT_TYPE, c.TS_US, *NUMBERS, *TEXTS, *IDS, c.PROPERTIES, c.BASKET_ID)


_Lags = Mapping[Key, tuple[int, dict[str, float | None]]]


@dataclass(frozen=True)
class Measured:
    """One number of one hour, or of the day where `hour` is None; its value is None where it is unknown."""

    hour: int | None
    feature: str
    statistic: str
    value: float | None
    count: int


@dataclass(frozen=True)
class DriftResult:
    """What was measured: the days, the tables' versions afterwards, and the days whose numbers changed."""

    days: tuple[date, ...]
    version: int
    days_version: int
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
    """Measure every day from `first` to `last` and replace those days in the tables `drift` and `drift_days`.

    Each day is compared with the `REFERENCE_DAYS` days before it, or with all of `reference_version` of the events.
    The same numbers leave the tables' versions as they are. Raises InputError when nothing was ingested or the days or the
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
    hourly, daily = [], []
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
            landed = _landed(connection, workspace, dataset.versions, day)
            lags = {} if landed is None else measured_lags(connection, landed)
            measured = list(_measure_day(connection, known, now, lags, day, is_last=str(day) == dates[-1]))
            hourly.append(_as_rows(day, name, (one for one in measured if one.hour is not None), DRIFT))
            daily.append(_as_rows(day, name, (one for one in measured if one.hour is None), DRIFT_DAYS))
    num_rows = sum(rows.num_rows for rows in (*hourly, *daily))
    with exclusive(workspace):
        # No part of the dataset, whose versions training pins: numbers about data are not data.
        by_hour, by_day = (
            tables.replace_partitions(
                workspace, name, pa.concat_tables(found), [str(day) for day in days],
                since=tables.table_version(workspace, name),
            )
            for name, found in ((DRIFT, hourly), (DRIFT_DAYS, daily))
        )  # fmt: skip
    report.progress("measuring drift", len(days), len(days), f"{num_rows:,} numbers for {len(days)} days")
    replaced = tuple(sorted({*by_hour.replaced, *by_day.replaced}))
    return DriftResult(
        tuple(days), by_hour.version, by_day.version, num_rows, by_hour.changed or by_day.changed, replaced
    )


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


def _landed(connection: Backend, workspace: Workspace, versions: Mapping[str, int], day: date) -> ir.Table | None:
    """Rows of a day with the microseconds from the event to the landing of its batch, null where that is unknown."""
    if not {LANDED, BATCHES} <= versions.keys():
        return None
    landed = duckdb.scan_table(
        connection, workspace, LANDED, version=versions[LANDED], partitions=[str(day)],
        columns=[c.BATCH, c.EVENT_TYPE, c.TS_US],
    )  # fmt: skip
    batches = duckdb.scan_table(
        connection, workspace, BATCHES, version=versions[BATCHES], columns=[c.BATCH, c.LANDED_AT_US]
    )
    joined = landed.join(batches, c.BATCH)
    return _typed(joined.mutate(**{_LAG: joined[c.LANDED_AT_US] - joined[c.TS_US]})).select(c.HOUR, _KIND, _LAG)


def measured_lags(connection: Backend, landed: ir.Table) -> dict[Key, tuple[int, dict[str, float | None]]]:
    """By hour and event type, and for all hours and all types: the rows whose lag is known, and the `LAGS` in seconds.

    By nearest rank: p95 is the smallest lag that 95% of the known ones don't exceed. None where none is known.
    `landed` has the columns hour, kind and lag (microseconds).
    """
    found: dict[Key, tuple[int, dict[str, float | None]]] = {}
    for keys in ((c.HOUR, _KIND), (c.HOUR,), (_KIND,), ()):
        group = [landed[key] for key in keys]
        rows = landed.mutate(
            place=ibis.row_number().over(ibis.window(group_by=group, order_by=[landed[_LAG]])),
            known=landed[_LAG].count().over(ibis.window(group_by=group)),
        )
        ranks = {name: (rows["known"] * permille + 999) // 1000 - 1 for name, permille in LAGS.items()}
        # Nulls come last, so that a group without any lag gives its first row, and others none of theirs.
        wanted = (rows["known"] == 0) & (rows["place"] == 0)
        for rank in ranks.values():
            wanted |= (rows["known"] > 0) & (rows["place"] == rank)
        shown = rows.filter(wanted).select(
            *keys, "known", _LAG, **{name: rows["place"] == ranks[name] for name in LAGS}
        )
        for row in connection.to_pyarrow(shown).to_pylist():
            key = (row.get(c.HOUR), row.get(_KIND, ALL))
            _, lags = found.setdefault(key, (row["known"], dict.fromkeys(LAGS)))
            if row["known"]:
                lags.update({name: row[_LAG] / 1e6 for name in LAGS if row[name]})
    return found


def _measure_day(
    connection: Backend, known: ir.Table, now: ir.Table, lags: _Lags, day: date, *, is_last: bool
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
        yield _measured(at, None, NUM_ROWS, count, count)
    for column, by_key in nulls.items():
        filled = _with_day(by_key)
        for at, count in _with_day(counts).items():
            yield _measured(at, column, NULL_RATE, filled[at] / count, count)
    for at, (num_known, values) in sorted(lags.items(), key=str):
        for name, value in values.items():
            yield _measured(at, None, name, value, num_known)
    for column in NUMBERS:
        yield from _compared(bin_numbers(connection, known, now, column), column)
    for column in (*TEXTS, *IDS):
        yield from _compared(bin_texts(connection, known, now, column), column)
    known_types, types = (rows.mutate(**{c.EVENT_TYPE: rows[_KIND], _KIND: ibis.literal(ALL)}) for rows in (known, now))
    yield from _compared(bin_texts(connection, known_types, types, c.EVENT_TYPE), c.EVENT_TYPE)


def _counts(connection: Backend, now: ir.Table) -> tuple[dict[Key, int], dict[str, dict[Key, int]]]:
    """Rows by hour and event type, and by column those of them that are null."""
    nulls = {column: now[column].isnull().sum() for column in NULLABLE}
    rows = connection.to_pyarrow(now.group_by([c.HOUR, _KIND]).aggregate(n=now.count(), **nulls)).to_pylist()
    rows.sort(key=lambda row: (row[c.HOUR], row[_KIND]))
    counts = {(row[c.HOUR], row[_KIND]): int(row["n"]) for row in rows}
    return counts, {column: {(row[c.HOUR], row[_KIND]): int(row[column]) for row in rows} for column in NULLABLE}


def _compared(binned: Binned, column: str) -> Iterator[Measured]:
    """PSI and JS where the reference knows the event type, the unseen rate of text."""
    if column not in IDS:
        for at, bins in _with_day_bins(binned.actual).items():
            expected, count = binned.reference[at[1]], sum(bins)
            psi, js = population_stability_index(expected, bins), jensen_shannon_distance(expected, bins)
            if psi is not None and js is not None:
                yield _measured(at, column, PSI, psi, count)
                yield _measured(at, column, JS, js, count)
    if binned.unseen is not None and binned.reference:
        unseen = _with_day(binned.unseen)
        for at, count in _with_day(binned.num_values).items():
            yield _measured(at, column, UNSEEN_RATE, unseen[at] / count, count)


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


def _measured(at: Key, column: str | None, statistic: str, value: float | None, count: int) -> Measured:
    hour, kind = at
    name = kind if column is None else f"{kind}.{column}"
    return Measured(hour, name, statistic, None if value is None else float(value), count)


def _start_us(day: date) -> int:
    return (day - _EPOCH).days * US_PER_DAY


def _as_rows(day: date, reference: str, measured: Iterable[Measured], name: str) -> pa.Table:
    rows = [
        {
            c.HOUR: one.hour,  # days have no such column
            c.FEATURE: one.feature,
            c.STATISTIC: one.statistic,
            c.VALUE: one.value,
            c.REFERENCE_VERSION: reference,
            c.COUNT: one.count,
            c.EVENT_DATE: day,
        }
        for one in measured
    ]
    return pa.Table.from_pylist(rows, schema=TABLES[name].schema)
