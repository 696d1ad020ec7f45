"""Views and carts beside purchases: what they add to histories and questions, when, and that nothing later is known."""

import ibis
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.configuration import QuestionConfig, SplitConfig
from endcap.contracts.errors import ArtifactError
from endcap.contracts.reporting import Silent
from endcap.engines import duckdb
from endcap.features import dataset, leaks
from endcap.features.point_in_time import DAY_US, history
from endcap.features.signals import acts_of, signals_of
from endcap.workspace.layout import Workspace

DAY = DAY_US
TYPES = ("purchase", "add_to_cart", "view_item")
ASKED = QuestionConfig(lag_days=0, min_gap_days=0, event_types={"purchase": 1.0, "add_to_cart": 0.5, "view_item": 0.25})
EVENTS = [
    ("ann", "cup", "view_item", 1 * DAY + 5),
    ("ann", "cup", "view_item", 1 * DAY + 9),
    ("ann", "jug", "view_item", 1 * DAY + 9),
    ("ann", "cup", "add_to_cart", 2 * DAY),
    ("ann", "cup", "purchase", 2 * DAY + 7),
    ("bob", "pan", "view_item", 3 * DAY),
    ("bob", "jug", "purchase", 4 * DAY),
    ("ann", "jug", "purchase", 10 * DAY),
    ("ann", "pan", "view_item", 11 * DAY),
    ("bob", "cup", "purchase", 20 * DAY),
    ("ann", "pan", "purchase", 21 * DAY),
    ("ann", "cup", "view_item", 22 * DAY),
    ("ann", "cup", "search", 3 * DAY),
]
USERS = ibis.memtable(pa.table({"user_id": ["ann", "bob"], "country": ["Norway", None]}))
ITEMS = ibis.memtable(pa.table({"item_id": ["cup", "jug", "pan"], "title": ["C", "J", "P"]}))


def events():
    users, items, types, moments = zip(*EVENTS, strict=True)
    table = pa.table({"user_id": users, "item_id": items, "event_type": types, "ts_us": pa.array(moments, pa.int64())})
    return ibis.memtable(table)


def purchases():
    bought = events().filter(ibis._.event_type == "purchase").drop("event_type")
    made = bought.user_id + "@" + bought.ts_us.cast("string")
    return bought.mutate(basket_id=made, price=ibis.literal(2.0).cast("decimal(18, 4)"))


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    with duckdb.session(Workspace.init(tmp_path_factory.mktemp("engine"))) as connection:
        yield connection


@pytest.fixture
def build(connection, tmp_path):
    def run(kind="time", types=TYPES, questions=ASKED):
        share = {} if kind == "leave_last_out" else {"eval_fraction": 0.2, "test_fraction": 0.2}
        settings = dataset.Settings(SplitConfig(kind=kind, **share), questions, 10, None, types)
        folder = tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        signals = signals_of(events(), settings.signal_types) if settings.signal_types else None
        tables = dataset.build(connection, purchases(), ITEMS, USERS, settings, folder, Silent(), None, signals)
        return tables, lambda: leaks.refuse_leaks(connection, tables, USERS, settings, None, signals)

    return run


def test_a_history_of_several_types_counts_each():
    spine = ibis.memtable(
        pa.table({"query_num": [0, 1], "user_id": ["ann", "ann"], "event_time_us": [2 * DAY, 12 * DAY]})
    )
    acts = acts_of(purchases(), signals_of(events(), TYPES), TYPES)
    rows = history(spine, acts, 10, TYPES).order_by("query_num", "rank").to_pyarrow().to_pylist()
    told = [
        (
            row["query_num"],
            row["item_id"],
            row["count"],
            row["num_purchase"],
            row["num_add_to_cart"],
            row["num_view_item"],
        )
        for row in rows
    ]
    assert told == [  # the cart at the first question's own moment doesn't count yet
        (0, "cup", 2, 0, 0, 2),
        (0, "jug", 1, 0, 0, 1),
        (1, "pan", 1, 0, 0, 1),
        (1, "jug", 2, 1, 0, 1),
        (1, "cup", 4, 1, 1, 2),
    ]
    assert rows[1]["age_days"] == pytest.approx((DAY - 9) / DAY)


def test_questions_that_signals_answer(build):
    tables, check = build()
    check()
    rows = tables.table("baskets").to_pylist()
    told = [(row["user_id"], row["bought_us"] // DAY, row["targets"], row["weight"], row["period"]) for row in rows]
    assert told == [
        ("ann", 1, ["cup"], 0.25, "train"),
        ("ann", 1, ["cup", "jug"], 0.25, "train"),
        ("ann", 2, ["cup"], 0.5, "train"),
        ("ann", 2, ["cup"], 1.0, "train"),
        ("bob", 3, ["pan"], 0.25, "train"),
        ("bob", 4, ["jug"], 1.0, "train"),
        ("ann", 10, ["jug"], 1.0, "train"),
        ("ann", 11, ["pan"], 0.25, "train"),
        ("bob", 20, ["cup"], 1.0, "eval"),
    ]
    assert rows[3]["user_history"] == ["jug", "cup"]
    assert rows[3]["user_history_num_add_to_cart"] == [0, 1]
    assert [len(row["user_history"]) for row in tables.table("snapshot").to_pylist()] == [3, 3]


def test_what_is_measured_are_purchases_alone(build):
    alone = {"purchase": 1.0, "view_item": 0.0}  # a weight of 0 takes a type away
    plain, _ = build(types=("purchase",), questions=ASKED.model_copy(update={"event_types": alone}))
    tables, _ = build()
    for name in ("eval", "test"):
        asked = ["user_id", "event_time_us", "targets"]
        assert tables.table(name).select(asked) == plain.table(name).select(asked)
    assert tables.split == plain.split
    assert "weight" not in plain.table("baskets").column_names
    assert "user_history_num_purchase" not in plain.table("test").column_names


def test_a_product_is_new_until_somebody_met_it(build):
    tables, _ = build()
    first = {(row["day"], row["item_id"]): row["days_since_first_seen"] for row in tables.table("products").to_pylist()}
    assert [first[day, "pan"] for day in (1, 3, 4, 6)] == [None, None, 1.0, 3.0]


def test_what_comes_after_a_held_out_basket_teaches_nothing(build):
    tables, check = build("leave_last_out")
    check()
    rows = tables.table("baskets").to_pylist()
    ann = [(row["bought_us"] // DAY, row["period"]) for row in rows if row["user_id"] == "ann"]
    assert ann == [(1, "train"), (1, "train"), (2, "train"), (2, "train"), (10, "eval"), (11, "eval")]

    baskets = tables.table("baskets")
    late = [DAY * 30 if row["user_id"] == "ann" else row["bought_us"] for row in rows]
    place = baskets.schema.get_field_index("bought_us")
    pq.write_table(baskets.set_column(place, "bought_us", pa.array(late)), tables.folder / "baskets.parquet")
    with pytest.raises(ArtifactError, match="after a held-out basket"):
        check()


def test_a_history_that_knows_the_moment_itself_is_refused(build, monkeypatch):
    honest = dataset.history

    def sees_more(spine, acts, *rest):
        return honest(spine, acts.mutate(ts_us=acts.ts_us - 1), *rest)

    monkeypatch.setattr(dataset, "history", sees_more)
    _, check = build()
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match=r"user_history.* changes when what happened"):
        check()
