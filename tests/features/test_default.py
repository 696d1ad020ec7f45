"""The default feature set: one row a question in every group, each as of its moment."""

from decimal import Decimal

from endcap.contracts.events import PURCHASE, US_PER_DAY, VIEW_ITEM
from endcap.features.default import DEFAULT_FEATURES, default_features

DAY = US_PER_DAY


def test_every_group_by_hand(events_of, spine_of, versions_of):
    events = events_of([
        ("ann", "cup", PURCHASE, 100 * DAY), ("ann", "cup", PURCHASE, 104 * DAY), ("bob", "cup", PURCHASE, 105 * DAY + 1),
        ("bob", "cup", PURCHASE, 111 * DAY), ("ann", "jug", VIEW_ITEM, 110 * DAY),
    ])  # fmt: skip
    versions = versions_of([
        ("cup", 0, 110 * DAY + 1, "5", "tea"), ("cup", 110 * DAY + 1, None, "1", "tea"), ("jug", 0, None, "3", "tea"),
    ])  # fmt: skip
    spine = spine_of([("ann", "cup", 110 * DAY + DAY // 2), ("bob", "jug", 110 * DAY), ("eve", "urn", 90 * DAY)])
    tables = default_features(spine, events, versions)
    assert list(tables) == [group.name for group in DEFAULT_FEATURES]
    found = {}
    for name, table in tables.items():
        found[name] = table.order_by("query_num").to_pyarrow().to_pylist()
        if name != "sequence":
            assert [row["query_num"] for row in found[name]] == [0, 1, 2], name
    # The price is that of midnight: the new one came a microsecond later.
    assert [row["item_price"] for row in found["price"]] == [Decimal(5), Decimal(3), None]
    assert [row["item_price_position"] for row in found["price"]] == [1.0, 0.0, None]
    assert [row["item_in_stock"] for row in found["price"]] == [True, True, None]
    # Bob's second purchase lies after both questions, so the only interval is Ann's, of four days.
    ann, bob, eve = found["repurchase"]
    assert (ann["item_num_intervals"], ann["item_repurchase_days"], ann["user_item_repurchase_ratio"]) == (
        1,
        4.0,
        6.5 / 4,
    )
    assert (bob["item_num_intervals"], bob["item_repurchase_days"], bob["user_item_repurchase_ratio"]) == (
        0,
        None,
        None,
    )
    assert eve["item_num_intervals"] == 0
    assert [row["user_num_purchase_30d"] for row in found["user"]] == [2, 1, 0]
    assert [row["item_num_purchase_30d"] for row in found["item"]] == [3, 0, 0]
    assert [row["user_category_num_view_item_1d"] for row in found["user_category"]] == [1, 0, None]
    assert [row["user_item_num_purchase_7d"] for row in found["user_item"]] == [1, 0, 0]
    assert [(row["query_num"], row["rank"], row["item_id"]) for row in sorted(found["sequence"], key=str)] == [
        (0, 0, "jug"), (0, 1, "cup"), (0, 2, "cup"), (1, 0, "cup"),
    ]  # fmt: skip
