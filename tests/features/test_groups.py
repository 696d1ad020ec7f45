"""Variants of one product count as one; a product in no group stays what it is, and rows keep their number."""

import ibis
import pyarrow as pa

from endcap.contracts.events import PURCHASE, US_PER_DAY
from endcap.features.covisitation import bought_together
from endcap.features.groups import by_group

ITEMS = ibis.memtable(
    pa.table({"item_id": ["s", "m", "cup", "jug"], "group_id": pa.array(["shirt", "shirt", None, "jug"], pa.string())})
)


def test_each_event_of_a_variant_is_one_of_its_group(events_of):
    bought = ["s", "m", "cup", "jug", "unknown", None]
    grouped = by_group(events_of([("ann", item, PURCHASE, 5) for item in bought]), ITEMS)
    rows = grouped.order_by("event_id").to_pyarrow().to_pylist()
    assert [row["item_id"] for row in rows] == ["shirt", "shirt", "cup", "jug", "unknown", None]
    assert rows[0].keys() == {*events_of([("ann", "s", PURCHASE, 5)]).columns}


def test_pairs_of_groups(events_of):
    baskets = [("b1", ("s", "cup")), ("b2", ("m", "cup")), ("b3", ("s", "m"))]
    events = events_of(
        [("ann", item, PURCHASE, US_PER_DAY, {"basket_id": name}) for name, items in baskets for item in items]
    )
    assert bought_together(events, 2 * US_PER_DAY).count().to_pyarrow().as_py() == 0
    pairs = bought_together(by_group(events, ITEMS), 2 * US_PER_DAY).order_by("item_id").to_pyarrow().to_pylist()
    assert [(row["item_id"], row["other_item_id"], row["num"]) for row in pairs] == [
        ("cup", "shirt", 2),
        ("shirt", "cup", 2),
    ]
