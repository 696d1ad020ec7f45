"""What an ingest may replace and what it must not lose, what it skips, and which settings stay in force."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ibis
import msgspec
import pyarrow as pa
import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.events import BATCHES, EVENTS, QUARANTINE
from endcap.ingest import build, planning, quarantine
from endcap.ingest.landing import Counts, Landing, Staged
from endcap.ingest.pipeline import IngestResult, ingest
from endcap.ingest.planning import Work
from endcap.ingest.quality import IngestSettings
from endcap.ingest.sources import make_source
from endcap.ingest.sources.protocol import Batch
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

MINUTE_US = 60_000_000
DAY_US = 86_400_000_000
NOW_US = 1_767_225_600_000_000 + 40 * DAY_US
SETTINGS = IngestSettings(latest_us=NOW_US, max_quarantined_share=0.7)

Bring = Callable[..., IngestResult]


@pytest.fixture
def bring(workspace: Workspace, toy: Any) -> Bring:
    def run(path: Path, settings: IngestSettings = SETTINGS, **options: Any) -> IngestResult:
        return ingest(workspace, options.pop("source", toy), path, settings=settings, **options)

    return run


def events(workspace: Workspace) -> list[str]:
    return tables.read_table(workspace, EVENTS)["event_id"].to_pylist()


def test_a_file_of_another_day_by_the_same_name_is_refused(
    workspace: Workspace, bring: Bring, export: Any, event: Any
) -> None:
    bring(export("events.parquet", event("a", 0), event("b", DAY_US)))
    before = tables.current_dataset(workspace)
    other = export("events.parquet", event("c", DAY_US), event("d", 2 * DAY_US))
    with pytest.raises(InputError) as refused:
        bring(other)
    for part in ("batch toy/events.parquet", "the date 2026-01-01 would be lost", "rename the file", "--replace"):
        assert part in str(refused.value)
    assert tables.current_dataset(workspace) == before
    assert bring(other, replace=True).changed
    assert events(workspace) == ["c", "d"]


def test_a_day_of_page_views_alone_is_accounted_for(
    workspace: Workspace, bring: Bring, export: Any, event: Any
) -> None:
    left_out = [event(f"p{place}", place, reason="event_type_not_used") for place in range(3)]
    result = bring(export("1.parquet", *left_out))
    assert (result.account.num_events, result.account.quarantined) == (0, {"event_type_not_used": 3})
    assert tables.read_table(workspace, EVENTS).num_rows == 0
    # Counted, and not kept: most of a day may be page views.
    assert tables.read_table(workspace, QUARANTINE).num_rows == 0
    export("1.parquet", event("a", 0))
    assert bring(export("2.parquet")).account.num_rows == 1
    assert events(workspace) == ["a"]


def test_a_day_of_page_views_and_nothing_but_bad_rows_is_refused(bring: Bring, export: Any, event: Any) -> None:
    rows = [event("p", 0, reason="event_type_not_used"), event("q", 0, reason="broken")]
    with pytest.raises(InputError, match=r"no row that can be used \(1 broken, 1 event_type_not_used\)"):
        bring(export("1.parquet", *rows))


def test_events_of_the_future_come_in_when_their_time_has_come(
    workspace: Workspace, bring: Bring, export: Any, event: Any
) -> None:
    ahead = 40 * DAY_US + 2 * DAY_US
    folder = export("1.parquet", event("a", 0), event("soon", ahead), event("late", ahead + DAY_US))
    assert bring(folder).account.quarantined == {"future_event": 2}
    (just_before, then) = (msgspec.structs.replace(SETTINGS, latest_us=NOW_US + DAY_US - ahead) for ahead in (1, 0))
    assert bring(folder, just_before).num_skipped_batches == 1
    result = bring(folder, then)
    assert (result.num_landed_batches, result.account.quarantined) == (1, {"future_event": 1})
    assert events(workspace) == ["a", "soon"]
    assert bring(folder, then).num_skipped_batches == 1


def test_a_batch_keeps_the_moment_at_which_it_landed(
    workspace: Workspace, bring: Bring, export: Any, event: Any
) -> None:
    folder = export("1.parquet", event("a", 0))
    bring(folder)
    export("2.parquet", event("b", DAY_US))
    bring(folder, IngestSettings(latest_us=NOW_US + 1))
    # Read again under another limit, with the same outcome.
    assert not bring(folder, IngestSettings(latest_us=NOW_US + 2, late_days=9)).changed
    assert tables.read_table(workspace, BATCHES)["landed_at_us"].to_pylist() == [NOW_US, NOW_US + 1]
    bring(export("1.parquet", event("a", 0), event("c", 1)), IngestSettings(latest_us=NOW_US + 3))
    assert tables.read_table(workspace, BATCHES)["landed_at_us"].to_pylist() == [NOW_US + 3, NOW_US + 1]


def test_a_large_quarantine_is_written_in_pieces(
    workspace: Workspace, bring: Bring, export: Any, event: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quarantine, "ROWS_PER_COMMIT", 2)
    bad = [event(f"b{place}", place, reason="broken") for place in range(5)]
    good = [event(f"g{place}", place) for place in range(3)]
    export("0.parquet", event("h", 0), event("x", 0, reason="broken"))
    folder = export("1.parquet", *bad, *good)

    def held() -> list[tuple[str, int, str]]:
        rows = tables.read_table(workspace, QUARANTINE).to_pylist()
        return [(row["batch"], row["row_number"], json.loads(row["raw"])["event_id"]) for row in rows]

    first = bring(folder)
    assert held() == [("toy/0.parquet", 1, "x"), *(("toy/1.parquet", place, f"b{place}") for place in range(5))]
    assert not bring(folder, msgspec.structs.replace(SETTINGS, late_days=9)).changed
    bring(export("1.parquet", *good, *bad[1:]))
    assert held()[1:] == [("toy/1.parquet", place + 2, f"b{place}") for place in range(1, 5)]
    assert tables.table_version(workspace, QUARANTINE) > first.versions[QUARANTINE]


def test_settings_stay_until_others_are_given(workspace: Workspace, bring: Bring, export: Any, event: Any) -> None:
    folder = export("1.parquet", event("a", 0), event("b", 20 * MINUTE_US))
    assert bring(folder).notes == ()
    narrow = bring(folder, IngestSettings(latest_us=NOW_US, session_gap_minutes=10))
    assert narrow.build.num_sessions == 2
    assert narrow.notes == ("All dates are built again with other settings: session_gap_minutes is 10, 30 until now.",)
    again = bring(folder)
    assert (again.changed, again.build.num_dates, again.notes) == (False, 0, ())
    export("2.parquet", event("c", DAY_US), event("d", DAY_US + 20 * MINUTE_US))
    added = bring(folder)
    assert (added.build.num_dates, added.build.num_sessions) == (1, 2)
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    assert dataset.settings == {"session_gap_minutes": 10, "max_events_per_user_per_day": 2000}
    assert build.settings_in_force(workspace).gap_minutes == 10
    assert build.settings_in_force(workspace, IngestSettings(session_gap_minutes=7)).gap_minutes == 7


def landing_of(name: str, sha256: str, *days: int) -> Landing:
    dates = {f"2026-01-{day:02}": 1 for day in days}
    return Landing(name, "files", sha256, len(days), 0, Counts({"view_item": len(days)}, {}, dates), 0, 1, 2)


def lost(before: Landing, after: Landing, path: Path = Path("day2/events.csv")) -> str:
    batch = Batch(after.name, (path,))
    source = make_source("files")
    work = Work(
        source, path, SETTINGS, 0, (batch,), {after.name: after.sha256}, (), {before.name: before}, (batch,), ()
    )
    staged = Staged(batch, after, ibis.memtable(pa.table({"a": [1]})), path, pa.table({}))
    try:
        planning.refuse_lost_dates(work, [staged])
    except InputError as refused:
        return str(refused)
    return ""


def test_what_counts_as_lost() -> None:
    before = landing_of("files/events.csv", "a", *range(1, 9))
    assert "8 dates (2026-01-01 to 2026-01-08) would be lost" in lost(before, landing_of("files/events.csv", "b", 9))
    found = lost(before, landing_of("files/events.csv", "b", *range(3, 20)))
    assert "day2/events.csv would take the place of the batch files/events.csv" in found
    assert "the dates 2026-01-01, 2026-01-02 would be lost" in found
    # More dates, another file, and the same file read by other rules.
    assert lost(before, landing_of("files/events.csv", "b", *range(1, 20))) == ""
    assert lost(before, landing_of("files/other.csv", "b", 9)) == ""
    assert lost(before, landing_of("files/events.csv", "a", 9)) == ""


def test_limits_of_single_reasons(workspace: Workspace, bring: Bring, export: Any, event: Any) -> None:
    folder = export("1.parquet", *(event(f"e{place}", place) for place in range(9)), event("x", 0, reason="broken"))
    with pytest.raises(InputError, match=r"1 of 10 rows can't be used \(1 broken\), more than 5%"):
        bring(folder, IngestSettings(latest_us=NOW_US, max_quarantined={"broken": 0.05}))
    with pytest.raises(InputError, match="knows no such reason; expected one of: broken, missing_event_id"):
        bring(folder, IngestSettings(latest_us=NOW_US, max_quarantined={"borken": 0.05}))
    assert not list(workspace.events.iterdir())
    assert bring(folder, IngestSettings(latest_us=NOW_US, max_quarantined={"broken": 0.1, "missing_user": 0})).changed
    with pytest.raises(InputError, match="max_quarantined of broken is 2; expected a share from 0 to 1"):
        IngestSettings(max_quarantined={"broken": 2})
