"""Negatives: the same for a question in any company, never the answer, as often as they should be."""

from itertools import chain

import ibis
import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chisquare

from endcap.contracts.errors import InputError
from endcap.contracts.events import IMPRESSIONS_TABLE, PURCHASE, US_PER_DAY
from endcap.features.negatives import bought_before, draw_negatives, impression_negatives, popularity

CATALOG = pa.table({
    "item_id": ["a", "b", "c", "d", "e"], "num": pa.array([1, 16, 81, 256, 0], pa.int64()),
    "category": ["x", "x", "x", "y", None],
})  # fmt: skip


def questions(positives, first=0):
    return pa.table({
        "query_num": pa.array(range(first, first + len(positives)), pa.int64()), "item_id": pa.array(positives, pa.string()),
    })  # fmt: skip


def drawn(asked, kind, *, num=4, seed=1, catalog=CATALOG, excluded=None):
    table = draw_negatives(asked, catalog, kind, num_negatives=num, seed=seed, excluded=excluded)
    found = {}
    for query_num, place, item_id in zip(*(table[name].to_pylist() for name in table.column_names), strict=True):
        assert place == len(found.setdefault(query_num, []))
        found[query_num].append(item_id)
    return found


@pytest.mark.parametrize("kind", ["uniform", "popular", "in_category"])
def test_neither_order_nor_company_nor_chunks_change_a_draw(kind):
    asked = questions(list("abcde") * 40)
    whole = drawn(asked, kind)
    rng = np.random.default_rng(3)
    shuffled = asked.take(pa.array(rng.permutation(asked.num_rows)))
    assert drawn(shuffled, kind, catalog=CATALOG.take(pa.array([4, 2, 0, 3, 1]))) == whole
    apart = {}
    for start in range(0, asked.num_rows, 17):
        apart |= drawn(asked.slice(start, 17), kind)
    assert apart == whole
    assert drawn(asked, kind, seed=2) != whole
    # More draws of a question begin with the same ones.
    assert {number: items[:2] for number, items in whole.items()} == drawn(asked, kind, num=2)


def mixed(value):
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ value >> 27) * 0x94D049BB133111EB % 2**64
    return value ^ value >> 31


def test_draws_by_plain_integers():
    found = drawn(questions(["a", "d", "c"], first=41), "uniform", seed=7)
    for number, positive in ((41, "a"), (42, "d"), (43, "c")):
        for place in range(4):
            stream = mixed(mixed(7) ^ number)
            tries = (
                "abcde"[mixed((stream + 0x9E3779B97F4A7C15 * (33 * place + n)) % 2**64) % 5000 // 1000]
                for n in range(1, 33)
            )
            assert found[number][place] == next(item for item in tries if item != positive)


@pytest.mark.parametrize("kind", ["uniform", "popular", "in_category"])
def test_the_answer_and_what_is_excluded_are_never_drawn(kind):
    asked = questions(list("abcde") * 60)
    excluded = pa.table({
        "query_num": pa.array(range(0, 300, 2), pa.int64()), "item_id": ["d"] * 150,
    })  # fmt: skip
    for number, items in drawn(asked, kind, excluded=excluded).items():
        assert "abcde"[number % 5] not in items
        assert number % 2 or "d" not in items


def test_frequencies():
    asked = questions(["?"] * 5000)
    counts = {
        kind: np.unique(list(chain.from_iterable(drawn(asked, kind).values())), return_counts=True)
        for kind in ("uniform", "popular")
    }
    names, found = counts["uniform"]
    assert names.tolist() == list("abcde")
    assert chisquare(found).pvalue > 0.001
    names, found = counts["popular"]
    assert names.tolist() == list("abcd")  # never bought, never drawn
    expected = np.array([1, 8, 27, 64]) / 100 * 20_000  # num^0.75
    assert chisquare(found, expected).pvalue > 0.001
    assert chisquare(found).pvalue < 1e-9


def test_hard_negatives_share_the_category_while_it_holds_any():
    found = drawn(questions(["a", "b", "d", "e", "?"] * 50), "in_category", num=8)
    for number, items in found.items():
        others = {0: set("bc"), 1: set("ac"), 2: set("abce"), 3: set("abcd"), 4: set("abcde")}[number % 5]
        assert set(items) <= others
    assert set().union(*(items for number, items in found.items() if number % 5 == 2)) == set("abce")


def test_nearly_everything_excluded_still_finds_the_rest_and_everything_is_refused():
    catalog = pa.table({"item_id": [f"p{number:03d}" for number in range(500)]})
    asked = questions(["p000"])

    def but(kept):
        names = [name for name in catalog["item_id"].to_pylist() if name not in kept]
        return pa.table({"query_num": pa.array([0] * len(names), pa.int64()), "item_id": names})

    found = drawn(asked, "uniform", catalog=catalog, excluded=but({"p007", "p123"}), num=40)
    assert set(found[0]) == {"p007", "p123"}
    with pytest.raises(InputError, match=r"excludes every product of the catalog \(500\)"):
        drawn(asked, "uniform", catalog=catalog, excluded=but(set()))


def test_catalogs_that_give_nothing_are_refused():
    with pytest.raises(InputError, match="catalog is empty"):
        drawn(questions(["a"]), "uniform", catalog=CATALOG.slice(0, 0))
    with pytest.raises(InputError, match="has a `num` over 0"):
        drawn(questions(["a"]), "popular", catalog=CATALOG.slice(4))


def test_no_questions_give_no_rows():
    assert drawn(questions([]), "uniform") == {}


def test_popularity_and_what_was_bought_before(events_of, spine_of):
    events = events_of([("ann", "cup", PURCHASE, 1), ("ann", "cup", PURCHASE, 3), ("bob", "jug", PURCHASE, 5), ("bob", "cup", "view_item", 1)])  # fmt: skip
    assert popularity(events, 5).to_pyarrow().to_pylist() == [{"item_id": "cup", "num": 2}]
    before = bought_before(spine_of([("ann", "x", 1), ("ann", "x", 2), ("bob", "x", 5), ("ann", "x", 9)]), events)
    assert sorted(tuple(row.values()) for row in before.to_pyarrow().to_pylist()) == [(1, "cup"), (3, "cup")]


def impressions_of(rows):
    table = [
        dict.fromkeys(IMPRESSIONS_TABLE.schema.names)
        | {"request_id": "r", "user_id": user, "item_id": item, "ts_us": ts, "position": number, "num_clicks": clicks,
           "num_carts": carts, "num_purchases": 0, "event_date": ts // US_PER_DAY}
        for number, (user, item, ts, clicks, carts) in enumerate(rows)
    ]  # fmt: skip
    return ibis.memtable(pa.Table.from_pylist(table, schema=IMPRESSIONS_TABLE.schema))


def test_shown_and_left_alone(spine_of):
    now = 10 * US_PER_DAY
    shown = impressions_of([
        ("ann", "a", now - 5, 0, 0), ("ann", "b", now - 5, 1, 0), ("ann", "c", now - 5, 0, 1), ("ann", "d", now, 0, 0),
        ("ann", "e", now - US_PER_DAY, 0, 0), ("ann", "f", now - US_PER_DAY - 1, 0, 0), ("ann", "g", now - 5, 0, 0),
        ("bob", "h", now - 5, 0, 0), ("ann", "b", now - 9, 0, 0), ("ann", "a", now - 9, 0, 0),
    ])  # fmt: skip
    spine = spine_of([("ann", "g", now)])

    def found(spine, **options):
        rows = impression_negatives(spine, shown, **{"num_negatives": 9, "seed": 1} | options)
        return [row["item_id"] for row in rows.order_by("query_num", "place").to_pyarrow().to_pylist()]

    assert sorted(found(spine)) == ["a", "e"]
    assert found(spine, num_negatives=1) == found(spine)[:1]
    assert sorted(found(spine, within_days=2)) == ["a", "e", "f"]
    groups = ibis.memtable(
        pa.table({"item_id": ["a", "g", "e"], "group_id": pa.array(["pots", "pots", None], pa.string())})
    )
    assert found(spine, groups=groups) == ["e"]
    many = spine_of([("ann", "g", now)] * 50)
    first = [found(many.filter(many.query_num == number), num_negatives=1) for number in range(8)]
    assert {item for (item,) in first} == {"a", "e"}


@pytest.mark.parametrize("kind", ["uniform", "popular", "in_category"])
def test_variants_of_the_positive_are_no_negatives(kind):
    grouped = CATALOG.append_column("group_id", pa.array(["g", "g", None, None, None]))
    found = drawn(questions(["a"] * 30 + ["c"] * 30), kind, catalog=grouped)
    for number, items in found.items():
        assert not set(items) & ({"a", "b"} if number < 30 else {"c"})
    assert set(chain.from_iterable(list(found.values())[30:])) >= {"a", "b"} - ({"a"} if kind == "popular" else set())


def test_a_question_without_anything_left_falls_short_where_that_is_wanted():
    everything = pa.table({"query_num": pa.array([0] * 5, pa.int64()), "item_id": CATALOG["item_id"]})
    table = draw_negatives(
        questions(["a", "b"]), CATALOG, "uniform", num_negatives=2, seed=1, excluded=everything, may_fall_short=True
    )
    assert table["query_num"].to_pylist() == [1, 1]
    for kind, catalog in (("uniform", CATALOG.slice(0, 0)), ("popular", CATALOG.slice(4))):
        assert (
            draw_negatives(questions(["a"]), catalog, kind, num_negatives=2, seed=1, may_fall_short=True).num_rows == 0
        )
