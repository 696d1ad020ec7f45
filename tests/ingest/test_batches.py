"""Several batches, sources and catalogs in one workspace, brought by a source of the tests' own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from endcap.contracts.errors import InputError
from endcap.contracts.events import (
    BATCHES,
    CATALOG,
    EVENTS,
    IDENTITIES,
    ITEM_VERSIONS,
    ITEMS,
    LANDED,
    QUARANTINE,
    USERS,
)
from endcap.ingest.pipeline import BuildAccount, IngestResult, ingest
from endcap.ingest.quality import IngestSettings
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

MINUTE_US = 60_000_000
DAY_US = 86_400_000_000
NOON_US = DAY_US // 2
NOW_US = 1_767_225_600_000_000 + 40 * DAY_US
SETTINGS = IngestSettings(latest_us=NOW_US)

Bring = Callable[..., IngestResult]


@pytest.fixture
def bring(workspace: Workspace, toy: Any) -> Bring:
    def run(path: Path, **options: Any) -> IngestResult:
        return ingest(
            workspace, options.pop("source", toy), path, settings=options.pop("settings", SETTINGS), **options
        )

    return run


def events(workspace: Workspace) -> list[str]:
    return tables.read_table(workspace, EVENTS)["event_id"].to_pylist()


def test_a_batch_of_a_known_name_takes_its_place_and_others_stay(
    workspace: Workspace, bring: Bring, export: Any, event: Any
) -> None:
    export("1.parquet", event("a", 0), event("b", 1))
    folder = export("2.parquet", event("c", DAY_US), event("d", DAY_US + 1))
    first = bring(folder)
    assert (first.num_landed_batches, first.num_skipped_batches, first.account.num_rows) == (2, 0, 4)
    export("2.parquet", event("d", DAY_US + 1), event("e", 2 * DAY_US))
    second = bring(folder)
    assert (second.num_landed_batches, second.num_skipped_batches) == (1, 1)
    assert second.account.num_rows == 4
    assert second.build == BuildAccount(num_dates=2, num_landed=2, num_events=2, num_sessions=2)
    assert events(workspace) == ["a", "b", "d", "e"]
    assert tables.read_table(workspace, BATCHES)["batch"].to_pylist() == ["toy/1.parquet", "toy/2.parquet"]


def test_the_same_batches_again_are_skipped(workspace: Workspace, bring: Bring, export: Any, event: Any) -> None:
    folder = export("1.parquet", event("a", 0))
    first = bring(folder)
    files = sorted(path for path in workspace.path.rglob("*") if path.is_file())
    again = bring(folder)
    assert not again.changed
    assert (again.num_skipped_batches, again.manifest_path, again.account) == (1, first.manifest_path, first.account)
    assert sorted(path for path in workspace.path.rglob("*") if path.is_file()) == files


def test_a_trailing_window_brings_late_rows_and_keeps_older_days(
    workspace: Workspace, bring: Bring, export: Any, event: Any
) -> None:
    folder = export("1.parquet", *(event(f"e{day}", day * DAY_US) for day in range(3)))
    bring(folder)
    folder = export("2.parquet", *(event(f"f{day}", day * DAY_US) for day in (4, 5, 6)), event("late", 1))
    result = bring(folder)
    assert result.account.num_late == 1
    assert events(workspace) == ["e0", "late", "e1", "e2", "f4", "f5", "f6"]


def test_history_is_not_late(bring: Bring, export: Any, event: Any) -> None:
    assert bring(export("1.parquet", *(event(f"e{day}", day * DAY_US) for day in range(30)))).account.num_late == 0


def test_two_sources_share_a_workspace(workspace: Workspace, bring: Bring, export: Any, event: Any, toy: Any) -> None:
    folder = export("1.parquet", event("a", 0))
    bring(folder)
    other = dataclasses.replace(toy, name="app")
    export("1.parquet", event("a", 0), event("b", 1))
    result = bring(folder, source=other)
    assert result.build.num_repeated == 1
    assert events(workspace) == ["a", "b"]
    dataset = tables.current_dataset(workspace)
    assert dataset is not None
    assert dataset.source == "app+toy"


def test_a_whole_export_drops_its_own_batches_alone(
    workspace: Workspace, bring: Bring, export: Any, event: Any, toy: Any
) -> None:
    bring(export("mine.parquet", event("a", 0)))
    whole = dataclasses.replace(toy, name="whole", is_whole_export=True)
    folder = export("mine.parquet", event("b", DAY_US))
    export("more.parquet", event("c", 2 * DAY_US))
    bring(folder, source=whole)
    (folder / "more.parquet").unlink()
    with pytest.raises(InputError, match=r"lacks 1 dates .*\(2026-01-03 to 2026-01-03\)"):
        bring(folder, source=whole)
    assert bring(folder, source=whole, replace=True).changed
    assert events(workspace) == ["a", "b"]
    assert set(tables.read_table(workspace, BATCHES)["batch"].to_pylist()) == {"toy/mine.parquet", "whole/mine.parquet"}


def test_bad_rows_and_their_reasons(workspace: Workspace, bring: Bring, export: Any, event: Any) -> None:
    good = [event(f"good{place}", place) for place in range(9)]
    bad = [
        event("b0", 0, reason="broken"),
        event("b1", 0, user_id=None),
        event("b2", 0, event_type="login"),
        event("b3", 0, item_id=None),
        event("b4", 0) | {"ts_us": None},
        event("b5", 0) | {"ts_us": 631_152_000_000_000 - 1},
        event("b6", 0) | {"ts_us": NOW_US + DAY_US + 1},
        event("b7", 0, basket_id="x" * 1_001),
    ]
    fine = [
        event("f0", 0, item_id=None, event_type="search"),
        event("f1", 0) | {"ts_us": 631_152_000_000_000},
        event("f2", 0) | {"ts_us": NOW_US + DAY_US},
    ]
    result = bring(export("1.parquet", *good, *bad, *fine))
    assert result.account.quarantined == {
        "broken": 1,
        "missing_user": 1,
        "unknown_event_type": 1,
        "missing_item": 1,
        "missing_time": 1,
        "time_out_of_range": 1,
        "future_event": 1,
        "text_too_long": 1,
    }
    assert result.account.num_events == 12
    rows = tables.read_table(workspace, QUARANTINE).to_pylist()
    assert [row["row_number"] for row in rows] == list(range(9, 17))
    assert json.loads(rows[1]["raw"])["event_id"] == "b1"


def test_a_good_row_is_kept_before_a_bad_one_of_the_same_id(
    workspace: Workspace, bring: Bring, export: Any, event: Any
) -> None:
    rows = [event("a", 0, reason="broken"), event("a", 1), event("a", 2), event("b", 0, reason="broken"), event("c", 5)]
    result = bring(export("1.parquet", *rows))
    assert (result.account.num_duplicates, result.account.quarantined) == (2, {"broken": 1})
    assert tables.read_table(workspace, LANDED).select(["event_id", "row_number"]).to_pylist() == [
        {"event_id": "a", "row_number": 1},
        {"event_id": "c", "row_number": 4},
    ]


def test_too_many_bad_rows_refuse_everything(workspace: Workspace, bring: Bring, export: Any, event: Any) -> None:
    export("1.parquet", event("a", 0))
    folder = export("2.parquet", event("b", 0), *(event(f"c{place}", 0, reason="broken") for place in range(2)))
    with pytest.raises(InputError, match=r"2\.parquet: 2 of 3 rows can't be used \(2 broken\), more than 50%"):
        bring(folder)
    assert not list(workspace.events.iterdir())
    generous = IngestSettings(latest_us=NOW_US, max_quarantined_share=0.7)
    assert bring(folder, settings=generous).account.quarantined == {"broken": 2}


def test_rows_left_out_on_purpose_refuse_nothing(bring: Bring, export: Any, event: Any) -> None:
    left_out = [event(f"c{place}", 0, reason="event_type_not_used") for place in range(9)]
    assert bring(export("1.parquet", event("a", 0), *left_out)).account.num_quarantined == 9


def test_other_settings_build_everything_again(workspace: Workspace, bring: Bring, export: Any, event: Any) -> None:
    folder = export("1.parquet", event("a", 0), event("b", 20 * MINUTE_US), event("c", DAY_US))
    bring(folder)
    narrow = bring(folder, settings=IngestSettings(latest_us=NOW_US, session_gap_minutes=10))
    assert (narrow.num_skipped_batches, narrow.build.num_dates, narrow.build.num_sessions) == (1, 2, 3)
    assert narrow.versions[LANDED] == 0


def test_a_guest_who_logs_in_later_takes_earlier_days_along(
    workspace: Workspace, bring: Bring, export: Any, event: Any
) -> None:
    folder = export("1.parquet", event("a", NOON_US, user_id="guest"), event("b", NOON_US, user_id="other"))
    bring(folder)
    folder = export("2.parquet", event("c", DAY_US + NOON_US, guest_id="guest"))
    result = bring(folder)
    assert result.build.num_dates == 2
    found = {row["event_id"]: row["user_id"] for row in tables.read_table(workspace, EVENTS).to_pylist()}
    assert found == {"a": "u", "b": "other", "c": "u"}
    assert tables.read_table(workspace, IDENTITIES).to_pylist() == [{"guest_id": "guest", "user_id": "u"}]
    assert tables.read_table(workspace, USERS)["user_id"].to_pylist() == ["other", "u"]


def test_items_are_unknown_until_a_catalog_names_them(
    workspace: Workspace, bring: Bring, export: Any, event: Any
) -> None:
    folder = export("1.parquet", event("a", 0, item_id="x", price=Decimal(3)), event("b", 1, item_id="y"))
    assert bring(folder).num_unknown_items == 0
    export("catalog.parquet", {"item_id": "x", "valid_from_us": 0, "title": "LAMP"}, catalog=True)
    assert bring(folder).num_unknown_items == 1
    known = {row["item_id"]: (row["is_known"], row["title"]) for row in tables.read_table(workspace, ITEMS).to_pylist()}
    assert known == {"x": (True, "LAMP"), "y": (False, "y")}
    both = ({"item_id": name, "valid_from_us": 0, "title": name.upper()} for name in ("x", "y", "z"))
    export("catalog.parquet", *both, catalog=True)
    again = bring(folder)
    assert (again.num_unknown_items, again.changed, again.num_landed_batches) == (0, True, 0)
    assert tables.read_table(workspace, ITEMS)["title"].to_pylist() == ["X", "Y", "Z"]
    assert tables.read_table(workspace, ITEM_VERSIONS).to_pylist()[0]["price"] == Decimal(3)
    assert not bring(folder).changed
    # Each as of the beginning and as of the moment of the ingest, which is the same every time.
    assert tables.read_table(workspace, CATALOG)["item_id"].to_pylist() == ["x", "x", "y", "y", "z", "z"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"session_gap_minutes": 1441}, "session_gap_minutes is 1441; expected a whole number from 1 to 1440"),
        ({"max_quarantined_share": 1.5}, "max_quarantined_share is 1.5; expected a share from 0 to 1"),
        ({"late_days": -1}, "late_days is -1; expected 0 or more"),
    ],
)
def test_settings_without_sense(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        IngestSettings(**settings)


def test_an_export_with_nothing_in_it(workspace: Workspace, bring: Bring, tmp_path: Path) -> None:
    (tmp_path / "export").mkdir()
    with pytest.raises(InputError, match="holds neither events nor a catalog of toy"):
        bring(tmp_path / "export")
    assert not list(workspace.events.iterdir())
