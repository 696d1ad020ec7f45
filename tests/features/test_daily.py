"""What a day came to, by hand; a day's rows depend on its events alone."""

from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.events import EVENT_TYPES, PURCHASE, REFUND, US_PER_DAY, VIEW_ITEM
from endcap.features.daily import item_days, user_category_days, user_days, user_item_days

DAY = US_PER_DAY
ACTS = [
    ("ann", "cup", VIEW_ITEM, 5 * DAY, {"session_id": "s1"}),
    ("ann", "cup", PURCHASE, 5 * DAY + 9, {"value": "2.5", "basket_id": "b1", "session_id": "s1"}),
    ("ann", "jug", PURCHASE, 6 * DAY - 1, {"value": "0.1", "basket_id": "b1", "session_id": "s2"}),
    ("ann", "cup", REFUND, 6 * DAY, {"value": "2.5", "session_id": "s3"}),
    ("ann", None, "search", 6 * DAY, {"session_id": "s3"}),
    ("bob", "cup", VIEW_ITEM, 5 * DAY, {"session_id": "s4"}),
]


def rows_of(table, *order):
    return table.order_by(*order).to_pyarrow().to_pylist()


def test_users_by_hand(events_of):
    first, second, bob = rows_of(user_days(events_of(ACTS)), "user_id", "day")
    assert (first["user_id"], first["day"], first["num_view_item"], first["num_purchase"]) == ("ann", 5, 1, 2)
    assert (first["spend"], first["refunded"]) == (Decimal("2.6000"), Decimal(0))
    assert (first["num_items"], first["num_baskets"], first["num_sessions"]) == (2, 1, 2)
    assert (second["day"], second["num_search"], second["num_refund"], second["num_purchase"]) == (6, 1, 1, 0)
    assert (second["spend"], second["refunded"]) == (Decimal(0), Decimal("2.5"))
    assert (second["num_items"], second["num_baskets"], second["num_sessions"]) == (1, 0, 1)
    assert (bob["user_id"], bob["num_view_item"]) == ("bob", 1)
    assert {f"num_{kind}" for kind in EVENT_TYPES} <= first.keys()


def test_items_by_hand(events_of):
    found = {(row["item_id"], row["day"]): row for row in rows_of(item_days(events_of(ACTS)), "item_id", "day")}
    assert sorted(found) == [("cup", 5), ("cup", 6), ("jug", 5)]
    assert found["cup", 5]["num_users"] == 2
    assert found["cup", 5]["num_view_item"] == 2
    assert found["cup", 5]["spend"] == Decimal("2.5")


def test_categories_are_those_of_the_moment(events_of, versions_of):
    versions = versions_of([
        ("cup", 0, 5 * DAY + 4, "1", "tea"), ("cup", 5 * DAY + 4, 5 * DAY + 5, "2", "tea"),
        ("cup", 5 * DAY + 5, 5 * DAY + 9, "2", None), ("cup", 5 * DAY + 9, None, "2", "gifts"),
    ])  # fmt: skip
    events = events_of(
        [("ann", "cup", VIEW_ITEM, 5 * DAY + n) for n in (0, 4, 5, 8, 9)] + [("ann", "jug", VIEW_ITEM, 1)]
    )
    found = rows_of(user_category_days(events, versions), "category")
    assert [(row["category"], row["day"], row["num_view_item"]) for row in found] == [("gifts", 5, 1), ("tea", 5, 2)]


def test_a_category_that_comes_back_does_not_fill_the_time_between(events_of, versions_of):
    versions = versions_of([("cup", 0, 3, "1", "tea"), ("cup", 3, 6, "1", "oil"), ("cup", 6, None, "1", "tea")])
    events = events_of([("ann", "cup", VIEW_ITEM, ts) for ts in range(8)])
    found = {row["category"]: row["num_view_item"] for row in rows_of(user_category_days(events, versions), "category")}
    assert found == {"oil": 3, "tea": 5}


def test_purchases_of_a_pair(events_of):
    rows = rows_of(user_item_days(events_of([*ACTS, ACTS[1]])), "user_id", "item_id", "day")
    assert rows == [
        {"user_id": "ann", "item_id": "cup", "day": 5, "num_purchase": 2},
        {"user_id": "ann", "item_id": "jug", "day": 5, "num_purchase": 1},
    ]


ANY = st.lists(
    st.tuples(
        st.sampled_from(["ann", "bob"]), st.sampled_from(["cup", "jug"]), st.sampled_from([VIEW_ITEM, PURCHASE]),
        st.integers(0, 3 * DAY - 1),
    ),
    min_size=1, max_size=40,
)  # fmt: skip


@settings(max_examples=3, deadline=None)
@given(acts=ANY)
def test_a_day_alone_gives_the_rows_it_gives_among_others(events_of, versions_of, acts):
    events, versions = events_of(acts), versions_of([("cup", 0, None, "1", "tea"), ("jug", DAY, None, "1", "tea")])
    for compute, order in (
        (user_days, ["user_id"]), (item_days, ["item_id"]), (user_item_days, ["user_id", "item_id"]),
        (lambda t: user_category_days(t, versions), ["user_id", "category"]),
    ):  # fmt: skip
        whole = rows_of(compute(events), "day", *order)
        apart = [
            row
            for day in range(3)
            for row in rows_of(compute(events.filter(events.ts_us // DAY == day)), "day", *order)
        ]
        assert apart == whole
