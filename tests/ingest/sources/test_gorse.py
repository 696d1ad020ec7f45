from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from endcap.ingest.sources.gorse import Gorse

Rows = list[dict[str, Any]]
Write = Callable[..., Path]


def test_feedback_as_its_api_writes_it(events: Callable[..., Rows], write: Write) -> None:
    row = {
        "FeedbackType": "star",
        "UserId": "u1",
        "ItemId": "i1",
        "Timestamp": "2026-01-31T01:00:00+01:00",
        "Comment": "so nice",
    }
    found = events(Gorse(), write("feedback.jsonl", [row, row | {"FeedbackType": "read"}, row | {"Timestamp": ""}]))
    assert [(row["event_type"], row["ts_us"], row["reason"]) for row in found] == [
        ("add_to_wishlist", 1_769_817_600_000_000, None),
        ("view_item", 1_769_817_600_000_000, None),
        ("add_to_wishlist", None, "missing_time"),
    ]
    assert found[0]["properties"] == '{"Comment":"so nice"}'


def test_feedback_as_its_export_writes_it(events: Callable[..., Rows], write: Write) -> None:
    text = "feedback_type,user_id,item_id,time_stamp\npurchase,u1,i1,2026-01-31 00:00:00 +0000 UTC\n"
    (row,) = events(Gorse(), write("feedback.csv", text))
    assert (row["event_type"], row["ts_us"], row["reason"]) == ("purchase", 1_769_817_600_000_000, None)


def test_items_beside(ingest: Callable[..., Any], products: Callable[..., Any], write: Write, tmp_path: Path) -> None:
    write("feedback.csv", "feedback_type,user_id,item_id,time_stamp\nread,u1,i1,2026-01-31\n")
    items = [
        {
            "ItemId": "i1",
            "IsHidden": False,
            "Categories": ["Tea", "Gifts"],
            "Comment": "Green &amp; mild",
            "Labels": {},
        },
        {"ItemId": "i2", "IsHidden": True, "Categories": []},
    ]
    write("items.jsonl", items)
    write("users.jsonl", [{"UserId": "u1", "Labels": []}])
    assert list(ingest(Gorse(), tmp_path)) == ["gorse/feedback.csv"]
    found = products(Gorse(), tmp_path)
    assert (found["i1"]["title"], found["i1"]["category"], found["i1"]["in_stock"]) == ("Green & mild", "Tea", True)
    assert (found["i2"]["title"], found["i2"]["category"], found["i2"]["in_stock"]) == (None, None, False)
