"""A few days of invoices by rule, backfills of them, and all that a backfill makes: what tests of real steps share."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from endcap.contracts.events import EVENTS, EVENTS_TABLE, ITEM_VERSIONS, ITEMS, OPEN_SESSIONS, USERS
from endcap.contracts.reporting import Silent
from endcap.flows.backfill import BackfillResult, backfill
from endcap.flows.feature_steps import DAILY_TABLES, WINDOW_TABLES, folder_of
from endcap.flows.steps import STEPS, make_steps
from endcap.flows.table_steps import settings_in_force
from endcap.ingest.pipeline import ingest
from endcap.ingest.quality import IngestSettings
from endcap.workspace import tables
from endcap.workspace.dated import date_files
from endcap.workspace.layout import Workspace
from endcap.workspace.ledger import LedgerEntry

FIRST = date(2011, 3, 1)
NUM_DAYS = 4
SCHEMA = pa.schema(
    [
        ("InvoiceNo", pa.string()),
        ("StockCode", pa.string()),
        ("Description", pa.string()),
        ("Quantity", pa.int64()),
        ("InvoiceDate", pa.timestamp("us")),
        ("UnitPrice", pa.float64()),
        ("CustomerID", pa.float64()),
        ("Country", pa.string()),
    ]
)


def day(number: int) -> str:
    return str(FIRST + timedelta(days=number))


def invoices(num_days: int) -> pa.Table:
    """Each day: customer 1 at noon and, on every third day, 40 minutes later; customer 2 at both ends of the day."""
    midnight = datetime(FIRST.year, FIRST.month, FIRST.day)
    rows = []
    for number in range(num_days):
        visits = [(1, timedelta(hours=12)), (2, timedelta(minutes=5)), (2, timedelta(hours=23, minutes=50))]
        visits += [(1, timedelta(hours=12, minutes=40))] if number % 3 == 0 else []
        for customer, moment in visits:
            rows += [
                {
                    "InvoiceNo": f"{500_000 + 10 * number + customer}",
                    "StockCode": f"{20_000 + (number + place) % 5}",
                    "Description": f"TEACUP NO {(number + place) % 5}",
                    "Quantity": place + 1,
                    "InvoiceDate": midnight + timedelta(days=number) + moment,
                    "UnitPrice": 1.25 + place,
                    "CustomerID": 12_000.0 + customer,
                    "Country": "Norway",
                }
                for place in range(2)
            ]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: row["InvoiceDate"]), schema=SCHEMA)


def shop(folder: Path, num_days: int, gap: int = 30) -> Workspace:
    pq.write_table(invoices(num_days), folder / "invoices.parquet")
    workspace = Workspace.init(folder / "shop" / str(gap))
    settings = IngestSettings(session_gap_minutes=gap)
    ingest(workspace, "online_retail", folder / "invoices.parquet", settings=settings)
    return workspace


def run(workspace: Workspace, num_days: int, *steps: str, gap: int | None = None, **options) -> BackfillResult:
    settings = settings_in_force(workspace)
    if gap is not None:
        settings = msgspec.structs.replace(settings, session_gap_minutes=gap)
    last = FIRST + timedelta(days=num_days - 1)
    return backfill(workspace, FIRST, last, make_steps(steps, settings), Silent(), **options)


def of(result: BackfillResult, step: str, state: str) -> list[str]:
    return [part.node.partition for part in result.outcomes if (part.node.step, part.state) == (step, state)]


def latest(workspace: Workspace) -> dict[tuple[str, str], str]:
    """The run that finished each partition last."""
    entries = (msgspec.json.decode(path.read_bytes(), type=LedgerEntry) for path in _entries(workspace))
    return {(entry.key.step, entry.key.partition): entry.run_id for entry in entries if entry.key.step in STEPS}


def _entries(workspace: Workspace) -> list[Path]:
    return list((workspace.ledger / "latest").rglob("*.json"))


def content(workspace: Workspace, num_days: int, *steps: str) -> dict[str, pa.Table]:
    """All that these steps make, whichever files it lies in; by default all steps."""
    dates = [day(number) for number in range(num_days)]
    names = {EVENTS: (EVENTS, OPEN_SESSIONS), "catalog": (ITEMS, ITEM_VERSIONS, USERS)}
    found = {
        name: tables.read_table(workspace, name) for step in names if step in (steps or names) for name in names[step]
    }
    for step, (made, days) in {"daily": (DAILY_TABLES, dates), "windows": (WINDOW_TABLES, dates[1:])}.items():
        for name in made if step in (steps or STEPS) else ():
            files = date_files(folder_of(workspace, step), name, days)
            found[name] = pa.concat_tables([pq.read_table(file, partitioning=None) for file in files])
    return found


def command(workspace: Workspace, num_days: int, *more: str) -> list[str]:
    """The command line that backfills all steps with sessions of an hour, so that each date has to be built again."""
    return [
        sys.executable, "-m", "endcap", "backfill", "--from", day(0), "--to", day(num_days - 1),
        "--session-gap-minutes", "60", "--log-format", "json", "-w", str(workspace.path), *more,
    ]  # fmt: skip


def forget_derived(workspace: Workspace) -> None:
    """Make the dataset one of a release that didn't say what its products and users were made from."""
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    tables.publish_dataset(workspace, msgspec.structs.replace(dataset, derived=""))


def wait_until(holds: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_when(reached: Callable[[], bool], arguments: Sequence[str], log: Path) -> None:
    """Run a command and kill it at the moment; it must not be done by then."""
    with log.open("ab") as file:
        process = subprocess.Popen(arguments, stdout=file, stderr=file)
        wait_until(lambda: reached() or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, log.read_text()


def change(workspace: Workspace, date: str, how: Callable[[pa.Table], pa.Table]) -> None:
    rows = how(tables.read_partitions(workspace, EVENTS, [date])).cast(EVENTS_TABLE.schema)
    written = tables.replace_partitions(workspace, EVENTS, rows, [date])
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    versions = dataset.versions | {EVENTS: written.version}
    tables.publish_dataset(workspace, msgspec.structs.replace(dataset, versions=versions))


def with_column(rows: pa.Table, column: str, values: pa.ChunkedArray | pa.Array) -> pa.Table:
    return rows.set_column(
        rows.schema.get_field_index(column), rows.schema.field(column), values.cast(rows.schema.field(column).type)
    )
