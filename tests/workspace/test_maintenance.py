from __future__ import annotations

import errno
import multiprocessing
import os
import threading
import time
from datetime import UTC, date, datetime, timedelta
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.contracts.errors import ArtifactError, DiskFullError, InputError, TransientError
from endcap.contracts.events import (
    BATCHES,
    DRIFT_DAYS,
    EVENTS,
    EVENTS_TABLE,
    MEASURED,
    QUARANTINE,
    QUARANTINE_TABLE,
    TABLES,
    USERS,
    USERS_TABLE,
)
from endcap.engines.failures import explained
from endcap.workspace import datasets, maintenance, manifests, pins, tables
from endcap.workspace.atomic import write_json
from endcap.workspace.exclusive import exclusive
from endcap.workspace.layout import Workspace

DAY_US = 86_400_000_000
NO_GRACE = {"grace_hours": 0.0}


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace.init(tmp_path)


def events(*days: int, user: str = "u") -> pa.Table:
    """One event on each of `days` after 1970-01-01; a day given twice has two."""
    rows = [
        {
            "event_id": f"e{place}-{day}",
            "user_id": user,
            "item_id": "i",
            "event_type": "view_item",
            "ts_us": day * DAY_US,
            "session_id": "s",
            "event_date": date(1970, 1, 1) + timedelta(days=day),
        }
        for place, day in enumerate(days)
    ]
    return pa.Table.from_pylist(rows, schema=EVENTS_TABLE.schema)


def users(*ids: str) -> pa.Table:
    return pa.Table.from_pylist([{"user_id": name, "country": None} for name in ids], schema=USERS_TABLE.schema)


def publish(workspace: Workspace, **versions: int) -> None:
    tables.publish_dataset(workspace, tables.Dataset(source="test", run_id="r", versions=versions))


def versions(workspace: Workspace) -> dict[str, int]:
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    return dataset.versions


def write(workspace: Workspace, name: str, data: pa.Table) -> int:
    """Write a whole table and put it in force beside what is in force."""
    version = tables.write_table(workspace, name, data).version
    dataset = tables.current_dataset(workspace)
    publish(workspace, **{**(dataset.versions if dataset else {}), name: version})
    return version


def append(workspace: Workspace, name: str, data: pa.Table) -> None:
    """Add a file per partition, as a stream of small writes would, and put it in force."""
    write_deltalake(str(tables.table_path(workspace, name)), data, mode="append")
    publish(workspace, **{**versions(workspace), name: tables.table_version(workspace, name) or 0})


def files_on_disk(workspace: Workspace, name: str = EVENTS) -> set[str]:
    folder = tables.table_path(workspace, name)
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet")}


def test_small_files_are_merged_and_contents_stay(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1, 2))
    for place in range(3):
        append(workspace, EVENTS, events(*[1] * (place + 2)).slice(place + 1))
    write(workspace, USERS, users("u"))
    before = tables.read_table(workspace, EVENTS)
    [merged, untouched] = maintenance.compact(workspace)
    assert (merged.name, merged.num_files_before, merged.num_files) == (EVENTS, 5, 2)
    assert (untouched.name, untouched.version_before, untouched.version) == (USERS, 0, 0)
    assert versions(workspace) == {EVENTS: merged.version, USERS: 0}
    assert len(tables.table_files(workspace, EVENTS)) == 2
    assert tables.read_table(workspace, EVENTS).equals(before)
    assert tables.read_table(workspace, EVENTS, version=merged.version_before).equals(before)


def test_merging_again_changes_nothing(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1))
    append(workspace, EVENTS, events(1, 1).slice(1))
    maintenance.compact(workspace)
    stamp = (workspace.events / tables.DATASET).stat().st_mtime_ns
    [again] = maintenance.compact(workspace)
    assert again.version == again.version_before == tables.table_version(workspace, EVENTS)
    assert (workspace.events / tables.DATASET).stat().st_mtime_ns == stamp


def test_only_the_named_table_is_merged(workspace: Workspace) -> None:
    write(workspace, USERS, users("a"))
    append(workspace, USERS, users("b"))
    write(workspace, EVENTS, events(1))
    assert [done.name for done in maintenance.compact(workspace, table_names=[EVENTS])] == [EVENTS]
    assert len(tables.table_files(workspace, USERS)) == 2
    with pytest.raises(InputError, match="no table itmes; it has: events, users"):
        maintenance.compact(workspace, table_names=["itmes"])


def test_merging_leaves_out_what_never_came_into_force(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1))
    append(workspace, EVENTS, events(1, 1).slice(1))
    in_force = tables.read_table(workspace, EVENTS)
    tables.write_table(workspace, EVENTS, events(1, 2, 3))  # cut short before it was published
    maintenance.compact(workspace)
    assert tables.read_table(workspace, EVENTS).equals(in_force)
    assert len(tables.table_files(workspace, EVENTS)) == 1


def test_a_merge_that_is_cut_short_leaves_the_dataset(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write(workspace, EVENTS, events(1))
    append(workspace, EVENTS, events(1, 1).slice(1))
    before, content = versions(workspace), tables.read_table(workspace, EVENTS)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tables, "publish_dataset", killed)
        with pytest.raises(KeyboardInterrupt):
            maintenance.compact(workspace)
    assert versions(workspace) == before
    assert tables.read_table(workspace, EVENTS).equals(content)
    maintenance.compact(workspace)
    assert tables.read_table(workspace, EVENTS).equals(content)
    assert len(tables.table_files(workspace, EVENTS)) == 1


def test_retention_counts_first_and_deletes_when_told(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(0, 1, 1, 2, 9, 10))
    write(workspace, USERS, users("u"))
    today = date(1970, 1, 11)
    [found] = maintenance.retain(workspace, 9, today=today)
    assert (found.name, found.partitions, found.num_rows) == (EVENTS, ("1970-01-01",), 1)
    assert found.num_partitions_left == 4
    assert versions(workspace) == {EVENTS: 0, USERS: 0}
    [applied] = maintenance.retain(workspace, 8, today=today, apply=True)
    assert (applied.partitions, applied.num_rows) == (("1970-01-01", "1970-01-02"), 3)
    assert versions(workspace) == {EVENTS: 1, USERS: 0}
    kept = tables.read_table(workspace, EVENTS)
    assert kept.equals(events(0, 1, 1, 2, 9, 10).slice(3))
    [again] = maintenance.retain(workspace, 8, today=today, apply=True)
    assert (again.partitions, again.num_rows, again.num_bytes) == ((), 0, 0)
    assert versions(workspace) == {EVENTS: 1, USERS: 0}


def test_retention_names_who_still_holds_the_rows(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(0, 9))
    pins.pin(workspace, "launch")
    [found] = maintenance.retain(workspace, 5, today=date(1970, 1, 11))
    assert found.still_held_by == ("pin launch",)


@pytest.mark.parametrize(
    ("days", "names", "message"),
    [(0, None, "days is 0"), (3, [USERS], "users has no dates to go by; these tables have: events")],
)
def test_retention_refuses(workspace: Workspace, days: int, names: list[str] | None, message: str) -> None:
    write(workspace, EVENTS, events(1))
    write(workspace, USERS, users("u"))
    with pytest.raises(InputError, match=message):
        maintenance.retain(workspace, days, table_names=names, apply=True)


def test_nothing_to_maintain_before_the_first_ingest(workspace: Workspace) -> None:
    assert maintenance.status(workspace) == []
    assert maintenance.vacuum(workspace, apply=True) == []
    with pytest.raises(InputError, match="endcap ingest"):
        maintenance.compact(workspace)
    with pytest.raises(InputError, match="endcap ingest"):
        maintenance.retain(workspace, 3)


def test_a_vacuum_deletes_only_what_nobody_names(workspace: Workspace) -> None:
    for last in range(1, 7):
        write(workspace, EVENTS, events(0, last))
    publish(workspace, events=4)
    write_json(workspace.runs / "train-1" / "manifest.json", {"data_versions": {"events": 1}, "more": 1})
    lineage = {"data_versions": {"events": 2, "elsewhere": 7}}
    write_json(workspace.releases / "shop" / "3" / "manifest.json", {"name": "shop", "lineage": lineage})
    pins.pin(workspace, "launch")
    publish(workspace, events=5)
    before = {version: tables.read_table(workspace, EVENTS, version=version) for version in range(6)}
    disk = files_on_disk(workspace)
    [counted] = maintenance.vacuum(workspace, **NO_GRACE)
    assert (counted.num_files, counted.versions_kept) == (2, (1, 2, 4, 5))
    assert files_on_disk(workspace) == disk
    [done] = maintenance.vacuum(workspace, apply=True, **NO_GRACE)
    assert done == counted
    assert len(files_on_disk(workspace)) == len(disk) - 2
    for version in (1, 2, 4, 5):
        assert tables.read_table(workspace, EVENTS, version=version).equals(before[version])
    for version in (0, 3):
        with pytest.raises(ArtifactError, match=f"can't be read at version {version}"):
            tables.read_table(workspace, EVENTS, version=version)
    assert [done.num_files for done in maintenance.vacuum(workspace, apply=True, **NO_GRACE)] == [0]


def test_partitions_named_with_odd_letters_are_kept(workspace: Workspace) -> None:
    rows = [
        {"batch": name, "row_number": 0, "reason": "r", "raw": "{}"}
        for name in ("bots/2026-01-31", "a b%20c", "é=ü&+", "it's")
    ]
    content = pa.Table.from_pylist(rows, schema=QUARANTINE_TABLE.schema)
    write(workspace, QUARANTINE, content.slice(1))
    write(workspace, QUARANTINE, content)
    [done] = maintenance.vacuum(workspace, apply=True, **NO_GRACE)
    assert done.num_files == 0
    assert tables.read_table(workspace, QUARANTINE).num_rows == 4


@pytest.mark.parametrize("way", ["relative", "link"])
def test_a_workspace_can_be_named_in_other_ways(
    workspace: Workspace, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    for day in (1, 2):
        write(workspace, EVENTS, events(day))
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(workspace.path.parent if way == "relative" else elsewhere)
    if way == "link":
        (elsewhere / workspace.path.name).symlink_to(workspace.path)
    named = Workspace.open(Path(workspace.path.name))
    assert [done.num_files for done in maintenance.vacuum(named, apply=True, **NO_GRACE)] == [1]
    assert tables.read_table(workspace, EVENTS).equals(events(2))


def test_a_vacuum_spares_what_was_readable_within_the_grace(workspace: Workspace) -> None:
    for last in range(1, 5):
        write(workspace, EVENTS, events(last))
    log = sorted((tables.table_path(workspace, EVENTS) / "_delta_log").glob("*.json"))
    hours_ago = {0: 50, 1: 40, 2: 30, 3: 1}
    for version, hours in hours_ago.items():
        text, then = log[version].read_text(), time.time() - hours * 3600
        stamp = next(part for part in text.split('"timestamp":')[1].split(","))
        log[version].write_text(text.replace(f'"timestamp":{stamp}', f'"timestamp":{int(then * 1000)}'))
        os.utime(log[version], (then, then))
        for file in DeltaTable(str(tables.table_path(workspace, EVENTS)), version=version).file_uris():
            os.utime(file, (then, then))
    # 24 hours ago version 2 was the newest: who began to read it then may still be at it.
    [done] = maintenance.vacuum(workspace, grace_hours=24, apply=True)
    assert (done.num_files, done.versions_kept) == (2, (2, 3))
    assert tables.read_table(workspace, EVENTS, version=2).num_rows == 1


def test_a_file_on_its_way_into_a_commit_is_spared(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1))
    stray = tables.table_path(workspace, EVENTS) / "event_date=1970-01-02" / "part-x.parquet"
    stray.write_bytes(b"half a file")
    assert [done.num_files for done in maintenance.vacuum(workspace, apply=True)] == [0]
    assert stray.exists()
    os.utime(stray, (0, 0))
    assert [done.num_files for done in maintenance.vacuum(workspace, apply=True)] == [1]
    assert not stray.exists()


def test_runs_can_cease_to_hold_versions(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1))
    now = datetime.now(UTC)
    for name, days in (("a", 100), ("b", 3)):
        ended = (now - timedelta(days=days)).isoformat()
        write_json(workspace.runs / name / "manifest.json", {"ended_at": ended, "data_versions": {"events": 0}})
        write(workspace, EVENTS, events(1, days))
    [done] = maintenance.vacuum(workspace, keep_runs_days=200, **NO_GRACE)
    assert done.versions_kept == (0, 2)
    [done] = maintenance.vacuum(workspace, keep_runs_days=2, **NO_GRACE)
    assert done.versions_kept == (2,)


def test_a_vacuum_deletes_nothing_when_it_can_not_tell(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1))
    write(workspace, EVENTS, events(2))
    disk = files_on_disk(workspace)
    damaged = workspace.runs / "train-1" / "manifest.json"
    damaged.parent.mkdir()
    damaged.write_text("{")
    with pytest.raises(ArtifactError, match="nobody knows which table versions"):
        maintenance.vacuum(workspace, apply=True, **NO_GRACE)
    damaged.unlink()
    assert files_on_disk(workspace) == disk
    Path(tables.table_files(workspace, EVENTS)[0]).unlink()
    with pytest.raises(ArtifactError, match=r"1 files that versions of the table .* need are missing"):
        maintenance.vacuum(workspace, apply=True, **NO_GRACE)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    contents=st.lists(st.sets(st.integers(0, 5), min_size=1), min_size=2, max_size=6),
    kept=st.sets(st.integers(0, 5), max_size=3),
)
def test_whatever_is_pinned_stays_readable(
    tmp_path_factory: pytest.TempPathFactory, contents: list[set[int]], kept: set[int]
) -> None:
    workspace = Workspace.init(tmp_path_factory.mktemp("w"))
    for place, days in enumerate(contents):
        version = write(workspace, EVENTS, events(*sorted(days)))
        if place in kept:
            pins.pin(workspace, f"p{place}")
        if place % 2:
            maintenance.compact(workspace)
        assert version <= place + place // 2 + 1
    maintenance.vacuum(workspace, apply=True, **NO_GRACE)
    assert tables.read_table(workspace, EVENTS).equals(events(*sorted(contents[-1])))
    for name, pin in pins.pins(workspace).items():
        found = tables.read_table(workspace, EVENTS, version=pin.versions[EVENTS])
        assert found.equals(events(*sorted(contents[int(name[1:])])))


def test_status_counts_what_lies_there(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1, 2))
    append(workspace, EVENTS, events(1, 1, 1).slice(1))
    write(workspace, USERS, users("u"))
    pins.pin(workspace, "launch")
    [found, _] = maintenance.status(workspace)
    assert (found.name, found.version, found.num_rows, found.num_files, found.num_small_files) == (EVENTS, 1, 4, 3, 2)
    assert found.num_bytes == found.num_bytes_on_disk
    assert found.holders == ("in force", "pin launch")
    maintenance.compact(workspace)
    [found, _] = maintenance.status(workspace)
    assert (found.num_files, found.num_small_files) == (2, 0)
    assert found.num_bytes < found.num_bytes_on_disk


def test_a_pin_names_versions_and_lets_go(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1))
    made = pins.pin(workspace, "before_launch")
    assert (made.versions, made.run_id) == ({EVENTS: 0}, "r")
    write(workspace, EVENTS, events(2))
    assert pins.pins(workspace) == {"before_launch": made}
    assert pins.versions_at(workspace, "before_launch") == {EVENTS: 0}
    with pytest.raises(InputError, match="There is a pin before_launch already"):
        pins.pin(workspace, "before_launch")
    pins.unpin(workspace, "before_launch")
    assert pins.pins(workspace) == {}
    with pytest.raises(InputError, match="There is no pin before_launch; there are: none"):
        pins.unpin(workspace, "before_launch")


@pytest.mark.parametrize("name", ["", "../x", "2026-01-31", "a b", "x" * 65])
def test_a_pin_needs_a_fit_name(workspace: Workspace, name: str) -> None:
    write(workspace, EVENTS, events(1))
    with pytest.raises(InputError, match="can't name a pin"):
        pins.pin(workspace, name)


def test_damaged_pins_are_named(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1))
    (workspace.events / pins.PINS).write_text('{"a": 1}')
    with pytest.raises(ArtifactError, match=r"pins\.json can't be read"):
        maintenance.vacuum(workspace, apply=True)


def test_the_versions_of_a_date_come_from_the_ingests(workspace: Workspace) -> None:
    for day, version in ((1, 0), (3, 1), (3, 2)):
        name = f"ingest-{version}"
        ended = f"2026-01-0{day}T0{version}:00:00+00:00"
        write_json(workspace.runs / name / "manifest.json", {"ended_at": ended, "data_versions": {"events": version}})
    write_json(
        workspace.runs / "train-1" / "manifest.json",
        {"ended_at": "2026-01-04T00:00:00+00:00", "data_versions": {"events": 0}},
    )
    write(workspace, EVENTS, events(1))
    assert pins.versions_at(workspace, "2026-01-02") == {"events": 0}
    assert pins.versions_at(workspace, "2026-01-03") == {"events": 2}
    assert pins.versions_at(workspace, "2026-01-03T01:30:00") == {"events": 1}
    assert pins.versions_at(workspace, "2026-01-03T01:30:00+01:00") == {"events": 0}
    with pytest.raises(InputError, match="held no data at 2025-12-31"):
        pins.versions_at(workspace, "2025-12-31")
    with pytest.raises(InputError, match="neither a pin nor a date"):
        pins.versions_at(workspace, "launch")


def test_old_versions_outlive_the_log_of_30_days(workspace: Workspace) -> None:
    write(workspace, USERS, users("first"))
    path = tables.table_path(workspace, USERS)
    log = path / "_delta_log"
    long_ago = time.time() - 60 * 86400
    for place in range(98):
        write_deltalake(str(path), users(f"u{place}"), mode="overwrite")
    for entry in log.iterdir():
        os.utime(entry, (long_ago, long_ago))
    for place in range(5):  # over the hundredth commit, at which Delta clears its log
        write_deltalake(str(path), users(f"v{place}"), mode="overwrite")
    assert any(entry.name.endswith(".checkpoint.parquet") for entry in log.iterdir())
    assert tables.read_table(workspace, USERS, version=0).equals(users("first"))


def race(path: Path, both_tried: Barrier, last: int, outcomes: Any) -> None:
    workspace = Workspace.open(path)
    try:
        with exclusive(workspace, wait_s=0):
            write(workspace, EVENTS, events(1, last))
            both_tried.wait(timeout=60)  # held until the other has tried
        outcomes.put((last, "won"))
    except TransientError:
        both_tried.wait(timeout=60)
        outcomes.put((last, "conflict"))


def test_of_two_publishers_one_wins_and_one_gets_a_conflict(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1))
    context = multiprocessing.get_context("spawn")
    both_tried, outcomes = context.Barrier(2), context.Queue()
    racers = [context.Process(target=race, args=(workspace.path, both_tried, last, outcomes)) for last in (5, 6)]
    for racer in racers:
        racer.start()
    found = dict(outcomes.get(timeout=90) for _ in racers)
    for racer in racers:
        racer.join()
    assert sorted(found.values()) == ["conflict", "won"]
    winner = next(last for last, outcome in found.items() if outcome == "won")
    assert tables.read_table(workspace, EVENTS).equals(events(1, winner))
    assert versions(workspace) == {EVENTS: 1}


def test_who_commits_beside_the_lock_is_found_out(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    write(workspace, EVENTS, events(1, 2))
    append(workspace, EVENTS, events(1, 1).slice(1))
    before = versions(workspace)
    real = DeltaTable.optimize

    class Late:
        """Another program replaces the files after this one has read the log and before it commits."""

        def __init__(self, table: DeltaTable) -> None:
            self.table = table

        def compact(self, **options: Any) -> Any:
            write_deltalake(str(tables.table_path(workspace, EVENTS)), events(1, 7), mode="overwrite")
            return real.fget(self.table).compact(**options)

    monkeypatch.setattr(DeltaTable, "optimize", property(Late))
    with pytest.raises(TransientError, match="Another writer changed the table"):
        maintenance.compact(workspace)
    assert versions(workspace) == before


def test_writing_a_partition_again_changes_nothing(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1, 2, 2, 3))
    second = events(1, 2, 2, 3).slice(1, 2)

    def state() -> tuple[object, ...]:
        folder = tables.table_path(workspace, EVENTS)
        sizes = {path: (path.stat().st_size, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
        return versions(workspace), sizes, tables.read_table(workspace, EVENTS).to_pylist()

    before = state()
    for _ in range(2):
        again = tables.replace_partitions(workspace, EVENTS, second, ["1970-01-03"])
        assert (again.version, again.changed) == (0, False)
    assert state() == before


def test_a_reader_keeps_its_snapshot_while_tables_are_rewritten(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1))
    stop = threading.Event()
    broken: list[object] = []
    num_reads = 0

    def read() -> None:
        nonlocal num_reads
        while not stop.is_set():
            version = versions(workspace)[EVENTS]
            first = tables.read_table(workspace, EVENTS, version=version)
            files = tables.table_files(workspace, EVENTS, version=version)
            second = tables.read_table(workspace, EVENTS, version=version)
            # Each round writes as many rows as its users say: a mixture of two would show.
            names = set(first["user_id"].to_pylist())
            if not first.equals(second) or len(names) != 1 or not all(Path(file).exists() for file in files):
                broken.append((first, second))
            num_reads += 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for round_number in range(12):
            write(workspace, EVENTS, events(*range(round_number % 4 + 1), user=f"u{round_number}"))
            maintenance.compact(workspace)
            maintenance.vacuum(workspace, apply=True)
    finally:
        stop.set()
        reader.join()
    assert broken == []
    assert num_reads > 5


def test_manifests_of_runs_hold_their_versions(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1))
    manifests.Run(workspace, "ingest", run_id="ingest-x").finish(data_versions=versions(workspace))
    write(workspace, EVENTS, events(2))
    assert [holder.what for holder in pins.holders(workspace)] == ["in force", "run ingest-x"]
    [done] = maintenance.vacuum(workspace, apply=True, **NO_GRACE)
    assert (done.num_files, done.versions_kept) == (0, (0, 1))


def test_every_table_of_the_contracts_can_be_maintained(workspace: Workspace) -> None:
    for name, contract in TABLES.items():
        write(workspace, name, contract.schema.empty_table())
    assert {found.num_rows for found in maintenance.status(workspace)} == {0}
    assert {done.version for done in maintenance.compact(workspace)} == {0}
    assert {found.num_rows for found in maintenance.retain(workspace, 1, apply=True)} == {0}
    assert {done.num_files for done in maintenance.vacuum(workspace, apply=True, **NO_GRACE)} == {0}


def quarantined(*batches: str) -> pa.Table:
    rows = [{"batch": name, "row_number": 0, "reason": "r", "raw": "{}"} for name in batches]
    return pa.Table.from_pylist(rows, schema=QUARANTINE_TABLE.schema)


def test_retention_takes_the_quarantine_and_the_drift_of_these_dates_along(workspace: Workspace) -> None:
    def batch(name: str, last_ts_us: int | None, landed_at_us: int | None) -> dict[str, Any]:
        return {"batch": name, "source": "s", "sha256": "", "num_rows": 0, "num_duplicates": 0, "counts": "{}",
                "last_ts_us": last_ts_us, "landed_at_us": landed_at_us}  # fmt: skip

    old, kept = 4 * DAY_US + 1, 5 * DAY_US
    batches = [
        batch("old", old, kept), batch("kept", kept, old), batch("nothing good, old", None, old),
        batch("nothing good, kept", None, kept), batch("nobody knows", None, None),
    ]  # fmt: skip
    write(workspace, BATCHES, pa.Table.from_pylist(batches, schema=TABLES[BATCHES].schema))
    names = ["bots/1970-01-05", "bots/1970-01-06", *(row["batch"] for row in batches), "it's gone from batches"]
    write(workspace, QUARANTINE, quarantined(*names))
    numbers = [
        {"hour": day * DAY_US, "feature": "all", "statistic": "count", "value": 1.0, "reference_version": "0",
         "count": 1, "event_date": date(1970, 1, 1 + day)} for day in (4, 5)
    ]  # fmt: skip
    for name in MEASURED:
        tables.write_table(workspace, name, pa.Table.from_pylist(numbers, schema=TABLES[name].schema))
    write(workspace, EVENTS, events(4, 5))
    done = maintenance.retain(workspace, 5, today=date(1970, 1, 11), apply=True)
    gone = {one.name: one.partitions for one in done}
    assert gone == {
        EVENTS: ("1970-01-05",),
        **dict.fromkeys(MEASURED, ("1970-01-05",)),
        QUARANTINE: ("bots/1970-01-05", "nothing good, old", "old"),
    }
    left = set(tables.read_table(workspace, QUARANTINE)["batch"].to_pylist())
    assert left == {*names} - {*gone[QUARANTINE]}
    for name in MEASURED:
        newest = tables.read_table(workspace, name, version=tables.table_version(workspace, name))
        assert newest["event_date"].to_pylist() == [date(1970, 1, 6)]
        assert name not in versions(workspace)
    assert {one.name for one in maintenance.status(workspace)} == {BATCHES, EVENTS, QUARANTINE, *MEASURED}


def test_small_files_of_drift_are_merged_beside_the_dataset(workspace: Workspace) -> None:
    write(workspace, EVENTS, events(1))
    row = {"event_date": date(1970, 1, 2), "statistic": "count", "value": 1.0, "reference_version": "0", "count": 1}
    for name in ("a", "b"):
        one = pa.Table.from_pylist([row | {"feature": name}], schema=TABLES[DRIFT_DAYS].schema)
        write_deltalake(str(tables.table_path(workspace, DRIFT_DAYS)), one, mode="append", partition_by=["event_date"])
    before = versions(workspace)
    [merged, _] = maintenance.compact(workspace)
    assert (merged.name, merged.num_files_before, merged.num_files) == (DRIFT_DAYS, 2, 1)
    assert versions(workspace) == before


def test_several_hundred_small_files_become_few(workspace: Workspace) -> None:
    num_days, num_files = 20, 20
    folder = tables.table_path(workspace, EVENTS)
    write_deltalake(str(folder), events(*range(num_days)), partition_by=["event_date"])
    for number in range(1, num_files):
        more = events(*range(num_days * number, num_days * (number + 1)))  # ids that nobody else has
        days = [day % num_days for day in range(num_days * number, num_days * (number + 1))]
        at = more.column_names.index("event_date")
        dates = pa.array([date(1970, 1, 1) + timedelta(days=day) for day in days], pa.date32())
        more = more.set_column(at, more.schema.field(at), dates)
        write_deltalake(str(folder), more, mode="append")
    publish(workspace, events=num_files - 1)
    pins.pin(workspace, "before")
    content = tables.read_table(workspace, EVENTS)
    assert (len(tables.table_files(workspace, EVENTS)), content.num_rows) == (400, 400)
    [merged] = maintenance.compact(workspace)
    assert (merged.num_files_before, merged.num_files) == (400, 20)
    assert tables.read_table(workspace, EVENTS).equals(content)
    maintenance.vacuum(workspace, apply=True, **NO_GRACE)
    pinned = pins.pins(workspace)["before"].versions[EVENTS]
    assert tables.read_table(workspace, EVENTS, version=pinned).equals(content)


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("at", ["commit", "log", "dataset"])
def test_a_full_disk_leaves_the_last_good_state(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    write(workspace, EVENTS, events(1))
    append(workspace, EVENTS, events(1, 1).slice(1))
    before, content = tables.current_dataset(workspace), tables.read_table(workspace, EVENTS)

    def full(*_: object, **__: object) -> None:
        raise FULL

    def full_at(path: Path, value: object) -> None:
        if (path.name == datasets.DATASET) == (at == "dataset"):
            raise FULL
        write_json(path, value)

    with monkeypatch.context() as patched:
        if at == "commit":
            patched.setattr("deltalake.table.TableOptimizer.compact", full)
        else:
            patched.setattr(datasets, "write_json", full_at)
        with pytest.raises(DiskFullError, match=r"is full: .*Free some space and run the same command again"):  # noqa: SIM117
            with explained(workspace, "Merging files"):
                maintenance.compact(workspace)
    assert tables.current_dataset(workspace) == before
    assert tables.read_table(workspace, EVENTS).equals(content)
    [merged] = maintenance.compact(workspace)
    assert merged.num_files == 1
    assert tables.read_table(workspace, EVENTS).equals(content)
    assert datasets.number_in_force(workspace) == (before.number if before else 0) + 1


def test_a_full_disk_while_files_are_deleted_loses_nothing(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for day in range(4):
        write(workspace, EVENTS, events(day))
    pins.pin(workspace, "last")
    deleted: list[Path] = []
    unlink = Path.unlink

    def full(path: Path, missing_ok: bool = False) -> None:
        if path.suffix == ".parquet" and deleted:
            raise FULL  # some file systems need space to delete
        deleted.append(path)
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", full)
        with pytest.raises(DiskFullError):  # noqa: SIM117
            with explained(workspace, "Deleting files"):
                maintenance.vacuum(workspace, apply=True, **NO_GRACE)
    assert tables.read_table(workspace, EVENTS).equals(events(3))
    [done] = maintenance.vacuum(workspace, apply=True, **NO_GRACE)
    assert (done.num_files, len(files_on_disk(workspace))) == (2, 1)
