from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from endcap.contracts.errors import InputError
from endcap.ingest.sources.personalize import Personalize

Rows = list[dict[str, Any]]
Write = Callable[..., Path]

HEADER = "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE,EVENT_VALUE\n"
ITEMS = "ITEM_ID,CATEGORY_L1,CATEGORY_L2,PRICE,CREATION_TIMESTAMP\nm1,Home|Gifts,Kitchen,4.50,1577836800\nm2,,,,\n,x,,,\nm1,Home,,5.5,1577836800\n"


def test_interactions(events: Callable[..., Rows], write: Write) -> None:
    lines = "1,m1,1580000000,Purchase,2.5\n1,m1,1580000001,AddToCart,\n1,m1,1580000002.5,detail-page-view,\n"
    rows = events(Personalize(), write("interactions.csv", HEADER + lines))
    assert [(row["event_type"], row["ts_us"], row["reason"]) for row in rows] == [
        ("purchase", 1_580_000_000_000_000, None),
        ("add_to_cart", 1_580_000_001_000_000, None),
        ("view_item", 1_580_000_002_500_000, None),
    ]
    assert rows[0]["properties"] == '{"EVENT_VALUE":"2.5"}'


def test_without_event_types_every_interaction_is_a_view(events: Callable[..., Rows], write: Write) -> None:
    (row,) = events(Personalize(), write("i.csv", "USER_ID,ITEM_ID,TIMESTAMP\n1,m1,1580000000\n"))
    assert (row["event_type"], row["reason"]) == ("view_item", None)


def test_rows_that_cannot_be_used(events: Callable[..., Rows], write: Write) -> None:
    lines = "1,m1,now,view,\n1,m1,,view,\n1,m1,1580000000000,view,\n1,m1,1580000000,ponder,\n1,m1,1580000000,,\n"
    rows = events(Personalize(), write("i.csv", HEADER + lines))
    assert [row["reason"] for row in rows] == [
        "unreadable_time", "missing_time", "time_out_of_range", "unknown_event_type", "missing_event_type",
    ]  # fmt: skip


def test_items_lie_beside(
    ingest: Callable[..., Any], products: Callable[..., Any], write: Write, tmp_path: Path
) -> None:
    file = write("interactions.csv", HEADER + "1,m1,1580000000,view,\n")
    write("items.csv", ITEMS)
    write("users.csv", "USER_ID,AGE\n1,30\n")
    assert list(ingest(Personalize(), tmp_path)) == ["personalize/interactions.csv"]
    for path in (tmp_path, file):
        found = products(Personalize(), path)
        assert list(found) == ["m1", "m2"] or set(found) == {"m1", "m2"}
        assert found["m1"]["price"] == Decimal("5.5000")  # of equal rows the last counts
        assert found["m1"]["category"] == "Home"
        assert found["m1"]["valid_from_us"] == 1_577_836_800_000_000
        assert (found["m2"]["valid_from_us"], found["m2"]["price"]) == (0, None)


def test_a_catalog_alone(products: Callable[..., Any], write: Write) -> None:
    path = write("items.csv", "ITEM_ID,CATEGORY_L1,CATEGORY_L2\nm1,Home|Gifts,Kitchen\n")
    assert Personalize().batches(path) == []
    assert products(Personalize(), path)["m1"]["category"] == "Home > Kitchen"


def test_files_of_another_kind(write: Write) -> None:
    with pytest.raises(InputError, match="holds no file of source personalize; expected the columns USER_ID, ITEM_ID"):
        Personalize().batches(write("a.csv", "user,item\n1,2\n"))


def test_a_missing_column(events: Callable[..., Rows], write: Write) -> None:
    with pytest.raises(InputError, match="column TIMESTAMP is missing"):
        events(Personalize(), write("a.csv", "USER_ID,ITEM_ID\n1,2\n"))
