"""Feature tables by hand: who is asked when, for what, and that nothing later is known."""

import ibis
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from endcap.contracts.configuration import QuestionConfig, SplitConfig
from endcap.contracts.errors import ArtifactError
from endcap.contracts.reporting import Silent
from endcap.engines import duckdb
from endcap.features.dataset import FeatureTables, Settings, build, day_of
from endcap.features.point_in_time import DAY_US
from endcap.features.split import Split
from endcap.workspace.layout import Workspace

DAY = DAY_US
NOON = DAY // 2


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    with duckdb.session(Workspace.init(tmp_path_factory.mktemp("engine"))) as connection:
        yield connection


@pytest.fixture
def build_from(connection, tmp_path):
    """A function that builds the tables of (user, item, moment) triples into a folder of its own."""
    folders = iter(range(1000))

    def run(rows, *, questions=None, max_length=10, fraction=0.2, split=None):
        users, items, moments = zip(*rows, strict=True)
        purchases = ibis.memtable(
            pa.table({
                "user_id": users,
                "item_id": items,
                "ts_us": pa.array(moments, pa.int64()),
                "basket_id": [f"{user}@{moment}" for user, _, moment in rows],
                "price": pa.array([2.0] * len(rows)),
            })
        )  # fmt: skip
        catalog = ibis.memtable(pa.table({"item_id": sorted(set(items)), "title": sorted(set(items))}))
        known = ibis.memtable(pa.table({"user_id": sorted(set(users)), "country": ["Norway"] * len(set(users))}))
        settings = Settings(
            split or SplitConfig(eval_fraction=fraction, test_fraction=fraction),
            questions or QuestionConfig(),
            max_length,
        )
        folder = tmp_path / f"tables-{next(folders)}"
        folder.mkdir()
        return build(connection, purchases, catalog, known, settings, folder, Silent())

    return run


# Ten purchases: the last two are the test period, the two before them the eval period.
SHOP = [
    ("ann", "cup", 10 * DAY + NOON),
    ("ann", "jug", 10 * DAY + NOON),
    ("bob", "cup", 11 * DAY + NOON),
    ("ann", "cup", 12 * DAY + NOON),
    ("ann", "pan", 12 * DAY + NOON + 3600_000_000),
    ("bob", "pan", 40 * DAY + NOON),
    ("bob", "jug", 41 * DAY),
    ("cyd", "cup", 42 * DAY),
    ("ann", "jug", 43 * DAY),
    ("eve", "cup", 44 * DAY),
]


def test_periods_and_who_is_asked(build_from):
    tables = build_from(SHOP)
    assert tables.split == Split(41 * DAY, 43 * DAY, 44 * DAY + 1, 6, 2, 2)

    def asked(name):
        return [(row["user_id"], row["event_time_us"], row["targets"]) for row in tables.table(name).to_pylist()]

    # In each period those are asked who bought in it and before; all at its start. Cyd and Eve came for the first time.
    assert asked("eval") == [("bob", 41 * DAY, ["jug"])]
    assert asked("test") == [("ann", 43 * DAY, ["jug"])]
    snapshot = tables.table("snapshot")
    assert snapshot["user_id"].to_pylist() == ["ann", "bob", "cyd", "eve"]
    assert set(snapshot["event_time_us"].to_pylist()) == {44 * DAY + 1}
    assert "targets" not in snapshot.column_names
    bought = tables.table("purchases")
    assert bought["ts_us"].to_pylist() == sorted(row[2] for row in SHOP)


def test_baskets_are_asked_after_the_basket_before_and_not_for_its_parts(build_from):
    rows = build_from(SHOP, questions=QuestionConfig(lag_days=5)).table("baskets").to_pylist()
    found = {(row["user_id"], row["bought_us"]): row for row in rows}
    # Ann's pan followed her cup by an hour: no question. What is bought in the test period isn't here.
    assert sorted(found) == [
        ("ann", 10 * DAY + NOON), ("ann", 12 * DAY + NOON), ("bob", 11 * DAY + NOON), ("bob", 40 * DAY + NOON),
        ("bob", 41 * DAY), ("cyd", 42 * DAY),
    ]  # fmt: skip
    assert [row["period"] for row in rows] == [
        "train" if row["bought_us"] < 41 * DAY else "eval" for row in rows
    ]  # fmt: skip
    for user, bought_us in (("ann", 10 * DAY + NOON), ("bob", 11 * DAY + NOON), ("cyd", 42 * DAY)):
        assert found[user, bought_us]["event_time_us"] == bought_us  # the first basket has none before it
        assert found[user, bought_us]["user_history"] == []
    again = found["ann", 12 * DAY + NOON]
    assert 10 * DAY + NOON < again["event_time_us"] <= 12 * DAY + NOON
    assert again["targets"] == ["cup"]
    assert sorted(again["user_history"]) == ["cup", "jug"]
    late = found["bob", 40 * DAY + NOON]
    assert 35 * DAY + NOON <= late["event_time_us"] <= 40 * DAY + NOON


def test_no_lag_asks_at_the_moment_of_the_basket(build_from):
    for row in build_from(SHOP, questions=QuestionConfig(lag_days=0)).table("baskets").to_pylist():
        assert row["event_time_us"] == row["bought_us"]


def test_histories_are_cut_to_the_last_products(build_from):
    (row,) = (row for row in build_from(SHOP, max_length=2).table("snapshot").to_pylist() if row["user_id"] == "ann")
    assert row["user_history"] == ["pan", "jug"]
    assert row["user_history_count"] == [1, 2]
    assert row["user_history_age_days"] == pytest.approx([31.458333, 1.0], abs=1e-5)


def test_catalogs_of_every_day_to_the_first_of_the_test_period(build_from):
    tables = build_from(SHOP)
    days = tables.table("products")["day"].unique().to_pylist()
    assert days == list(range(10, 44))
    assert day_of(43 * DAY) == 43
    assert day_of(43 * DAY - 1) == 42
    first, later = tables.products_on(10), tables.products_on(13)
    assert first["item_id"].to_pylist() == ["cup", "jug", "pan"]
    assert first["days_since_first_sold"].to_pylist() == [None, None, None]
    assert later["days_since_first_sold"].to_pylist() == [3.0, 3.0, 1.0]
    assert tables.products_until(12).num_rows == 9


def test_the_same_purchases_give_the_same_files(build_from):
    first, second = build_from(SHOP), build_from(SHOP[::-1])
    for name in ("baskets", "eval", "test", "snapshot", "products", "purchases"):
        assert first.table(name).equals(second.table(name)), name


# Ann buys four times, Bob three times, Cyd twice, Eve once.
RETURNING = [
    ("ann", "cup", 10 * DAY), ("ann", "jug", 20 * DAY), ("ann", "pan", 30 * DAY), ("ann", "cup", 40 * DAY),
    ("ann", "urn", 40 * DAY), ("bob", "cup", 15 * DAY), ("bob", "jug", 45 * DAY), ("bob", "pan", 50 * DAY),
    ("cyd", "cup", 12 * DAY), ("cyd", "jug", 35 * DAY), ("eve", "cup", 60 * DAY),
]  # fmt: skip


def test_the_last_baskets_of_customers(build_from):
    tables = build_from(RETURNING, split=SplitConfig(kind="leave_last_out"), questions=QuestionConfig(lag_days=0))
    end = 60 * DAY + 1
    assert tables.split == Split(end, end, end, 5, 2, 4, "leave_last_out")

    def asked(name):
        return [
            (row["user_id"], row["event_time_us"] // DAY, row["targets"], row["user_history"])
            for row in sorted(tables.table(name).to_pylist(), key=lambda row: row["user_id"])
        ]

    assert asked("eval") == [("ann", 30, ["pan"], ["cup", "jug"]), ("bob", 45, ["jug"], ["cup"])]
    assert asked("test") == [
        ("ann", 40, ["cup", "urn"], ["cup", "jug", "pan"]), ("bob", 50, ["pan"], ["cup", "jug"]), ("cyd", 35, ["jug"], ["cup"]),
    ]  # fmt: skip
    parts = [(row["user_id"], row["bought_us"] // DAY, row["period"]) for row in tables.table("baskets").to_pylist()]
    assert sorted(parts) == [
        ("ann", 10, "train"), ("ann", 20, "train"), ("ann", 30, "eval"), ("bob", 15, "train"), ("bob", 45, "eval"),
        ("cyd", 12, "train"), ("eve", 60, "train"),
    ]  # fmt: skip
    # The catalog counts what is trained on alone: the pan and the urn were only ever held out.
    catalog = {row["item_id"]: row for row in tables.products_on(60).to_pylist()}
    assert catalog["pan"]["days_since_first_sold"] is None
    assert catalog["cup"]["days_since_last_sold"] == 45.0
    assert catalog["jug"]["days_since_last_sold"] == 40.0
    purchases, is_known = tables.purchases_before("test")
    assert is_known.sum() == 7
    assert tables.purchases_before("eval")[1].sum() == 5
    assert set(purchases.filter(pa.array(~is_known))["period"].to_pylist()) == {"test"}


def test_held_out_baskets_are_asked_for_earlier_like_the_others(build_from):
    tables = build_from(RETURNING, split=SplitConfig(kind="leave_last_out"), questions=QuestionConfig(lag_days=5))
    moments = {row["user_id"]: row["event_time_us"] for row in tables.table("test").to_pylist()}
    assert 35 * DAY < moments["ann"] <= 40 * DAY
    assert 45 * DAY < moments["bob"] <= 50 * DAY


PURCHASES = st.lists(
    st.tuples(st.sampled_from(["ann", "bob", "cyd"]), st.sampled_from(["cup", "jug", "pan"]), st.integers(0, 60)),
    min_size=12, max_size=24, unique=True,
)  # fmt: skip


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=PURCHASES)
def test_nothing_at_or_after_a_question_is_known_to_it(build_from, rows):
    """Each question against plain Python over the purchases before its moment."""
    rows = [(user, item, (hours + 48) * DAY // 4) for user, item, hours in rows]
    if len({moment for *_, moment in rows}) < 10:
        return
    tables = build_from(rows, fraction=0.3)
    split = tables.split
    for name in ("baskets", "eval", "test", "snapshot"):
        for row in tables.table(name).to_pylist():
            moment = row["event_time_us"]
            before = [(item, at) for user, item, at in rows if user == row["user_id"] and at < moment]
            assert row["num_baskets"] == len({at for _, at in before})
            assert row["num_products"] == len({item for item, _ in before})
            assert dict(zip(row["user_history"], row["user_history_count"], strict=True)) == {
                item: sum(other == item for other, _ in before) for item, _ in before
            }
            last = {item: max(at for other, at in before if other == item) for item, _ in before}
            assert [last[item] for item in row["user_history"]] == sorted(last.values())
            if name == "baskets":
                assert moment <= row["bought_us"] < split.test_start_us
                assert row["targets"] == sorted(
                    {i for u, i, at in rows if (u, at) == (row["user_id"], row["bought_us"])}
                )
                assert (row["period"] == "train") == (row["bought_us"] < split.eval_start_us)
                assert not any(moment <= at < row["bought_us"] for u, _, at in rows if u == row["user_id"])


def test_a_table_that_is_damaged_is_named(tmp_path):
    tables = FeatureTables(tmp_path, Split(0, 1, 2, 1, 1, 1))
    with pytest.raises(ArtifactError, match=r"test\.parquet can't be read"):
        tables.table("test")
    (tmp_path / "products.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(ArtifactError, match=r"products\.parquet can't be read.*endcap features"):
        tables.products_on(3)
