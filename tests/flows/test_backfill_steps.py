"""Backfills of a few real days: what depends on a change is made again, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from endcap.contracts import columns as c
from endcap.contracts.errors import TransientError
from endcap.contracts.events import EVENTS
from endcap.contracts.reporting import Silent
from endcap.flows.backfill import PARTITIONS_FILE, backfill
from endcap.flows.feature_steps import DAILY_TABLES, WINDOW_TABLES, folder_of
from endcap.flows.partitions import GONE
from endcap.flows.steps import make_steps
from endcap.flows.table_steps import settings_in_force
from endcap.ingest import build
from endcap.ingest.pipeline import ingest
from endcap.workspace import ledger, maintenance, tables
from endcap.workspace.dated import date_files, list_dates
from endcap.workspace.layout import Workspace
from tests.flows.invoices import (
    FIRST,
    NUM_DAYS,
    change,
    command,
    content,
    day,
    forget_derived,
    invoices,
    kill_when,
    latest,
    of,
    run,
    shop,
    with_column,
)

Copy = Callable[[Workspace], Workspace]
ALL_DAYS = [day(number) for number in range(NUM_DAYS)]
NUM_NODES = 4 + 1 + 4 + 3


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Four days, backfilled; not to be changed: copy it."""
    workspace = shop(tmp_path_factory.mktemp("days"), NUM_DAYS)
    planned = run(workspace, NUM_DAYS, dry_run=True)
    # The ingest has built the events and derived the catalog; the first date has no day before it to look back at, the
    # last midnight ends it. What an ingest made is settled, so nothing is vague but what the backfill makes itself.
    assert planned.counts == {"done": 4 + 1, "run": 4 + 3}
    assert run(workspace, NUM_DAYS).counts == {"done": 4 + 1, "ran": 4 + 3}
    assert run(workspace, NUM_DAYS).counts == {"done": NUM_NODES}
    return workspace


def test_two_jobs_and_one_make_the_same(days: Workspace, tmp_path: Path) -> None:
    workspace = Workspace.init(tmp_path / "other")
    ingest(workspace, "online_retail", days.path.parents[1] / "invoices.parquet")
    result = run(workspace, NUM_DAYS, jobs=2)
    assert result.counts == {"done": 5, "ran": 7}
    assert content(workspace, NUM_DAYS) == content(days, NUM_DAYS)


def test_another_session_gap_stays_and_touches_dates_whose_sessions_change_alone(
    days: Workspace, copy_of: Copy
) -> None:
    """Within an hour, customer 1 comes twice on days 0 and 3; nothing else differs between the two gaps."""
    workspace = copy_of(days)
    plan = run(workspace, NUM_DAYS, gap=60, dry_run=True)
    assert {part.why for part in plan.outcomes if part.node.step == "events"} == {"not in the ledger yet"}
    assert of(plan, "catalog", "done") == ["all"]
    assert of(plan, "daily", "maybe") == ALL_DAYS

    result = run(workspace, NUM_DAYS, gap=60)
    assert of(result, "events", "ran") == ALL_DAYS
    assert of(result, "daily", "ran") == [day(0), day(3)]
    assert of(result, "daily", "unchanged") == [day(1), day(2)]
    assert of(result, "windows", "ran") == ALL_DAYS[1:]
    # The gap stays chosen, for backfills and ingests that aren't told another one.
    assert settings_in_force(workspace).session_gap_minutes == 60
    assert run(workspace, NUM_DAYS).counts == {"done": NUM_NODES}
    assert not ingest(workspace, "online_retail", days.path.parents[1] / "invoices.parquet").changed

    back = run(workspace, NUM_DAYS, gap=30)
    assert {part.why for part in back.outcomes if part.node.step == "events"} == {"configuration changed"}
    assert content(workspace, NUM_DAYS) == content(days, NUM_DAYS)


def test_a_gap_for_some_dates_is_finished_by_the_next_ingest(days: Workspace, copy_of: Copy, tmp_path: Path) -> None:
    workspace = copy_of(days)
    assert of(run(workspace, 2, "events", gap=60), "events", "ran") == ALL_DAYS[:2]
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    assert (dataset.settings["session_gap_minutes"], dataset.build) == (60, "")
    ingest(workspace, "online_retail", days.path.parents[1] / "invoices.parquet")
    assert content(workspace, NUM_DAYS, EVENTS) == content(shop(tmp_path, NUM_DAYS, gap=60), NUM_DAYS, EVENTS)


def test_a_date_and_the_settings_it_was_built_with_come_into_force_at_once(
    days: Workspace, copy_of: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever dies before the one commit leaves the dataset as it was; after it, only the ledger's entry is missing."""
    workspace = copy_of(days)
    before = tables.current_dataset(workspace)
    commits: list[tables.Dataset] = []

    def dies(_: Workspace, dataset: tables.Dataset) -> None:
        commits.append(dataset)
        raise TransientError("Cut short.")

    with monkeypatch.context() as patched:
        patched.setattr(tables, "publish_dataset", dies)
        assert run(workspace, 1, "events", gap=60, sleep=lambda _: None).exit_code == 1
    assert tables.current_dataset(workspace) == before
    assert {(commit.build, commit.settings["session_gap_minutes"]) for commit in commits} == {("", 60)}
    with monkeypatch.context() as patched:
        patched.setattr(ledger, "record_entry", lambda *_: dies(workspace, commits[0]))
        assert run(workspace, 1, "events", gap=60, sleep=lambda _: None).exit_code == 1
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    assert (dataset.build, dataset.settings["session_gap_minutes"]) == ("", 60)
    # No ingest takes the other dates for built with that gap, and the date itself is not taken for done.
    assert run(workspace, NUM_DAYS, "events").counts == {"ran": NUM_DAYS}
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    assert dataset.build == build.build_digest(settings_in_force(workspace))


def test_dates_that_an_ingest_built_otherwise_since_are_not_taken_for_built(days: Workspace, copy_of: Copy) -> None:
    workspace = copy_of(days)
    export = days.path.parents[1] / "invoices.parquet"
    run(workspace, NUM_DAYS, "events", gap=60)
    settings = msgspec.structs.replace(settings_in_force(workspace), session_gap_minutes=30)
    ingest(workspace, "online_retail", export, settings=settings)
    # Every date's last entry has this gap, but only one of them was built with it since.
    run(workspace, 1, "events", gap=60)
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    assert dataset.build == ""


def test_an_event_that_changes_touches_the_midnights_after_it_alone(days: Workspace, copy_of: Copy) -> None:
    workspace = copy_of(days)
    change(workspace, day(1), _double_values)
    plan = run(workspace, NUM_DAYS, "daily", "windows", dry_run=True)
    assert [(part.node.partition, part.why) for part in plan.outcomes if part.state == "run"] == [
        (day(1), "inputs changed")
    ]
    assert of(plan, "windows", "maybe") == [day(2), day(3)]
    result = run(workspace, NUM_DAYS, "daily", "windows")
    assert (of(result, "daily", "ran"), of(result, "windows", "ran")) == ([day(1)], [day(2), day(3)])


@pytest.mark.parametrize("was_backfilled", [False, True])
def test_events_that_were_altered_are_built_again(days: Workspace, copy_of: Copy, *, was_backfilled: bool) -> None:
    """Be it that a backfill or that an ingest made them."""
    workspace = copy_of(days)
    if was_backfilled:
        run(workspace, NUM_DAYS, "events", gap=60)
    change(workspace, day(1), _double_values)
    result = run(workspace, NUM_DAYS, "events")
    why = "outputs missing or altered" if was_backfilled else "not in the ledger yet"
    assert [(part.node.partition, part.why) for part in result.outcomes if part.state == "ran"] == [(day(1), why)]
    assert pc.sum(tables.read_table(workspace, EVENTS)[c.VALUE]) == pc.sum(tables.read_table(days, EVENTS)[c.VALUE])


def _double_values(rows: pa.Table) -> pa.Table:
    return with_column(rows, c.VALUE, pc.add(rows[c.VALUE], rows[c.VALUE]))


def test_a_column_that_nothing_reads_touches_nothing_that_is_made_from_events(days: Workspace, copy_of: Copy) -> None:
    workspace = copy_of(days)
    for number in range(NUM_DAYS):
        change(workspace, day(number), lambda rows: with_column(rows, c.PROPERTIES, pa.array(["{}"] * rows.num_rows)))
    assert run(workspace, NUM_DAYS, "daily", "windows", dry_run=True).counts == {"done": 7}


def test_the_plan_after_an_ingest_names_what_it_touched_and_nothing_else(
    days: Workspace, copy_of: Copy, tmp_path: Path
) -> None:
    workspace = copy_of(days)
    pq.write_table(invoices(NUM_DAYS + 1), tmp_path / "longer.parquet")
    ingest(workspace, "online_retail", tmp_path / "longer.parquet")
    plan = run(workspace, NUM_DAYS + 1, dry_run=True)
    assert {part.node: part.state for part in plan.outcomes if part.state != "done"} == {
        ("daily", day(4)): "run", ("windows", day(4)): "run",
    }  # fmt: skip
    maintenance.compact(workspace)
    assert [
        str(part.node) for part in run(workspace, NUM_DAYS, "events", dry_run=True).outcomes if part.state != "done"
    ] == []


def test_a_catalog_of_unknown_origin_runs_once(days: Workspace, copy_of: Copy) -> None:
    workspace = copy_of(days)
    forget_derived(workspace)
    assert run(workspace, NUM_DAYS).counts == {"done": 4, "ran": 1, "unchanged": 7}
    assert run(workspace, NUM_DAYS).counts == {"done": NUM_NODES}


@pytest.mark.parametrize("damage", ["cut", "same size"])
def test_a_file_that_is_damaged_is_made_again(days: Workspace, copy_of: Copy, damage: str) -> None:
    workspace = copy_of(days)
    (path,) = map(Path, date_files(folder_of(workspace, "daily"), "item_days", [day(2)]))
    found = path.read_bytes()
    if damage == "cut":
        os.truncate(path, 10)
    else:
        place = len(found) // 2
        path.write_bytes(found[:place] + bytes([found[place] ^ 1]) + found[place + 1 :])
    result = run(workspace, NUM_DAYS)
    assert [(part.node, part.why) for part in result.outcomes if part.state == "ran"] == [
        (("daily", day(2)), "outputs missing or altered")
    ]
    assert content(workspace, NUM_DAYS, "daily") == content(days, NUM_DAYS, "daily")


def test_dates_that_lost_all_their_rows_are_deleted(days: Workspace, copy_of: Copy, tmp_path: Path) -> None:
    """Wherever they lie, so that what is taken back doesn't stay in what was made of it."""
    workspace = copy_of(days)
    rows = invoices(NUM_DAYS)
    kept = pc.greater_equal(rows["InvoiceDate"], pa.scalar(FIRST + timedelta(days=2)).cast(pa.timestamp("us")))
    pq.write_table(rows.filter(kept), tmp_path / "invoices.parquet")
    ingest(workspace, "online_retail", tmp_path / "invoices.parquet", replace=True)
    last = FIRST + timedelta(days=3)
    steps = make_steps((), settings_in_force(workspace))
    plan = backfill(workspace, last, last, steps, Silent(), dry_run=True)
    assert [str(part.node) for part in plan.outcomes if part.why == GONE] == [
        f"daily {day(0)}", f"daily {day(1)}", f"windows {day(1)}", f"windows {day(2)}",
    ]  # fmt: skip
    assert list_dates(folder_of(workspace, "daily"), DAILY_TABLES) == ALL_DAYS
    assert backfill(workspace, last, last, steps, Silent()).exit_code == 0
    assert list_dates(folder_of(workspace, "daily"), DAILY_TABLES) == ALL_DAYS[2:]
    assert list_dates(folder_of(workspace, "windows"), WINDOW_TABLES) == [day(3)]
    again = backfill(workspace, last, last, steps, Silent(), dry_run=True)
    assert (set(again.counts), [part for part in again.outcomes if part.why == GONE]) == ({"done"}, [])
    # Their rows come back, and so does what is made of them.
    ingest(workspace, "online_retail", days.path.parents[1] / "invoices.parquet")
    assert run(workspace, NUM_DAYS).exit_code == 0
    assert content(workspace, NUM_DAYS) == content(days, NUM_DAYS)


def test_windows_of_midnights_long_after_any_event_are_empty(tmp_path: Path) -> None:
    """Two days with events, 400 days apart."""
    far = timedelta(days=400)
    rows = invoices(1)
    later = with_column(rows, "InvoiceDate", pc.add(rows["InvoiceDate"], pa.scalar(far, pa.duration("us"))))
    later = with_column(
        later, "InvoiceNo", pc.binary_join_element_wise("6", pc.utf8_slice_codeunits(later["InvoiceNo"], 1), "")
    )
    pq.write_table(pa.concat_tables([rows, later]), tmp_path / "invoices.parquet")
    workspace = Workspace.init(tmp_path / "shop")
    ingest(workspace, "online_retail", tmp_path / "invoices.parquet")
    moments = [FIRST + timedelta(days=number) for number in (1, 380, 401)]
    for moment in moments:
        assert (
            backfill(workspace, moment, moment, make_steps((), settings_in_force(workspace)), Silent()).exit_code == 0
        )
    rows_on = {
        str(moment): [pq.read_metadata(date_files(folder_of(workspace, "windows"), name, [str(moment)])[0]).num_rows
                      for name in ("user_windows", "repurchase_due", "price_positions")]
        for moment in moments
    }  # fmt: skip
    assert list(rows_on.values()) == [[2, 4, 2], [0, 0, 2], [2, 4, 2]]


def test_windows_without_daily_tables_say_what_to_do(tmp_path: Path) -> None:
    result = run(shop(tmp_path, 2), 2, "windows")
    assert result.exit_code == 1
    assert f"Make them with: endcap backfill --from {day(0)} --to {day(0)}" in (result.failed[0].error or "")


def test_a_device_without_room_ends_the_backfill_and_leaves_nothing_half_made(tmp_path: Path) -> None:
    """The kernel itself says that the device is full: the file is written to a device that always is."""
    workspace = shop(tmp_path, 2)
    place = folder_of(workspace, "daily") / "item_days" / f"event_date={day(0)}"
    place.mkdir(parents=True)
    (place / f".part.parquet.{os.getpid()}.tmp").symlink_to("/dev/full")
    naps: list[float] = []
    result = run(workspace, 2, sleep=naps.append)
    assert (result.exit_code, naps) == (3, [])
    assert result.counts == {"done": 3, "failed": 1, "skipped": 2}
    assert str(result.stopped).startswith(f"The disk that holds {workspace.path} is full: daily {day(0)}")
    assert run(workspace, 2, dry_run=True).counts == {"done": 3, "run": 3}
    resumed = run(workspace, 2)
    assert (resumed.exit_code, resumed.counts) == (0, {"done": 3, "ran": 3})
    # Nothing of the failed attempt is left beside the files.
    assert sorted(path.name for path in place.iterdir()) == ["_manifest.json", "part.parquet"]


@pytest.mark.slow  # kills
def test_four_days_killed_and_resumed_equal_four_that_were_not(days: Workspace, copy_of: Copy) -> None:
    killed, sound = copy_of(days), copy_of(days)
    kill_when(lambda: ("events", day(1)) in latest(killed), command(killed, NUM_DAYS), killed.path / "log")
    before = latest(killed)
    resumed = run(killed, NUM_DAYS, gap=60)
    assert resumed.exit_code == 0
    assert {part.node for part in resumed.outcomes if part.state == "ran"}.isdisjoint(
        node for node, run_id in before.items() if run_id not in latest(days).values()
    )
    assert run(sound, NUM_DAYS, gap=60).exit_code == 0
    assert content(killed, NUM_DAYS) == content(sound, NUM_DAYS)


@pytest.mark.slow  # whole processes; threads do so in test_backfill
def test_two_commands_at_once_run_each_partition_once(tmp_path: Path) -> None:
    workspace = shop(tmp_path, 2)
    forget_derived(workspace)
    both = [subprocess.Popen(command(workspace, 2), stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    said = [process.communicate(timeout=90)[0].decode() for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    states: Counter[tuple[str, str, str]] = Counter()
    for path in workspace.runs.glob(f"backfill-*/{PARTITIONS_FILE}"):
        states.update((part["step"], part["partition"], part["state"]) for part in json.loads(path.read_text()))
    ran = {(step, partition): n for (step, partition, state), n in states.items() if state == "ran"}
    assert ran == dict.fromkeys(latest(workspace), 1)
    assert Counter(step for step, _ in ran) == {"events": 2, "catalog": 1, "daily": 2, "windows": 1}
