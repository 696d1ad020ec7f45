"""Events and catalog of a workspace in, daily aggregates and windows as of each midnight out: one step each, by date."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import ibis
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts import events as contract
from endcap.contracts.events import EVENTS, ITEM_VERSIONS, LANDED, US_PER_DAY
from endcap.engines import duckdb, portable
from endcap.features import as_of, daily, exact, spine_leaks, windows
from endcap.flows import contents
from endcap.flows.contents import Content, landed_dates, partition_content, versions_before, versions_content
from endcap.flows.partitions import Context, Node
from endcap.flows.table_steps import CATALOG_STEP, EVENTS_STEP, WHOLE
from endcap.workspace import ledger, lineage, tables
from endcap.workspace.dated import content_digest, date_files, find_date, list_dates, publish_date, remove_date
from endcap.workspace.layout import Workspace

DAILY_STEP: Final = lineage.DAILY
WINDOWS_STEP: Final = lineage.WINDOWS

DAILY_CODE: Final = tuple(module.__name__ for module in (daily, as_of, contract, contents, portable))
WINDOWS_CODE: Final = tuple(module.__name__ for module in (windows, exact, daily, as_of, contract, contents, portable))
"""Modules that decide what a step's tables hold, beside this one."""

_EPOCH: Final = date(1970, 1, 1)
_TABLES: Final = "tables"
_DAILY_EVENTS: Final = lineage.columns_read(DAILY_STEP, EVENTS)
_DAILY_VERSIONS: Final = lineage.columns_read(DAILY_STEP, ITEM_VERSIONS)
_WINDOW_VERSIONS: Final = lineage.columns_read(WINDOWS_STEP, ITEM_VERSIONS)

USER_DAYS: Final = "user_days"
ITEM_DAYS: Final = "item_days"
USER_CATEGORY_DAYS: Final = "user_category_days"
USER_ITEM_DAYS: Final = "user_item_days"

DAILY_TABLES: Final[Mapping[str, tuple[str, ...]]] = {
    USER_DAYS: (c.USER_ID,),
    ITEM_DAYS: (c.ITEM_ID,),
    USER_CATEGORY_DAYS: (c.USER_ID, c.CATEGORY),
    USER_ITEM_DAYS: (c.USER_ID, c.ITEM_ID),
}
"""Daily tables, each with what orders the rows of a date."""

LOOKBACK_DAYS: Final = dict.fromkeys(DAILY_TABLES, windows.LOOKBACK_DAYS) | {USER_ITEM_DAYS: windows.REPURCHASE_DAYS}
"""How many days before a midnight its windows read of each daily table."""

_Window = Callable[[ir.Table, int], ir.Table]
WINDOW_TABLES: Final[Mapping[str, tuple[tuple[str, ...], str, _Window]]] = {
    "user_windows": ((c.USER_ID,), USER_DAYS, windows.user_windows),
    "item_windows": ((c.ITEM_ID,), ITEM_DAYS, windows.item_windows),
    "user_category_windows": ((c.USER_ID, c.CATEGORY), USER_CATEGORY_DAYS, windows.user_category_windows),
    "repurchase_intervals": ((c.ITEM_ID,), USER_ITEM_DAYS, windows.repurchase_intervals),
    "repurchase_due": ((c.USER_ID, c.ITEM_ID), USER_ITEM_DAYS, windows.repurchase_due),
    "price_positions": ((c.ITEM_ID,), ITEM_VERSIONS, windows.price_positions),
}
"""Window tables, each with what orders its rows, the table that it is made from, and how."""


def folder_of(workspace: Workspace, step: str) -> Path:
    """Where a step's tables stand, each a folder of dates."""
    return workspace.features / step


@dataclass(frozen=True)
class Daily:
    """What each user, product and category came to on each date, below `02_features/daily`.

    A date depends on its own events and on the categories of its products. `lookback_days` more dates before a range
    belong to it, for the windows of the range's first date; so do dates of any time that lost all their rows.
    """

    lookback_days: int = 0
    name: str = DAILY_STEP

    def partitions(self, workspace: Workspace, first: date, last: date) -> list[str]:
        """Dates with rows that events are made from, and what stands of dates without."""
        start, dates = str(_days_before(first, self.lookback_days)), landed_dates(workspace)
        gone = _vanished(workspace, self.name, DAILY_TABLES, dates)
        return sorted([*(day for day in dates if start <= day <= str(last)), *gone])

    def needs(self, workspace: Workspace, partition: str) -> list[Node]:
        """The date's events and the catalog."""
        if self.is_gone(workspace, partition):
            return []
        return [Node(EVENTS_STEP, partition), Node(CATALOG_STEP, WHOLE)]

    def key(self, workspace: Workspace, partition: str) -> ledger.StepKey:
        """Its inputs are contents: the same rows in other files are the same."""
        return ledger.StepKey(
            step=self.name,
            partition=partition,
            inputs_digest=_digest_of(self._inputs(workspace, partition)),
            configuration_digest=ledger.digest_of([sorted(DAILY_TABLES), _DAILY_EVENTS, _DAILY_VERSIONS]),
            code_version=ledger.code_version_of(__name__, *DAILY_CODE),
        )

    def run(self, workspace: Workspace, partition: str, context: Context) -> dict[str, Any]:
        """Write the date's rows of every daily table, or delete them where the date lost all its rows."""
        if self.is_gone(workspace, partition):
            return _delete(workspace, self.name, partition, DAILY_TABLES)
        inputs, key = self._inputs(workspace, partition), self.key(workspace, partition)
        written: dict[str, Any] = {}
        with duckdb.session(workspace, memory_mb=context.memory_mb, num_threads=context.num_threads) as connection:
            events = _events_of(connection, workspace, partition)
            versions = ibis.memtable(versions_before(workspace, _midnight_us(partition, 1), _DAILY_VERSIONS))
            made = _daily_of(events, versions)
            for name, order in DAILY_TABLES.items():
                rows = connection.to_pyarrow(made[name].order_by(list(order)))
                _publish(workspace, key, name, context, partial(_write_arrow, rows))
                written[name] = {"num_rows": rows.num_rows, "digest": content_digest(rows)}
        return {_TABLES: written, "inputs": inputs}

    def is_there(self, workspace: Workspace, entry: ledger.LedgerEntry) -> bool:
        """Whether the date's files are whole and this entry's."""
        return _are_there(workspace, entry, DAILY_TABLES)

    def is_gone(self, workspace: Workspace, partition: str) -> bool:
        """Whether the date has no rows any more."""
        return partition not in landed_dates(workspace)

    def made_elsewhere(self, workspace: Workspace, partition: str) -> bool:
        """Nothing else writes them."""
        del workspace, partition
        return False

    def _inputs(self, workspace: Workspace, partition: str) -> dict[str, Content]:
        latest = ledger.find_latest(workspace, self.name, partition)
        return {
            EVENTS: partition_content(workspace, EVENTS, partition, _DAILY_EVENTS, latest),
            ITEM_VERSIONS: versions_content(workspace, _midnight_us(partition, 1), _DAILY_VERSIONS, latest),
        }


@dataclass(frozen=True)
class Windows:
    """Features as of the midnight that begins each date, below `02_features/windows`.

    They depend on the daily aggregates of the days before, and on the catalog as it stood then.
    """

    name: str = WINDOWS_STEP

    def partitions(self, workspace: Workspace, first: date, last: date) -> list[str]:
        """Every date after the first with events, up to the one after the last, and what stands of any other."""
        dates = self._dates(workspace)
        gone = _vanished(workspace, self.name, WINDOW_TABLES, dates)
        return sorted([*(day for day in dates if str(first) <= day <= str(last)), *gone])

    def needs(self, workspace: Workspace, partition: str) -> list[Node]:
        """The daily aggregates that it looks back at, and the catalog."""
        if self.is_gone(workspace, partition):
            return []
        return [Node(CATALOG_STEP, WHOLE), *(Node(DAILY_STEP, day) for day in _dates_before(workspace, partition))]

    def key(self, workspace: Workspace, partition: str) -> ledger.StepKey:
        """Its inputs are the contents of the daily tables, as the ledger has them."""
        return ledger.StepKey(
            step=self.name,
            partition=partition,
            inputs_digest=ledger.digest_of(
                [self._daily(workspace, partition), _digest_of(self._inputs(workspace, partition))]
            ),
            configuration_digest=ledger.digest_of([sorted(WINDOW_TABLES), _WINDOW_VERSIONS]),
            code_version=ledger.code_version_of(__name__, *WINDOWS_CODE),
        )

    def run(self, workspace: Workspace, partition: str, context: Context) -> dict[str, Any]:
        """Write the date's rows of every window table, or delete them where no midnight is left to make them for.

        Raises ArtifactError when a daily table lacks a date.
        """
        if self.is_gone(workspace, partition):
            return _delete(workspace, self.name, partition, WINDOW_TABLES)
        inputs, key = self._inputs(workspace, partition), self.key(workspace, partition)
        day = (date.fromisoformat(partition) - _EPOCH).days
        written: dict[str, Any] = {}
        with duckdb.session(workspace, memory_mb=context.memory_mb, num_threads=context.num_threads) as connection:
            versions = versions_before(workspace, _midnight_us(partition, 0) + 1, _WINDOW_VERSIONS)
            sources: dict[str, ir.Table] = {ITEM_VERSIONS: ibis.memtable(versions)}
            for name in DAILY_TABLES:
                dates = _dates_before(workspace, partition, LOOKBACK_DAYS[name])
                files = date_files(folder_of(workspace, DAILY_STEP), name, dates)
                sources[name] = connection.read_parquet(files, hive_partitioning=False) if files else _no_rows(name)
            spine_leaks.refuse_later_inputs(connection, sources, day)
            for name, (order, source, make) in WINDOW_TABLES.items():
                rows = make(sources[source], day).order_by(list(order))
                manifest = _publish(workspace, key, name, context, partial(_write_rows, connection, rows))
                written[name] = {"num_rows": manifest.num_rows}
        return {_TABLES: written, "inputs": inputs}

    def is_there(self, workspace: Workspace, entry: ledger.LedgerEntry) -> bool:
        """Whether the date's files are whole and this entry's."""
        return _are_there(workspace, entry, WINDOW_TABLES)

    def is_gone(self, workspace: Workspace, partition: str) -> bool:
        """Whether the date doesn't lie among those with events any more."""
        return partition not in self._dates(workspace)

    def made_elsewhere(self, workspace: Workspace, partition: str) -> bool:
        """Nothing else writes them."""
        del workspace, partition
        return False

    def _inputs(self, workspace: Workspace, partition: str) -> dict[str, Content]:
        latest = ledger.find_latest(workspace, self.name, partition)
        # Ranges that begin at the very midnight hold then.
        before_us = _midnight_us(partition, 0) + 1
        return {ITEM_VERSIONS: versions_content(workspace, before_us, _WINDOW_VERSIONS, latest)}

    def _dates(self, workspace: Workspace) -> list[str]:
        landed = landed_dates(workspace)
        if not landed:
            return []
        first, last = (date.fromisoformat(day) for day in (landed[0], landed[-1]))
        return [str(first + timedelta(days=number)) for number in range(1, (last - first).days + 2)]

    def _daily(self, workspace: Workspace, partition: str) -> dict[str, dict[str, str | None]]:
        """Digests of the daily tables' contents, by date and table; None where they were never made."""
        digests: dict[str, dict[str, str | None]] = {}
        for day in _dates_before(workspace, partition):
            made = ledger.find_latest(workspace, DAILY_STEP, day)
            written = made.outputs.get(_TABLES, {}) if made is not None else {}
            age = (date.fromisoformat(partition) - date.fromisoformat(day)).days
            digests[day] = {
                name: written.get(name, {}).get("digest") for name, lookback in LOOKBACK_DAYS.items() if age <= lookback
            }
        return digests


def _events_of(connection: Backend, workspace: Workspace, day: str) -> ir.Table:
    if tables.version_in_force(workspace, EVENTS) is None:
        return _no_events()
    return duckdb.scan_table(connection, workspace, EVENTS, columns=_DAILY_EVENTS, partitions=[day])


def _no_events() -> ir.Table:
    return ibis.memtable(contract.EVENTS_TABLE.schema.empty_table().select(list(_DAILY_EVENTS)))


def _no_rows(name: str) -> ir.Table:
    """A daily table without any."""
    versions = ibis.memtable(contract.ITEM_VERSIONS_TABLE.schema.empty_table())
    return ibis.memtable(_daily_of(_no_events(), versions)[name].schema().to_pyarrow().empty_table())


def _daily_of(events: ir.Table, versions: ir.Table) -> dict[str, ir.Table]:
    return {
        USER_DAYS: daily.user_days(events),
        ITEM_DAYS: daily.item_days(events),
        USER_CATEGORY_DAYS: daily.user_category_days(events, versions),
        USER_ITEM_DAYS: daily.user_item_days(events),
    }


def _publish(
    workspace: Workspace, key: ledger.StepKey, table: str, context: Context, write: Callable[[Path], int]
) -> Any:
    folder = folder_of(workspace, key.step)
    return publish_date(folder, table, key.partition, write, key=key.digest, run_id=context.run_id)


def _write_arrow(rows: pa.Table, path: Path) -> int:
    pq.write_table(rows, path)
    return int(rows.num_rows)


def _write_rows(connection: Backend, rows: ir.Table, path: Path) -> int:
    """Straight from the engine: windows over many users don't fit beside its memory."""
    connection.to_parquet(rows, path)
    return int(pq.read_metadata(path).num_rows)


def _are_there(workspace: Workspace, entry: ledger.LedgerEntry, names: Iterable[str]) -> bool:
    folder = folder_of(workspace, entry.key.step)
    if not entry.outputs.get(_TABLES):  # the date was deleted
        return entry.key.partition not in list_dates(folder, names)
    found = [find_date(folder, name, entry.key.partition) for name in names]
    return all(manifest is not None and manifest.key == entry.key.digest for manifest in found)


def _vanished(workspace: Workspace, step: str, names: Iterable[str], dates: Sequence[str]) -> set[str]:
    """Dates of which files of the step stand, other than `dates`; none where it isn't known what is landed."""
    if tables.version_in_force(workspace, LANDED) is None:
        return set()
    return set(list_dates(folder_of(workspace, step), names)) - set(dates)


def _delete(workspace: Workspace, step: str, partition: str, names: Iterable[str]) -> dict[str, Any]:
    for name in names:
        remove_date(folder_of(workspace, step), name, partition)
    return {_TABLES: {}}


def _digest_of(inputs: Mapping[str, Content]) -> str:
    return ledger.digest_of({name: content["digest"] for name, content in inputs.items()})


def _dates_before(workspace: Workspace, partition: str, lookback_days: int = windows.REPURCHASE_DAYS) -> list[str]:
    """Dates with events that the windows of a midnight may look back at."""
    start = str(_days_before(date.fromisoformat(partition), lookback_days))
    return [day for day in landed_dates(workspace) if start <= day < partition]


def _days_before(day: date, number: int) -> date:
    return day - timedelta(days=number)


def _midnight_us(day: str, number: int) -> int:
    """The first microsecond of the date that comes `number` days after `day`."""
    return ((date.fromisoformat(day) - _EPOCH).days + number) * US_PER_DAY
