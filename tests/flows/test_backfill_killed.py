"""A month of invoices: backfills of it are killed, resumed and replayed, and touch what depends on a change alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from endcap.contracts import columns as c
from endcap.contracts.events import EVENTS, EVENTS_TABLE, ITEM_VERSIONS, OPEN_SESSIONS
from endcap.contracts.reporting import Silent
from endcap.engines import duckdb
from endcap.features import daily
from endcap.flows.backfill import BackfillResult, backfill
from endcap.flows.feature_steps import DAILY_TABLES, WINDOW_TABLES, folder_of
from endcap.flows.steps import STEPS, make_steps
from endcap.flows.table_steps import settings_in_force
from endcap.ingest.pipeline import ingest
from endcap.ingest.quality import IngestSettings
from endcap.workspace import ledger, tables
from endcap.workspace.dated import date_files
from endcap.workspace.layout import Workspace
from endcap.workspace.ledger import LedgerEntry

pytestmark = pytest.mark.slow  # a kill loop

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


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Four days, backfilled; not to be changed: copy it."""
    workspace = shop(tmp_path_factory.mktemp("days"), NUM_DAYS)
    result = run(workspace, NUM_DAYS)
    # The ingest has built the events; the first date has no day before it to look back at, the last midnight ends it.
    assert result.counts == {"done": 4, "ran": 1 + 4 + 3}
    assert run(workspace, NUM_DAYS).counts == {"done": 12}
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


def content(workspace: Workspace, num_days: int, steps: dict[str, object]) -> dict[str, pa.Table]:
    """All that a backfill makes."""
    dates = [day(number) for number in range(num_days)]
    found = {name: tables.read_table(workspace, name) for name in (EVENTS, OPEN_SESSIONS)}
    for step, names in steps.items():
        for name in names:
            made = dates[1:] if step == "windows" else dates
            found[name] = pa.concat_tables([pq.read_table(file, partitioning=None) for file in
                                            date_files(folder_of(workspace, step), name, made)])  # fmt: skip
    return found


def test_a_month_killed_and_resumed_equals_one_that_was_not(tmp_path: Path) -> None:
    num_days = 30
    killed = shop(tmp_path, num_days)
    command = [
        sys.executable, "-m", "endcap", "backfill", "--from", day(0), "--to", day(num_days - 1), "--step", "daily",
        "--step", "events", "--session-gap-minutes", "60", "--log-format", "json",
    ]  # fmt: skip
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([*command, "--jobs", "2", "-w", str(killed.path)], stdout=log, stderr=log)
        wait_until(lambda: sum(step == "daily" for step, _ in latest(killed)) >= 4 or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    nodes = [(step, day(number)) for step in ("events", "daily") for number in range(num_days)]
    # The workers follow their parent: what they held is free again, and they finish nothing behind its back.
    wait_until(lambda: not any(ledger.is_claimed(killed, *node) for node in nodes))
    before = latest(killed)
    assert 4 <= len(before) < len(nodes)
    assert not list(killed.runs.glob("backfill-*/manifest.json"))

    resumed = run(killed, num_days, "events", "daily", gap=60, jobs=2)
    assert resumed.exit_code == 0
    after = latest(killed)
    assert after.keys() == set(nodes)
    assert {node: after[node] for node in before} == before
    assert {after[node] for node in nodes if node not in before} == {resumed.run_id}

    # An ingest with that gap builds the same events in one go, and one query over them all gives every date's rows.
    sound = shop(tmp_path, num_days, gap=60)
    made = content(killed, num_days, {"daily": DAILY_TABLES})
    expected = {name: tables.read_table(sound, name) for name in (EVENTS, OPEN_SESSIONS)}
    with duckdb.session(sound) as connection:
        events = duckdb.scan_table(connection, sound, EVENTS)
        versions = duckdb.scan_table(connection, sound, ITEM_VERSIONS)
        for name, (keys, rows) in {
            "user_days": ([c.USER_ID], daily.user_days(events)),
            "item_days": ([c.ITEM_ID], daily.item_days(events)),
            "user_category_days": ([c.USER_ID, c.CATEGORY], daily.user_category_days(events, versions)),
            "user_item_days": ([c.USER_ID, c.ITEM_ID], daily.user_item_days(events)),
        }.items():
            expected[name] = connection.to_pyarrow(rows.order_by([daily.DAY, *keys]))
    assert {name for name, table in expected.items() if table.num_rows == 0} == {"user_category_days"}
    assert made == expected


def wait_until(holds: Callable[[], bool], timeout_s: float = 90) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_jobs_and_one_make_the_same(days: Workspace, tmp_path: Path) -> None:
    workspace = Workspace.init(tmp_path / "other")
    ingest(workspace, "online_retail", days.path.parents[1] / "invoices.parquet")
    result = run(workspace, NUM_DAYS, jobs=2)
    assert result.counts == {"done": 4, "ran": 8}
    steps = {"daily": DAILY_TABLES, "windows": WINDOW_TABLES}
    assert content(workspace, NUM_DAYS, steps) == content(days, NUM_DAYS, steps)


def test_another_session_gap_touches_dates_whose_sessions_change_alone(
    days: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    """Within an hour, customer 1 comes twice on days 0 and 3; nothing else differs between the two gaps."""
    workspace = copy_of(days)
    plan = run(workspace, NUM_DAYS, gap=60, dry_run=True)
    assert {part.why for part in plan.outcomes if part.node.step == "events"} == {"not in the ledger yet"}
    assert of(plan, "catalog", "done") == ["all"]
    assert of(plan, "daily", "maybe") == [day(number) for number in range(NUM_DAYS)]

    result = run(workspace, NUM_DAYS, gap=60)
    assert len(of(result, "events", "ran")) == NUM_DAYS
    assert of(result, "daily", "ran") == [day(0), day(3)]
    assert of(result, "daily", "unchanged") == [day(1), day(2)]
    assert of(result, "windows", "ran") == [day(number) for number in range(1, NUM_DAYS)]
    # The dataset says that every date has the other gap, so the next ingest builds them all again by its own.
    plan = run(workspace, NUM_DAYS, dry_run=True)
    assert {part.why for part in plan.outcomes if part.node.step == "events"} == {"configuration changed"}
    back = run(workspace, NUM_DAYS)
    assert len(of(back, "events", "ran")) == NUM_DAYS
    steps = {"daily": DAILY_TABLES, "windows": WINDOW_TABLES}
    assert content(workspace, NUM_DAYS, steps) == content(days, NUM_DAYS, steps)


def test_an_event_that_changes_touches_the_midnights_after_it_alone(
    days: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(days)
    change(workspace, day(1), lambda rows: _set(rows, c.VALUE, pc.add(rows[c.VALUE], rows[c.VALUE])))
    plan = run(workspace, NUM_DAYS, "daily", "windows", dry_run=True)
    assert [(part.node.partition, part.why) for part in plan.outcomes if part.state == "run"] == [
        (day(1), "inputs changed")
    ]
    assert of(plan, "windows", "maybe") == [day(2), day(3)]
    result = run(workspace, NUM_DAYS, "daily", "windows")
    assert (of(result, "daily", "ran"), of(result, "windows", "ran")) == ([day(1)], [day(2), day(3)])


def test_a_column_that_nothing_reads_touches_nothing_that_is_made_from_events(
    days: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(days)
    for number in range(NUM_DAYS):
        change(workspace, day(number), lambda rows: _set(rows, c.PROPERTIES, pa.array(["{}"] * rows.num_rows)))
    assert run(workspace, NUM_DAYS, "daily", "windows", dry_run=True).counts == {"done": 7}


def change(workspace: Workspace, date: str, how: Callable[[pa.Table], pa.Table]) -> None:
    rows = how(tables.read_partitions(workspace, EVENTS, [date])).cast(EVENTS_TABLE.schema)
    written = tables.replace_partitions(workspace, EVENTS, rows, [date])
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    versions = dataset.versions | {EVENTS: written.version}
    tables.publish_dataset(workspace, msgspec.structs.replace(dataset, versions=versions))


def _set(rows: pa.Table, column: str, values: pa.ChunkedArray | pa.Array) -> pa.Table:
    return rows.set_column(
        rows.schema.get_field_index(column), rows.schema.field(column), values.cast(rows.schema.field(column).type)
    )


def test_a_file_that_is_lost_is_made_again(days: Workspace, copy_of: Callable[[Workspace], Workspace]) -> None:
    workspace = copy_of(days)
    (lost,) = date_files(folder_of(workspace, "daily"), "item_days", [day(2)])
    os.truncate(lost, 10)
    result = run(workspace, NUM_DAYS)
    assert [(part.node, part.why) for part in result.outcomes if part.state == "ran"] == [
        (("daily", day(2)), "outputs missing or altered")
    ]


def test_windows_without_daily_tables_say_what_to_do(tmp_path: Path) -> None:
    result = run(shop(tmp_path, 2), 2, "windows")
    assert result.exit_code == 1
    assert f"Make them with: endcap backfill --from {day(0)} --to {day(0)}" in (result.failed[0].error or "")
