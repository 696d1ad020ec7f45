"""Negatives of many days: only what was known at the midnight before, as often as it was bought until then."""

import ibis
import pyarrow as pa
import pytest

from endcap.contracts.events import PURCHASE, US_PER_DAY, VIEW_ITEM
from endcap.engines import duckdb
from endcap.features.negatives_as_of import CatalogByDay, draw_as_of
from endcap.workspace.layout import Workspace

DAY = US_PER_DAY
ITEMS = ibis.memtable(
    pa.table({"item_id": ["cup", "jug", "tin", "urn"], "group_id": pa.array([None, "pots", None, "pots"], pa.string())})
)


@pytest.fixture(scope="module")
def catalogs(tmp_path_factory, events_of, versions_of):
    with duckdb.session(Workspace.init(tmp_path_factory.mktemp("engine"))) as connection:
        events = events_of([
            ("ann", "cup", VIEW_ITEM, 1 * DAY), ("ann", "cup", PURCHASE, 2 * DAY - 1), ("ann", "jug", PURCHASE, 2 * DAY),
            ("ann", "tin", PURCHASE, 3 * DAY + 1), ("ann", "tin", PURCHASE, 3 * DAY + 2),
        ])  # fmt: skip
        versions = versions_of([("urn", 4 * DAY, 5 * DAY, "1", "tea"), ("urn", 5 * DAY, None, "1", "home"), ("cup", 1, None, "1", "tea"), ("tin", 0, None, None, "tea")])  # fmt: skip
        yield CatalogByDay(connection, events, versions, ITEMS)


def numbers_at(catalogs, day):
    catalog = catalogs.at(day, "popular")
    return dict(zip(catalog["item_id"].to_pylist(), catalog["num"].to_pylist(), strict=True))


def test_what_is_known_at_a_midnight(catalogs):
    assert [numbers_at(catalogs, day) for day in (0, 1, 2, 3, 4)] == [
        {}, {"cup": 0}, {"cup": 1}, {"cup": 1, "jug": 1}, {"cup": 1, "jug": 1, "tin": 2, "urn": 0},
    ]  # fmt: skip
    for day, expected in ((4, "tea"), (5, "home")):
        catalog = catalogs.at(day, "in_category")
        assert dict(zip(catalog["item_id"].to_pylist(), catalog["category"].to_pylist(), strict=True)) == {
            "cup": "tea", "jug": None, "tin": "tea", "urn": expected,
        }  # fmt: skip


def test_questions_of_many_days(catalogs):
    days = [0, 2, 3, 5]
    asked = pa.table({
        "query_num": range(4), "item_id": ["cup", "cup", "jug", "jug"], "event_time_us": [day * DAY + 5 for day in days],
    })  # fmt: skip
    drawn = draw_as_of(asked, catalogs, "uniform", num_negatives=40, seed=3)
    found = {}
    for row in drawn.to_pylist():
        found.setdefault(row["query_num"], set()).add(row["item_id"])
    # On the first days nothing else is known: the jug came at the very midnight. An urn is another pot than a jug.
    assert found == {2: {"cup"}, 3: {"cup", "tin"}}
    backwards = draw_as_of(asked.take(pa.array([3, 2, 1, 0])), catalogs, "uniform", num_negatives=40, seed=3)
    assert backwards.equals(drawn)


def test_what_is_left_out(catalogs):
    asked = pa.table({"query_num": [0], "item_id": ["jug"], "event_time_us": [5 * DAY]})
    bought = pa.table({"query_num": pa.array([0], pa.int64()), "item_id": ["tin"]})
    drawn = draw_as_of(asked, catalogs, "popular", num_negatives=9, seed=3, excluded=lambda _: bought)
    assert set(drawn["item_id"].to_pylist()) == {"cup"}
