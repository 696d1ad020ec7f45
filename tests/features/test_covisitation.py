"""Products that go together: pairs counted by hand, ties in one order, long sessions cut to their end."""

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.events import PURCHASE, US_PER_DAY, VIEW_ITEM
from endcap.features.covisitation import UNIT, bought_together, covisits, next_items

DAY = US_PER_DAY
LATER = 100 * DAY


def pairs_of(table):
    rows = table.order_by("item_id", "rank").to_pyarrow().to_pylist()
    return [(row["item_id"], row["other_item_id"], row["num"]) for row in rows]


def session(name, items, start=50 * DAY, kind=VIEW_ITEM):
    return [("ann", item, kind, start + number, {"session_id": name}) for number, item in enumerate(items)]


def test_a_session_counts_once_for_a_pair_whichever_came_first(events_of):
    events = events_of([*session("s1", "abab"), *session("s2", "ba"), *session("s3", "ac"), *session("s4", "aa")])
    assert pairs_of(covisits(events, LATER)) == [("a", "b", 2), ("b", "a", 2)]
    assert pairs_of(covisits(events, LATER, min_support=1)) == [
        ("a", "b", 2), ("a", "c", 1), ("b", "a", 2), ("c", "a", 1),
    ]  # fmt: skip


def test_what_comes_next_has_a_direction(events_of):
    events = events_of([*session("s1", "aabbc"), *session("s2", "ab"), *session("s3", "ba")])
    assert pairs_of(next_items(events, LATER, min_support=1)) == [("a", "b", 2), ("b", "a", 1), ("b", "c", 1)]


def test_ties_in_time_follow_the_events_ids(events_of):
    rows = [("ann", item, VIEW_ITEM, 7, {"event_id": name}) for item, name in (("a", "e3"), ("b", "e1"), ("c", "e2"))]
    assert pairs_of(next_items(events_of(rows), LATER, min_support=1)) == [("b", "c", 1), ("c", "a", 1)]


def test_equal_counts_are_ranked_by_product_and_cut(events_of):
    events = events_of([*session("s1", "zab"), *session("s2", "zba"), *session("s3", "zb")])
    kept = [(a, b) for a, b, _ in pairs_of(covisits(events, LATER, top_n=1))]
    assert kept == [("a", "b"), ("b", "z"), ("z", "b")]


def test_long_sessions_count_by_their_last_events(events_of):
    events = events_of(session("robot", [f"p{number:03d}" for number in range(60)]))
    assert pairs_of(covisits(events, LATER, max_events=2, min_support=1)) == [("p058", "p059", 1), ("p059", "p058", 1)]
    assert pairs_of(next_items(events, LATER, max_events=3, min_support=1)) == [
        ("p057", "p058", 1),
        ("p058", "p059", 1),
    ]


def test_nothing_at_or_after_the_moment_counts(events_of):
    events = events_of(session("s1", "ab", start=10))
    assert pairs_of(covisits(events, 11, min_support=1)) == []
    assert len(pairs_of(covisits(events, 12, min_support=1))) == 2


def test_older_sessions_weigh_less(events_of):
    events = events_of(
        [*session("s1", "ab", LATER - 10), *session("s2", "ab", LATER - 7 * DAY), *session("s3", "ac", 0)]
    )
    rows = covisits(events, LATER, half_life_days=7, min_support=1).order_by("item_id", "rank").to_pyarrow().to_pylist()
    weights = {(row["item_id"], row["other_item_id"]): row["weight"] for row in rows}
    # The moment of a pair is that of the later event: a microsecond less than seven days old is six whole days.
    assert weights["a", "b"] == UNIT + int(UNIT * 0.5 ** (6 / 7))
    assert weights["a", "c"] == int(UNIT * 0.5 ** (99 / 7))


def test_baskets_and_customers(events_of):
    events = events_of([
        ("ann", "a", PURCHASE, 1 * DAY, {"basket_id": "b1"}), ("ann", "b", PURCHASE, 1 * DAY, {"basket_id": "b1"}),
        ("ann", "c", PURCHASE, 4 * DAY, {"basket_id": "b2"}), ("bob", "a", PURCHASE, 1 * DAY, {"basket_id": "b3"}),
        ("bob", "b", PURCHASE, 2 * DAY), ("bob", "b", VIEW_ITEM, 3 * DAY), ("bob", "c", PURCHASE, 4 * DAY + 1),
    ])  # fmt: skip
    assert pairs_of(bought_together(events, LATER, min_support=1)) == [("a", "b", 1), ("b", "a", 1)]
    near = pairs_of(bought_together(events, LATER, within_days=3, min_support=1))
    # Bob's c came three days and a microsecond after his a.
    assert near == [("a", "b", 2), ("a", "c", 1), ("b", "a", 2), ("b", "c", 2), ("c", "b", 2), ("c", "a", 1)]
    assert ("a", "b", 2) in pairs_of(bought_together(events, LATER, within_days=1))


ACTS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abcd"), st.integers(0, 9)), max_size=25)


@settings(max_examples=8, deadline=None)
@given(acts=ACTS)
def test_equal_to_counting_one_by_one(events_of, acts):
    events = events_of([("ann", item, VIEW_ITEM, ts, {"session_id": f"s{number}"}) for number, item, ts in acts])
    expected = {}
    for number in {number for number, _, _ in acts}:
        for pair in combinations(sorted({item for s, item, _ in acts if s == number}), 2):
            expected[pair] = expected.get(pair, 0) + 1
    found = {(a, b): num for a, b, num in pairs_of(covisits(events, LATER, min_support=1))}
    assert found == {pair: num for (a, b), num in expected.items() for pair in ((a, b), (b, a))}


@pytest.mark.parametrize("compute", [covisits, next_items, bought_together])
def test_no_events_give_no_pairs(events_of, compute):
    assert pairs_of(compute(events_of([]), LATER)) == []
