"""A leak of each kind, planted: the check finds it and says where."""

import shutil
from decimal import Decimal

import ibis
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from endcap.contracts.configuration import QuestionConfig, SplitConfig
from endcap.contracts.errors import ArtifactError
from endcap.contracts.events import US_PER_DAY
from endcap.contracts.reporting import Silent
from endcap.engines import duckdb
from endcap.features import dataset, leaks
from endcap.features.point_in_time import buyer_features
from endcap.workspace.layout import Workspace

DAY = US_PER_DAY
KINDS = ("time", "leave_last_out", "random")


@pytest.fixture(scope="module")
def connection(tmp_path_factory):
    with duckdb.session(Workspace.init(tmp_path_factory.mktemp("engine"))) as connection:
        yield connection


def shop():
    rng = np.random.default_rng(4)
    rows = sorted(
        {
            (f"u{user:02d}", f"p{int(item):02d}", int(day) * DAY + int(second) * 1_000_000)
            for user in range(50)
            for item, day, second in zip(rng.integers(0, 20, 9), rng.integers(0, 60, 9), rng.integers(0, 86_400, 9), strict=True)
        }
    )  # fmt: skip
    users, items, moments = zip(*rows, strict=True)
    return ibis.memtable(
        pa.table({
            "user_id": users, "item_id": items, "ts_us": pa.array(moments, pa.int64()),
            "basket_id": [f"{user}@{moment}" for user, _, moment in rows],
            "price": pa.array([Decimal(1 + int(item[1:])) for item in items], pa.decimal128(18, 4)),
        })
    )  # fmt: skip


USERS = ibis.memtable(pa.table({"user_id": [f"u{user:02d}" for user in range(50)], "country": ["Norway"] * 50}))
ITEMS = ibis.memtable(
    pa.table({"item_id": [f"p{n:02d}" for n in range(20)], "title": [f"p{n:02d}" for n in range(20)]})
)


def settings_of(kind):
    share = {} if kind == "leave_last_out" else {"eval_fraction": 0.2, "test_fraction": 0.2}
    return dataset.Settings(SplitConfig(kind=kind, **share), QuestionConfig(), 8)


def build(connection, folder, kind):
    folder.mkdir()
    return dataset.build(connection, shop(), ITEMS, USERS, settings_of(kind), folder, Silent())


@pytest.fixture(scope="module")
def originals(connection, tmp_path_factory):
    return {kind: build(connection, tmp_path_factory.mktemp("built") / kind, kind) for kind in KINDS}


@pytest.fixture
def built(originals, tmp_path):
    """A function that gives a copy of the tables of a split, to be spoilt."""

    def copy(kind="time"):
        folder = tmp_path / kind
        shutil.copytree(originals[kind].folder, folder)
        return msgspec.structs.replace(originals[kind], folder=folder)

    return copy


@pytest.fixture
def check(connection):
    return lambda tables: leaks.refuse_leaks(connection, tables, USERS, settings_of(tables.split.kind))


def change(tables, name, edit):
    path = tables.folder / f"{name}.parquet"
    pq.write_table(edit(pq.read_table(path)), path)


def replaced(table, column, values):
    return table.set_column(table.schema.get_field_index(column), column, values)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_built_is_clean(built, check, kind):
    check(built(kind))


def test_features_that_see_the_moment_itself(connection, tmp_path, check, monkeypatch):
    def sees_more(spine, purchases, users):
        late = spine.mutate(event_time_us=spine.event_time_us + 5 * DAY)
        return buyer_features(late, purchases, users).mutate(event_time_us=ibis._.event_time_us - 5 * DAY)

    monkeypatch.setattr(dataset, "buyer_features", sees_more)
    with pytest.raises(ArtifactError, match=r"baskets\.\w+ changes when what happened at or after a question's moment"):
        check(build(connection, tmp_path / "seen", "time"))


def test_one_feature_of_one_table(built, check):
    tables = built()
    change(tables, "test", lambda t: replaced(t, "num_baskets", pc.add(t["num_baskets"], 1)))
    with pytest.raises(ArtifactError, match=r"test\.num_baskets changes"):
        check(tables)


def test_histories_that_hold_the_basket_itself(built, check):
    tables = built("leave_last_out")
    change(tables, "test", lambda t: replaced(t, "user_history", t["targets"]))
    with pytest.raises(ArtifactError, match=r"Leak: test\.user_history equals the target in all"):
        check(tables)


def test_a_target_among_the_features(built, check):
    tables = built("leave_last_out")
    change(tables, "eval", lambda t: t.append_column("hint", t["targets"]))
    with pytest.raises(ArtifactError, match=r"eval\.hint equals the target in all .* expected a feature to know less"):
        check(tables)


@pytest.mark.parametrize(
    ("target", "feature", "is_leak"),
    [
        (pa.array([0, 1] * 20), pa.array([0.0, 1.0] * 20), True), (pa.array([0, 1] * 20), pa.array([False, True] * 20), True),
        (pa.array([["b", "a"], ["c"]] * 20), pa.array([["a", "b"], ["c"]] * 20), True),
        (pa.array([["a"], ["c"]] * 20), pa.array(["a", "c"] * 20), True),
        (pa.array([0, 1] * 20), pa.array([0, 1] * 19 + [0, 2]), False), (pa.array([0, 1] * 5), pa.array([0, 1] * 5), False),
        (pa.array([1] * 40), pa.array([1] * 40), False), (pa.array([0, 1] * 20), pa.nulls(40), False),
    ],
)  # fmt: skip
def test_what_counts_as_the_target(target, feature, is_leak):
    table, column = pa.table({"query_num": range(len(target)), "hint": feature}), pa.chunked_array([target])
    if is_leak:
        with pytest.raises(ArtifactError, match=r"mine\.hint equals the target"):
            leaks.refuse_targets_among_features("mine", table, column)
    else:
        leaks.refuse_targets_among_features("mine", table, column)


@pytest.mark.parametrize("kind", KINDS)
def test_a_purchase_in_two_parts(built, check, kind):
    tables = built(kind)

    def twice(table):
        row = table.filter(pc.equal(table["period"], "test")).slice(0, 1)
        return pa.concat_tables([table, replaced(row, "period", pa.array(["train"]))])

    change(tables, "purchases", twice)
    with pytest.raises(ArtifactError, match=r"1 purchases .* stand in two parts of the split"):
        check(tables)


def test_periods_that_overlap(built, check):
    tables = built()
    change(tables, "purchases", lambda t: replaced(t, "period", pa.array(t["period"].to_pylist()[::-1])))
    with pytest.raises(ArtifactError, match="the periods overlap in time"):
        check(tables)


def test_training_after_a_held_out_basket(built, check):
    tables = built("leave_last_out")
    turned = {"train": "test", "test": "train", "eval": "eval"}
    change(tables, "purchases", lambda t: replaced(t, "period", pa.array([turned[p] for p in t["period"].to_pylist()])))
    with pytest.raises(ArtifactError, match="customers bought something to train on after a held-out basket"):
        check(tables)


def test_customers_trained_on_and_held_out(built, check):
    tables = built("random")
    turned = {"context": "train"}
    change(
        tables,
        "purchases",
        lambda t: replaced(t, "period", pa.array([turned.get(p, p) for p in t["period"].to_pylist()])),
    )
    with pytest.raises(ArtifactError, match="customers are both trained on and held out"):
        check(tables)


def test_train_questions_of_a_later_period(built, check):
    tables = built()
    change(tables, "baskets", lambda t: replaced(t, "period", pa.array(["train"] * t.num_rows)))
    with pytest.raises(ArtifactError, match="train questions ask for baskets of the eval or test period"):
        check(tables)
    tables = built("random")
    change(tables, "baskets", lambda t: replaced(t, "period", pa.array(["train"] * t.num_rows)))
    with pytest.raises(ArtifactError, match="targets of questions are purchases of another part"):
        check(tables)


def test_questions_after_their_basket(built, check):
    tables = built()
    change(tables, "baskets", lambda t: replaced(t, "bought_us", pc.subtract(t["event_time_us"], 1)))
    with pytest.raises(ArtifactError, match="are asked after their basket"):
        check(tables)


def test_catalogs_of_later_days(built, check):
    tables = built()
    change(tables, "products", lambda t: replaced(t, "day", pc.add(t["day"], 1)))
    with pytest.raises(ArtifactError, match="the catalog has 20 rows after day"):
        check(tables)


@pytest.mark.parametrize("column", ["days_since_last_sold", "price", "purchases_7d_per_10k", "purchases_per_10k"])
def test_catalogs_that_count_their_own_day(built, check, column):
    tables = built()

    def tomorrow(table):
        later = {(r["day"] - 1, r["item_id"]): r[column] for r in table.to_pylist()}
        mine = [
            later.get((r["day"], r["item_id"]), r[column]) for r in table.select(["day", "item_id", column]).to_pylist()
        ]
        return replaced(table, column, pa.array([None if v is None else v + 0.5 for v in mine], pa.float64()))

    change(tables, "products", tomorrow)
    with pytest.raises(
        ArtifactError, match=f"{column} of .* products on day .* isn't what purchases before that day give"
    ):
        check(tables)


def test_catalogs_that_count_held_out_baskets(connection, tmp_path, check, monkeypatch):
    whole = dataset.product_features
    monkeypatch.setattr(dataset, "product_features", lambda purchases, *rest: whole(shop(), *rest))
    with pytest.raises(ArtifactError, match=r"products on day .* isn't what purchases before that day give"):
        check(build(connection, tmp_path / "all", "leave_last_out"))
