"""A table's version in, its profile out: what each column holds, rows by day and type, sessions, where rows went.

Columns are looked at one by one, so that memory holds one column's distinct values at most, and the engine spills
those. Every figure is exact. Ids of people are hashed, text that may hold anything is not shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import ibis.expr.types as ir
import msgspec
import pyarrow as pa
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.contracts.events import EVENTS, LANDED, TABLES
from endcap.contracts.reporting import Reporter
from endcap.engines import duckdb
from endcap.monitoring import account as accounts
from endcap.monitoring.account import LateRows, RowAccount, Sessions, UnknownItems
from endcap.monitoring.quantiles import Bar, exact_quantiles, finite_values, histogram
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

MEMORY_MB: Final = 2048
NUM_TOP: Final = 10
PERMILLES: Final[Mapping[str, int]] = {
    "min": 0,
    "p1": 10,
    "p5": 50,
    "p25": 250,
    "median": 500,
    "p75": 750,
    "p95": 950,
    "p99": 990,
    "max": 1000,
}
"""Names of the quantiles with their permille."""

HASHED: Final = (c.USER_ID, c.GUEST_ID, c.SESSION_ID, c.BASKET_ID, c.EVENT_ID, c.REQUEST_ID)
"""Columns whose values lead to a person: shown under the workspace's hash."""

HIDDEN: Final = (c.RAW, c.PROPERTIES)
"""Columns whose text may hold anything, a person's id too: none of it is shown."""

NUMBER: Final = "number"
TIME: Final = "time"
DATE: Final = "date"
TEXT: Final = "text"
TRUTH: Final = "truth"


class ValueCount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A value as text, and its rows."""

    value: str
    count: int


class ColumnProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one column holds.

    `quantiles` are of the values for numbers, of microseconds for times, of the number of characters for text. `top`
    is empty where every value is another and where values are not to be shown; `top_count` is the rows of the
    commonest value even then.
    """

    name: str
    type: str
    kind: str
    num_rows: int
    num_nulls: int
    num_distinct: int
    top_count: int
    top: tuple[ValueCount, ...] = ()
    quantiles: dict[str, float] = {}
    bars: tuple[Bar, ...] = ()

    @property
    def null_share(self) -> float:
        """Nulls among the rows."""
        return self.num_nulls / self.num_rows if self.num_rows else 0.0

    @property
    def top_share(self) -> float:
        """The commonest value's rows among those that aren't null."""
        num_values = self.num_rows - self.num_nulls
        return self.top_count / num_values if num_values else 0.0


class DayCount(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Rows of one day and event type; the type is empty in tables without one."""

    day: date
    event_type: str
    count: int


class TableProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version of a table. What needs the dataset's other tables is there for the version in force alone."""

    table: str
    version: int
    num_rows: int
    num_files: int
    num_bytes: int
    columns: tuple[ColumnProfile, ...]
    days: tuple[DayCount, ...] = ()
    sessions: Sessions | None = None
    account: RowAccount | None = None
    unknown_items: UnknownItems | None = None
    late: LateRows | None = None

    @property
    def label(self) -> str:
        """How files and pages call it."""
        return f"{self.table}-v{self.version}"


def version_of(workspace: Workspace, name: str, version: int | None = None) -> int:
    """`version`, or the table's version in force; for a table outside the dataset the newest.

    Raises InputError when there is no such table.
    """
    if name not in TABLES:
        raise InputError(f"There is no table {name}; the tables are: {', '.join(TABLES)}.")
    if version is not None:
        return version
    dataset = tables.current_dataset(workspace)
    found = dataset.versions.get(name) if dataset is not None else None
    if found is None:
        found = tables.table_version(workspace, name)
    if found is None:
        raise InputError(
            f"{workspace.path} holds no table {name}: nothing to profile. Ingest first: endcap ingest --source KIND PATH"
        )
    return found


def profile_table(
    workspace: Workspace, name: str, report: Reporter, *, version: int | None = None, memory_mb: int = MEMORY_MB
) -> TableProfile:
    """Profile one version of a table (default: the one in force).

    Raises InputError when there is no such table or version.
    """
    version = version_of(workspace, name, version)
    stage, contract = f"profiling {name}", TABLES[name]
    num_steps = len(contract.schema) + 1
    files = [Path(file) for file in tables.table_files(workspace, name, version=version)]
    with duckdb.session(workspace, memory_mb=memory_mb) as connection:
        rows = duckdb.scan_table(connection, workspace, name, version=version)
        num_rows = int(connection.to_pyarrow(rows.count()).as_py())
        found = []
        for step, field in enumerate(contract.schema):
            report.progress(stage, step, num_steps, field.name)
            found.append(_column(connection, workspace, rows.select(field.name), field, num_rows))
        report.progress(stage, num_steps - 1, num_steps, "days, sessions, account")
        profile = TableProfile(
            table=name,
            version=version,
            num_rows=num_rows,
            num_files=len(files),
            num_bytes=sum(file.stat().st_size for file in files),
            columns=tuple(found),
            days=_days(connection, rows),
            sessions=accounts.sessions(connection, rows) if name == EVENTS and num_rows else None,
            **_of_the_dataset(connection, workspace, name, version, rows),
        )
    report.progress(stage, num_steps, num_steps, f"{num_rows:,} rows")
    return profile


def _of_the_dataset(
    connection: Backend, workspace: Workspace, name: str, version: int, rows: ir.Table
) -> dict[str, Any]:
    """Figures that need several tables: they belong together only in the dataset in force."""
    dataset = tables.current_dataset(workspace)
    if dataset is None or dataset.versions.get(name) != version:
        return {}
    return {
        "account": accounts.row_account(connection, workspace, dataset.versions),
        "unknown_items": accounts.unknown_items(connection, workspace, rows, dataset.versions)
        if name == EVENTS
        else None,
        "late": accounts.late_rows(connection, workspace, dataset.versions) if name in (EVENTS, LANDED) else None,
    }


def kind_of(field: pa.Field) -> str:
    """What a column is to a reader: `number`, `time` (microseconds), `date`, `text` or `truth`."""
    if pa.types.is_boolean(field.type):
        return TRUTH
    if pa.types.is_date(field.type):
        return DATE
    if field.name.endswith("_us") or field.name == c.HOUR:
        return TIME
    return TEXT if pa.types.is_string(field.type) else NUMBER


def _column(connection: Backend, workspace: Workspace, rows: ir.Table, field: pa.Field, num_rows: int) -> ColumnProfile:
    column, kind = rows[field.name], kind_of(field)
    counted = rows.aggregate(num_values=column.count(), num_distinct=column.nunique())
    counts = connection.to_pyarrow(counted).to_pylist()[0]
    num_values, num_distinct = int(counts["num_values"]), int(counts["num_distinct"])
    top = _top(connection, column, num_values, num_distinct)
    shown = () if num_distinct == num_values or field.name in HIDDEN else top
    measured: dict[str, float] = {}
    bars: list[Bar] = []
    if kind in (NUMBER, TIME, TEXT):
        numbers = finite_values(column.length() if kind == TEXT else column)
        values = exact_quantiles(connection, numbers, tuple(PERMILLES.values()))
        measured = {name: _number(value) for name, value in zip(PERMILLES, values, strict=False)}
    if measured and kind in (NUMBER, TIME):
        # A few outliers would press all others into one bar.
        low, high = ("p1", "p99") if kind == NUMBER else ("min", "max")
        is_whole = pa.types.is_integer(field.type) and kind == NUMBER
        bars = histogram(connection, numbers, measured[low], measured[high], whole_numbers=is_whole)
    return ColumnProfile(
        name=field.name,
        type=str(field.type),
        kind=kind,
        num_rows=num_rows,
        num_nulls=num_rows - num_values,
        num_distinct=num_distinct,
        top_count=top[0][1] if top else min(num_values, 1),
        top=tuple(ValueCount(_shown(workspace, field.name, kind, value), count) for value, count in shown),
        quantiles=measured,
        bars=tuple(bars),
    )


def _top(connection: Backend, column: ir.Column, num_values: int, num_distinct: int) -> list[tuple[Any, int]]:
    """The commonest values with their rows, ties by value; empty where every value is another."""
    if num_distinct == num_values:
        return []
    rows = column.name("x").as_table()
    rows = rows.filter(rows.x.notnull())
    grouped = rows.group_by("x").aggregate(n=rows.count())
    first = grouped.order_by([grouped.n.desc(), grouped.x]).limit(NUM_TOP)
    return [(row["x"], int(row["n"])) for row in connection.to_pyarrow(first).to_pylist()]


def _days(connection: Backend, rows: ir.Table) -> tuple[DayCount, ...]:
    if c.EVENT_DATE not in rows.columns:
        return ()
    keys = [column for column in (c.EVENT_DATE, c.EVENT_TYPE) if column in rows.columns]
    grouped = rows.group_by(keys).aggregate(n=rows.count()).order_by(keys)
    found = connection.to_pyarrow(grouped).to_pylist()
    return tuple(DayCount(row[c.EVENT_DATE], row.get(c.EVENT_TYPE, ""), int(row["n"])) for row in found)


def _number(value: Any) -> float:
    """A whole number or a float as msgspec writes it; a decimal as the nearest float."""
    return value if isinstance(value, int | float) else float(value)


def _shown(workspace: Workspace, name: str, kind: str, value: Any) -> str:
    if name in HASHED:
        return workspace.user_key(str(value))
    return moment(value) if kind == TIME else str(value)


def moment(ts_us: float) -> str:
    """A moment for people, to the second; as a number where no calendar reaches."""
    try:
        return datetime.fromtimestamp(ts_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{ts_us:,.0f} \u00b5s"
