"""Every type of column and every transform in one model: it trains a step, is exported, and torch equals ONNX."""

from __future__ import annotations

import datetime
from decimal import Decimal
from pathlib import Path

import ibis
import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
import torch

from endcap.contracts.configuration import Configuration
from endcap.contracts.features import FeatureConfig
from endcap.contracts.release import Retrieval
from endcap.contracts.reporting import Silent
from endcap.features.fitted import FittedFeatures, fit
from endcap.flows.scoring import feed
from endcap.retrieval.merged import write_merged_graph
from endcap.training.data import Catalog, Questions, questions_of
from endcap.training.export import BOOSTS, VECTOR, export_items, export_query, history_spec, item_vectors
from endcap.training.loop import Trained, fit_model

DAY_US = 86_400_000_000
ITEMS = [f"p{number}" for number in range(9)]
EVERY_PERIOD = ["hour", "day_of_week", "day_of_month", "month", "day_of_year", "week"]
NUMBER = {"clip": {"p_low": 0.1, "p_high": 0.9}, "log": {}, "normalize": {}, "bucketize": {"n": 3, "dim": 2}}
FEATURES = {
    "buyer": {
        "user_id": {"type": "STRING", "is_primary_id": True, "embedding": {"dim": 3, "min_count": 2}},
        "segment": {"type": "INTEGER", "embedding": {"dim": 2, "max_vocab": 2, "oov": 5}, **NUMBER},
        "city": {"type": "STRING", "embedding": {"dim": 2, "max_vocab": 0, "oov": 6}, "text": {"min_count": 1}},
        "tag": {"type": "BYTES", "embedding": {"dim": 2}},
        "spent": {"type": "NUMERIC", **NUMBER},
        "is_member": {"type": "BOOL", "embedding": {"dim": 1}, "normalize": {}},
        "event_time_us": {"type": "TIMESTAMP", "cyclical": {"period": EVERY_PERIOD}},
        "joined": {"type": "DATE", "cyclical": {"period": "month"}},
        "last_mail": {"type": "DATETIME", "cyclical": {"period": "hour"}},
        "interests": {"type": "STRING", "multi_hot": {"dim": 2}},
        "num_baskets": {"type": "INT64", "bucketize": {"n": 2, "dim": 2}},
        "user_history": {"type": "STRING", "sequence": {"max_length": 4}},
    },
    "product": {
        "item_id": {"type": "STRING", "is_primary_id": True, "embedding": {"dim": 6}},
        "title": {"type": "STRING", "text": {"dim": 3, "min_count": 1, "ngrams": 3}, "embedding": {"dim": 2}},
        "category": {"type": "STRING", "multi_hot": {"dim": 2, "separator": " > "}, "embedding": {"dim": 2}},
        "colours": {"type": "STRING", "multi_hot": {"dim": 2}},
        "price": {"type": "FLOAT64", **NUMBER},
        "in_stock": {"type": "BOOLEAN", "normalize": {}},
    },
    "crosses": {
        "city_at_hour": {"columns": ["city", "last_mail"], "n": 11, "dim": 2},
        "mail_of_regulars": {"columns": ["num_baskets", "spent", "is_member"], "n": 7, "dim": 2},
        "priced_category": {"side": "product", "columns": ["category", "price"], "n": 5, "dim": 3},
    },
}  # fmt: skip


def buyers(num: int, seed: int) -> pa.Table:
    """Questions of every type, each column missing now and then; lists of every length."""
    rng = np.random.default_rng(seed)

    def some(values: list, kind: pa.DataType) -> pa.Array:
        drawn = [values[place] for place in rng.integers(0, len(values), num)]
        return pa.array([None if rng.random() < 0.2 else value for value in drawn], kind)

    def lists(values: list, most: int) -> list:
        return [list(rng.choice(values, int(rng.integers(0, most + 1)), replace=False)) for _ in range(num)]

    history = lists([*ITEMS, "gone", ""], 4)
    days = [datetime.date(1969, 12, 31), datetime.date(2024, 2, 29), datetime.date(2026, 11, 21)]
    return pa.table({
        "user_id": pa.array([str(rng.choice(["ann", "bob", "Zoë", ""])) for _ in range(num)]),
        "segment": some([1, 2, 3, -7, 2**40, 2**63 - 1], pa.int64()),
        "city": some(["Oslo", "Côte d'Azur", "東京", "", "New  York"], pa.string()).dictionary_encode(),
        "tag": some([b"", b"\xff\x00", b"abc"], pa.binary()),
        "spent": some([Decimal("0.01"), Decimal("19.99"), Decimal("12345.67"), Decimal("-3")], pa.decimal128(18, 4)),
        "is_member": some([True, False], pa.bool_()),
        "event_time_us": pa.array((100 * DAY_US + rng.integers(0, DAY_US, num)).tolist(), pa.int64()),
        "joined": some(days, pa.date32()),
        "last_mail": some([datetime.datetime(2026, 11, 21, hour) for hour in (0, 5, 23)], pa.timestamp("ns")),
        "interests": pa.array([row or None for row in lists(["garden", "tea", None], 2)], pa.list_(pa.string())),
        "num_baskets": some([0, 1, 5, 90], pa.int64()),
        "user_history": pa.array(history, pa.list_(pa.string())),
        "user_history_age_days": pa.array([rng.exponential(9, len(row)).tolist() for row in history], pa.list_(pa.float64())),
        "user_history_count": pa.array([rng.integers(1, 9, len(row)).tolist() for row in history], pa.list_(pa.int64())),
        "targets": pa.array([[str(rng.choice(ITEMS))] for _ in range(num)], pa.list_(pa.string())),
    })  # fmt: skip


def catalog_rows(day: int = 100) -> pa.Table:
    """Products of one day."""
    places = range(len(ITEMS))
    return pa.table({
        "day": pa.array([day] * len(ITEMS), pa.int64()),
        "item_id": ITEMS,
        "title": [f"{('RED', 'Blue', 'tall')[n % 3]} cup of tea No {n}" if n != 4 else "" for n in places],
        "category": pa.array([("home > kitchen > cups", "home", None, "garden > cups")[n % 4] for n in places]),
        "colours": pa.array([(["red", "blue"], [], None, ["red", None])[n % 4] for n in places], pa.list_(pa.string())),
        "price": pa.array([None if n == 7 else n * 1.5 for n in places], pa.float64()),
        "in_stock": pa.array([None if n == 5 else n % 2 == 0 for n in places], pa.bool_()),
    })  # fmt: skip


@pytest.fixture(scope="module")
def fitted() -> FittedFeatures:
    """Every transform fitted on sixty questions and nine products."""
    features = FeatureConfig.model_validate(FEATURES)
    asked = buyers(60, 1).drop_columns(["targets"])
    return fit(features, ibis.memtable(asked), ibis.memtable(catalog_rows().drop_columns(["day"])))


@pytest.fixture(scope="module")
def catalog(fitted: FittedFeatures) -> Catalog:
    """The catalog of the questions' day."""
    return Catalog(fitted, catalog_rows())


@pytest.fixture(scope="module")
def trained(fitted: FittedFeatures, catalog: Catalog) -> Trained:
    """A model after two epochs."""
    shape = {"buyer_tower": [{"units": 6}], "product_tower": [{"units": 4}], "output_embedding_dim": 7}
    settings = {"num_epochs": 2, "batch_size": 16, "num_negatives": 6, "profile_dropout": 0.5}
    configuration = Configuration.model_validate(
        {"experiment": "every", "features": FEATURES, "model": shape, "training": settings}
    )
    return fit_model(configuration, fitted, catalog, questions_of(fitted, buyers(60, 1)), 101 * DAY_US, Silent())


def test_it_learns_of_every_table(trained: Trained, fitted: FittedFeatures) -> None:
    assert all(np.isfinite(record.loss) for record in trained.epochs)
    (towers,) = trained.model.members
    tables = [*towers.query_tower.encoder.tables.values(), *towers.item_tower.encoder.tables.values()]
    embedded = [
        column for side in ("buyer", "product") for column in fitted.columns(side) if column.kind in ("index", "bag")
    ]
    assert len(tables) == len(embedded) - 1  # the products' ids have a table of their own
    assert all(table.weight.isfinite().all() for table in tables)


def answers(path: Path, feeds: dict, names: list[str]) -> list:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(names, feeds)


@pytest.fixture(scope="module")
def query_graph(
    trained: Trained, fitted: FittedFeatures, catalog: Catalog, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The exported query graph."""
    path = tmp_path_factory.mktemp("query") / "query.onnx"
    with torch.no_grad():
        export_query(trained.model.eval(), fitted, trained.model.products(catalog.on(100)), path)
    return path


@pytest.mark.parametrize("num", [1, 2, 50])
def test_query_graph_equals_the_model(
    num: int, trained: Trained, fitted: FittedFeatures, catalog: Catalog, query_graph: Path
) -> None:
    model, asked = trained.model.eval(), buyers(num, 7 + num)
    with torch.no_grad():
        tensors, history = questions_of(fitted, asked).batch(np.arange(num))
        vector_BD, repeat_E = model.query(tensors, model.products(catalog.on(100)), history)
    feeds = {tensor.name: feed(tensor, asked) for tensor in fitted.raw_inputs("buyer")}
    vectors, boosts = answers(query_graph, feeds, [VECTOR, BOOSTS])
    np.testing.assert_allclose(vectors, vector_BD.numpy(), rtol=1e-4, atol=1e-5)
    lengths = asked["user_history"].combine_chunks().value_lengths().to_pylist()
    found = [boosts[row, :length] for row, length in enumerate(lengths)]
    np.testing.assert_allclose(np.concatenate(found), repeat_E.numpy(), rtol=1e-4, atol=1e-4)


def test_item_graph_equals_the_model(
    trained: Trained, fitted: FittedFeatures, catalog: Catalog, tmp_path: Path
) -> None:
    model, path, rows = trained.model.eval(), tmp_path / "item.onnx", catalog_rows()
    with torch.no_grad():
        vector_ND = model.products(catalog.on(100)).vector_ND.numpy()
    export_items(model, fitted, path)
    feeds = {tensor.name: feed(tensor, rows) for tensor in fitted.raw_inputs("product")}
    order = [catalog.item_ids.index(item) + 1 for item in ITEMS]
    np.testing.assert_allclose(answers(path, feeds, [VECTOR])[0], vector_ND[order], rtol=1e-4, atol=1e-5)


def test_a_cross_is_hidden_with_what_tells_of_past_purchases(fitted: FittedFeatures) -> None:
    """A cross of a hidden column and a shown one is what it would be for a stranger with the same shown columns."""
    asked = buyers(40, 3)
    hidden: Questions = questions_of(fitted, asked)
    shown, _ = hidden.batch(np.arange(40), hide_profile=np.ones(40, bool))
    place = asked.schema.get_field_index("num_baskets")
    stranger = questions_of(fitted, asked.set_column(place, "num_baskets", pa.array([0] * 40, pa.int64())))
    expected, _ = stranger.batch(np.arange(40))
    for name in expected:
        assert torch.equal(shown[name], expected[name]), name
    before, _ = hidden.batch(np.arange(40))
    assert not torch.equal(before["mail_of_regulars.cross"], expected["mail_of_regulars.cross"])


def test_the_merged_graph_keeps_the_hash_of_the_runtime(
    trained: Trained, fitted: FittedFeatures, catalog: Catalog, query_graph: Path, tmp_path: Path
) -> None:
    """`model.onnx` answers from raw features too: the operator that is ONNX Runtime's own comes with its domain."""
    with torch.no_grad():
        vectors = item_vectors(trained.model.eval().products(catalog.on(100)))
    spec = history_spec(fitted, has_boosts=True)
    retrieval = Retrieval("brute_force", VECTOR, vectors.shape[1], len(vectors), 3, "STRING", "user_id", spec)
    write_merged_graph(tmp_path / "model.onnx", query_graph, vectors, catalog.item_ids, retrieval)
    asked = buyers(5, 11)
    feeds = {tensor.name: feed(tensor, asked) for tensor in fitted.raw_inputs("buyer")}
    ids, scores = answers(tmp_path / "model.onnx", feeds, ["product_ids", "scores"])
    found = answers(query_graph, feeds, [VECTOR, BOOSTS])
    best = (found[0] @ vectors.T).astype(np.float64)
    for row, history in enumerate(asked["user_history"].to_pylist()):
        for place, item in enumerate(history):
            if item in catalog.item_ids:
                best[row, catalog.item_ids.index(item)] += found[1][row, place]
    np.testing.assert_allclose(scores, -np.sort(-best, axis=1)[:, :3], rtol=1e-4, atol=1e-4)
    assert set(ids.reshape(-1)) <= set(ITEMS)
