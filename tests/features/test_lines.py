"""Lines with targets, by hand: what was spent, what the past says of it, and that nothing later is known."""

import math

import ibis
import pyarrow as pa
import pytest

from endcap.contracts.configuration import QuestionConfig, SplitConfig
from endcap.contracts.errors import ArtifactError, ColumnsError
from endcap.contracts.events import PURCHASE, REFUND
from endcap.contracts.reporting import Silent
from endcap.engines import duckdb
from endcap.features.dataset import LINES, Settings, build
from endcap.features.leaks import refuse_leaks
from endcap.features.lines import TargetSettings, labelled_purchases
from endcap.features.purchases import purchases_of
from endcap.workspace.layout import Workspace

DAY = 86_400_000_000
SPEND = TargetSettings("value", is_logged=False)
SETTINGS = Settings(SplitConfig(eval_fraction=0.2, test_fraction=0.2), QuestionConfig(), 5, SPEND)


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    with duckdb.session(Workspace.init(tmp_path_factory.mktemp("engine"))) as connection:
        yield connection


@pytest.fixture(scope="module")
def rows():
    """Ann and Bob, a basket each on some days; Ann's basket of day 2 has two lines of p."""
    return [
        ("ann", "p", PURCHASE, 2 * DAY, {"value": "4", "basket_id": "1"}),
        ("ann", "p", PURCHASE, 2 * DAY, {"value": "2", "basket_id": "1"}),
        ("ann", "q", PURCHASE, 2 * DAY, {"value": "3", "basket_id": "1"}),
        ("bob", "p", PURCHASE, 3 * DAY, {"value": "10", "basket_id": "2"}),
        ("ann", "p", PURCHASE, 5 * DAY, {"value": "9", "basket_id": "3"}),
        ("ann", "p", REFUND, 5 * DAY, {"value": "9", "basket_id": "3"}),
        ("bob", "q", PURCHASE, 6 * DAY, {"value": None, "basket_id": "4"}),
        ("bob", "p", PURCHASE, 7 * DAY, {"value": "1", "basket_id": "5"}),
        ("ann", "q", PURCHASE, 8 * DAY, {"value": "5", "basket_id": "6"}),
        ("bob", "q", PURCHASE, 9 * DAY, {"value": "7", "basket_id": "7"}),
    ]


@pytest.fixture(scope="module")
def built(connection, events_of, rows, tmp_path_factory):
    events = events_of(rows)
    labelled = ibis.memtable(connection.to_pyarrow(labelled_purchases(events, SPEND)))
    bought = ibis.memtable(connection.to_pyarrow(purchases_of(events)))
    items = ibis.memtable(pa.table({"item_id": ["p", "q"], "title": ["P", "Q"]}))
    users = ibis.memtable(pa.table({"user_id": ["ann", "bob"], "country": ["NO", "NO"]}))
    folder = tmp_path_factory.mktemp("features")
    return build(connection, bought, items, users, SETTINGS, folder, Silent(), labelled), users, labelled


def test_lines_of_a_basket_are_summed_and_stand_beside_their_products(built):
    lines = {(row["user_id"], row["event_time_us"] // DAY): row for row in built[0].table(LINES).to_pylist()}
    assert len(lines) == 7
    assert lines["ann", 2]["targets"] == ["p", "q"]
    assert lines["ann", 2]["target_values"] == [6.0, 3.0]
    assert math.isnan(lines["bob", 6]["target_values"][0])
    assert [lines["ann", 2]["period"], lines["bob", 9]["period"]] == ["train", "test"]


def test_the_past_of_a_line_is_strictly_before_it(built):
    lines = {(row["user_id"], row["event_time_us"] // DAY): row for row in built[0].table(LINES).to_pylist()}
    assert lines["ann", 2]["user_mean_target"] is None
    assert lines["ann", 5]["user_mean_target"] == 4.5
    assert lines["ann", 8]["user_mean_target"] == 6.0
    last = dict(zip(lines["ann", 8]["user_history"], lines["ann", 8]["user_history_target"], strict=True))
    assert last == {"p": 9.0, "q": 3.0}
    last = dict(zip(lines["bob", 9]["user_history"], lines["bob", 9]["user_history_target"], strict=True))
    assert last == {"p": 1.0, "q": 0.0}


def test_the_mean_of_a_product_is_of_the_days_before(built):
    means = {(row["day"], row["item_id"]): row["item_mean_target"] for row in built[0].table("products").to_pylist()}
    assert means[2, "p"] is None
    assert means[3, "p"] == 6.0
    assert means[4, "p"] == 8.0
    assert means[9, "q"] == 4.0
    assert max(day for day, _ in means) == 9


def test_every_question_table_says_what_was_paid_so_far(built):
    for name in ("baskets", "eval", "test", "snapshot"):
        assert {"user_mean_target", "user_history_target"} <= set(built[0].table(name).column_names)
    snapshot = {row["user_id"]: row for row in built[0].table("snapshot").to_pylist()}
    assert snapshot["ann"]["user_mean_target"] == 23 / 4


def test_the_check_for_leaks_knows_lines(connection, built):
    tables, users, labelled = built
    refuse_leaks(connection, tables, users, SETTINGS, labelled)
    doubled = labelled.mutate(micros=labelled["micros"] * 2)
    with pytest.raises(ArtifactError, match="user_mean_target changes"):
        refuse_leaks(connection, tables, users, SETTINGS, doubled)


@pytest.mark.parametrize(("asked", "nearest"), [("valu", "value"), ("quantities", "quantity")])
def test_a_target_that_purchases_lack_is_refused_with_the_nearest(asked, nearest, events_of, rows):
    with pytest.raises(ColumnsError, match=f"no numbers called {asked}.*Did you mean {nearest}"):
        labelled_purchases(events_of(rows), TargetSettings(asked, is_logged=True))


def test_means_of_a_logged_target_are_of_logs(connection, events_of, rows):
    labelled = connection.to_pyarrow(labelled_purchases(events_of(rows), TargetSettings("value", is_logged=True)))
    by_line = {(r["user_id"], r["item_id"], r["ts_us"] // DAY): r["micros"] for r in labelled.to_pylist()}
    assert by_line["ann", "p", 5] == round(math.log(10) * 1e6)
    assert by_line["bob", "q", 6] is None
