"""The small shop's profile, each figure counted by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from typing import Any

import msgspec
import pytest

from endcap.contracts.errors import ArtifactError, InputError
from endcap.contracts.events import BATCHES, EVENTS, ITEMS, QUARANTINE
from endcap.contracts.reporting import Silent
from endcap.monitoring.account import Sessions, UnknownItems
from endcap.monitoring.profile import ColumnProfile, TableProfile, ValueCount, profile_table
from endcap.monitoring.profile_page import write_profile
from endcap.workspace import maintenance
from endcap.workspace.layout import Workspace


@pytest.fixture(scope="module")
def profile(shop: Workspace) -> TableProfile:
    return profile_table(shop, EVENTS, Silent())


def column(profile: TableProfile, name: str) -> ColumnProfile:
    return next(found for found in profile.columns if found.name == name)


def test_rows_and_days(profile: TableProfile) -> None:
    assert (profile.table, profile.version, profile.num_rows, profile.num_files) == (EVENTS, 0, 6, 3)
    assert profile.num_bytes > 1000
    assert [(row.day.day, row.event_type, row.count) for row in profile.days] == [
        (1, "purchase", 1),
        (1, "view_item", 2),
        (2, "search", 1),
        (2, "view_item", 1),
        (3, "purchase", 1),
    ]


def test_columns(profile: TableProfile) -> None:
    item = column(profile, "item_id")
    assert (item.kind, item.num_nulls, item.num_distinct, item.top_count) == ("text", 1, 3, 3)
    assert item.top == (ValueCount("i", 3), ValueCount("ghost", 1), ValueCount("j", 1))
    assert (item.null_share, item.top_share) == (1 / 6, 3 / 5)
    assert (item.quantiles["min"], item.quantiles["median"], item.quantiles["max"]) == (1, 1, 5)
    price = column(profile, "price")
    assert (price.type, price.kind) == ("decimal128(18, 4)", "number")
    assert price.quantiles == {
        "min": 2.5, "p1": 2.5, "p5": 2.5, "p25": 2.5, "median": 2.5, "p75": 2.5, "p95": 4.0, "p99": 4.0, "max": 4.0
    }  # fmt: skip
    assert sum(bar.count for bar in price.bars) == 5
    assert [bar.count for bar in column(profile, "quantity").bars] == [4, 1]
    assert column(profile, "ts_us").kind == "time"
    assert column(profile, "event_date").top[0] == ValueCount("2020-01-01", 3)
    missing = column(profile, "basket_id")
    assert (missing.num_nulls, missing.num_distinct, missing.top_count, missing.top_share) == (4, 2, 1, 0.5)


def test_every_value_another(profile: TableProfile) -> None:
    found = column(profile, "event_id")
    assert (found.num_distinct, found.top, found.top_count) == (6, (), 1)


def test_ids_of_people_are_hashed_and_free_text_is_hidden(shop: Workspace, profile: TableProfile) -> None:
    users = column(profile, "user_id")
    assert users.top[0] == ValueCount(shop.user_key("anna@example.org"), 3)
    assert column(profile, "session_id").top[0] == ValueCount(shop.user_key("a"), 3)
    raw = column(profile_table(shop, QUARANTINE, Silent()), "raw")
    assert (raw.num_distinct, raw.top_count, raw.top) == (2, 2, ())
    for name in (EVENTS, QUARANTINE):
        assert b"anna" not in msgspec.json.encode(profile_table(shop, name, Silent()))


def test_sessions(profile: TableProfile) -> None:
    assert profile.sessions == Sessions(
        num_sessions=3,
        days=((date(2020, 1, 1), 1), (date(2020, 1, 2), 1), (date(2020, 1, 3), 1)),
        sizes=(("1", 1), ("2", 1), ("3", 1), ("4", 0), ("5–9", 0), ("10–19", 0), ("20–49", 0), ("50+", 0)),
        quantiles={"median": 2, "p95": 3, "max": 3},
        median_minutes=15.0,
    )


def test_where_the_rows_went(profile: TableProfile) -> None:
    account = profile.account
    assert account is not None
    assert account.adds_up
    assert (account.num_rows, account.num_good, account.num_duplicates) == (11, 7, 2)
    assert account.events == {"view_item": 4, "purchase": 2, "search": 1}
    assert account.quarantined == {"no_user": 2}
    assert (account.num_landed, account.num_events, account.num_bot_rows, account.num_repeated) == (7, 6, 1, 0)


def test_an_account_that_does_not_add_up_says_so(profile: TableProfile) -> None:
    assert profile.account is not None
    torn = msgspec.structs.replace(profile.account.batches[0], num_rows=6)
    assert not msgspec.structs.replace(profile.account, batches=(torn, profile.account.batches[1])).adds_up


def test_unknown_items(profile: TableProfile) -> None:
    assert profile.unknown_items == UnknownItems(num_events=1, num_with_item=5, num_items=1)
    assert profile.unknown_items.share == 0.2


def test_late_rows(profile: TableProfile) -> None:
    late = profile.late
    assert late is not None
    # Of the second batch's four rows only the bot's is no newer than 02:00 of the first day.
    assert (late.num_rows, late.num_late, late.share) == (7, 1, 1 / 7)
    assert late.quantiles_s == {"median": 3600.0, "p95": 3600.0, "max": 3600.0}


def test_another_version_stands_alone(
    workspace: Workspace, write_tables: Callable[..., dict[str, int]], make_event: Callable[..., dict[str, Any]]
) -> None:
    write_tables(workspace, {EVENTS: [make_event(0, 0)], ITEMS: [{"item_id": "i", "title": "I", "is_known": True}]})
    write_tables(workspace, {EVENTS: [make_event(0, 0), make_event(1, 5)]})
    old = profile_table(workspace, EVENTS, Silent(), version=0)
    assert (old.num_rows, old.version, old.unknown_items, old.account, old.late) == (1, 0, None, None, None)
    new = profile_table(workspace, EVENTS, Silent())
    assert (new.num_rows, new.version, new.unknown_items) == (2, 1, UnknownItems(0, 2, 0))


def test_an_empty_table(workspace: Workspace, write_tables: Callable[..., dict[str, int]]) -> None:
    write_tables(workspace, {EVENTS: []})
    found = profile_table(workspace, EVENTS, Silent())
    assert (found.num_rows, found.days, found.sessions) == (0, (), None)
    assert {(column.num_distinct, column.top_share, column.null_share) for column in found.columns} == {(0, 0.0, 0.0)}


def test_nothing_to_profile(workspace: Workspace, shop: Workspace) -> None:
    with pytest.raises(InputError, match="holds no table events: nothing to profile"):
        profile_table(workspace, EVENTS, Silent())
    with pytest.raises(InputError, match="There is no table nonsense; the tables are: events"):
        profile_table(shop, "nonsense", Silent())
    with pytest.raises(InputError, match="has no version 7"):
        profile_table(shop, EVENTS, Silent(), version=7)


def test_damaged_counts(workspace: Workspace, write_tables: Callable[..., dict[str, int]]) -> None:
    row = {"batch": "x", "source": "s", "sha256": "a", "num_rows": 0, "num_duplicates": 0, "counts": "{"}
    write_tables(workspace, {BATCHES: [row]})
    with pytest.raises(ArtifactError, match="batch x: its counts can't be read"):
        profile_table(workspace, BATCHES, Silent())


def test_the_account_still_adds_up_after_a_retention(copy_shop: Callable[[], Workspace]) -> None:
    workspace = copy_shop()
    maintenance.retain(workspace, 1, today=date(2020, 1, 3), apply=True)
    found = profile_table(workspace, EVENTS, Silent()).account
    assert found is not None
    # Of the first day went three events and the bot's row, which is out of the quarantine too.
    assert (found.num_good, found.num_expired, found.num_landed) == (7, 4, 3)
    assert (found.num_repeated, found.num_bot_rows, found.num_events) == (0, 0, 3)
    page = write_profile(workspace, profile_table(workspace, EVENTS, Silent())).read_text("utf-8")
    assert "beyond the retention" in page
