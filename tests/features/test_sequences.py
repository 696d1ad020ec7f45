"""Last products and last events of any type: strictly before, ties by the events' ids, never more than asked."""

from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.events import ADD_TO_CART, PURCHASE, VIEW_ITEM
from endcap.features.sequences import last_events, last_items


def sequences(table):
    rows = table.order_by("query_num", "rank").to_pyarrow().to_pylist()
    found = {}
    for row in rows:
        assert row["rank"] == len(found.setdefault(row["query_num"], []))
        found[row["query_num"]].append(row["item_id"])
    return found


ACTS = [
    ("ann", "cup", VIEW_ITEM, 1), ("ann", "jug", VIEW_ITEM, 2), ("ann", "cup", ADD_TO_CART, 3), ("ann", "cup", PURCHASE, 4),
    ("ann", None, "search", 4), ("bob", "pan", VIEW_ITEM, 2),
]  # fmt: skip


def test_last_events_by_hand(events_of, spine_of):
    spine = spine_of([("ann", "x", 5), ("ann", "x", 4), ("eve", "x", 9), ("bob", "x", 3), ("ann", "x", 1)])
    found = sequences(last_events(spine, events_of(ACTS), 2, event_types=(VIEW_ITEM, ADD_TO_CART, PURCHASE, "search")))
    assert found == {0: ["cup", "cup"], 1: ["cup", "jug"], 3: ["pan"]}
    views = last_events(spine, events_of(ACTS), 9, event_types=(VIEW_ITEM,))
    assert sequences(views) == {0: ["jug", "cup"], 1: ["jug", "cup"], 3: ["pan"]}
    (row,) = views.filter(views.query_num == 3).to_pyarrow().to_pylist()
    assert (row["event_type"], row["age_days"]) == (VIEW_ITEM, 1 / 86_400_000_000)


def test_last_distinct_items_of_any_type(events_of, spine_of):
    spine = spine_of([("ann", "x", 5), ("ann", "x", 4)])
    assert sequences(last_items(spine, events_of(ACTS), 5)) == {0: ["cup"]}
    assert sequences(last_items(spine, events_of(ACTS), 5, event_types=(VIEW_ITEM,))) == {
        0: ["jug", "cup"],
        1: ["jug", "cup"],
    }


ANY = st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from("abc"), st.integers(0, 5)), max_size=15)


@settings(max_examples=8, deadline=None)
@given(acts=ANY, asked=st.lists(st.tuples(st.sampled_from(["ann", "eve"]), st.integers(0, 7)), min_size=1, max_size=4))
def test_equal_to_looking_one_by_one(events_of, spine_of, acts, asked):
    events = events_of([(user, item, VIEW_ITEM, ts) for user, item, ts in acts])
    found = sequences(last_events(spine_of([(u, "x", t) for u, t in asked]), events, 3, event_types=(VIEW_ITEM,)))
    for number, (user, moment) in enumerate(asked):
        # Event ids count up in the order of `acts`: a stable sort breaks ties by them.
        mine = sorted((act for act in acts if act[0] == user and act[2] < moment), key=lambda act: act[2])
        assert found.get(number, []) == [item for _, item, _ in mine][::-1][:3]
