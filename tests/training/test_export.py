"""The exported graphs say what the model says, on any raw input, batch size and length of history."""

import numpy as np
import onnx
import onnxruntime as ort
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from msgspec import structs
from safetensors.torch import load_file

from endcap.contracts.release import CANDIDATE_IDS, CANDIDATE_VECTORS, ITEM_GRAPH, QUERY_GRAPH
from endcap.features.transforms.graph import IR_VERSION, MISSING_INT64, OPSET
from endcap.flows.fitting import read_features
from endcap.flows.packing import buyer_inputs
from endcap.flows.scoring import feed
from endcap.models.item_map import MapTables
from endcap.models.neighbors import NeighborTables
from endcap.models.two_tower import TwoTower
from endcap.serving.predictor import Predictor
from endcap.training.data import Catalog, questions_of
from endcap.training.export import (
    BOOSTS,
    NEIGHBOR_BOOSTS,
    NEIGHBOR_ITEMS,
    VECTOR,
    export_items,
    export_query,
    history_spec,
    item_vectors,
)

DAY_US = 86_400_000_000


def session_of(path):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def feeds_of(tensors, table):
    return {tensor.name: feed(tensor, table) for tensor in tensors}


@pytest.fixture(scope="module")
def shop(trained_shop):
    """The trained shop's model read back from its checkpoint, its catalog of the release's day, its release."""

    class Shop:
        folder = trained_shop.workspace.runs / trained_shop.result.run_id / "checkpoint"
        release = trained_shop.result.release
        fitted = read_features(folder)

    shop = Shop()
    tables = trained_shop.workspace.features / next(
        path.name for path in trained_shop.workspace.features.iterdir() if path.is_dir()
    )
    products = pq.read_table(tables / "products.parquet")
    shop.day = max(products["day"].to_pylist())
    shop.catalog = Catalog(shop.fitted, products)
    columns = [shop.fitted.columns(side) for side in ("buyer", "product")]
    shop.model = TwoTower(*columns, "item_id", trained_shop.configuration.model)
    shop.model.load_state_dict(load_file(shop.folder / "model.safetensors"))
    shop.model.eval()
    with torch.no_grad():
        shop.products = shop.model.products(shop.catalog.on(shop.day))
    return shop


def random_buyers(rng, num, max_length, item_ids):
    """Raw rows of every kind: known and unknown ids, missing values, histories of any length with strange products."""
    items = [*item_ids, "zzz", "ÄÖ✓", ""]
    lengths = rng.integers(0, max_length + 1, num)
    lengths[0] = max_length

    def some(values, share=0.2):
        return [None if rng.random() < share else value for value in values]

    def lists(draw, kind):
        return pa.array([draw(int(length)) for length in lengths], pa.list_(kind))

    numbers = {
        name: pa.array(some(rng.exponential(50, num).tolist()), pa.float64())
        for name in ("days_since_last_purchase", "days_since_first_purchase", "purchases_per_basket")
    }
    counts = {
        name: pa.array(some(rng.integers(0, 500, num).tolist()), pa.int64()) for name in ("num_baskets", "num_products")
    }
    users = [*(str(12_000 + number) for number in range(60)), "nobody", "Zoë", ""]
    moments = rng.integers(-(10**15), 2 * 10**15, num)
    return pa.table({
        "user_id": pa.array([str(rng.choice(users)) for _ in range(num)]),
        "country": pa.array(some([str(rng.choice(["Norway", "Côte d'Ivoire", "Nowhere"])) for _ in range(num)])),
        "event_time_us": pa.array(moments, pa.int64()),
        **numbers,
        **counts,
        "user_history": lists(lambda n: [str(i) for i in rng.choice(items, n, replace=False)], pa.string()),
        "user_history_age_days": lists(lambda n: rng.exponential(30, n).tolist(), pa.float64()),
        "user_history_count": lists(lambda n: rng.integers(1, 60, n).tolist(), pa.int64()),
        "targets": pa.array([[]] * num, pa.list_(pa.string())),
    })  # fmt: skip


@torch.no_grad()
def torch_answers(model, products, fitted, table):
    """The model's vectors, and its repeat scores as one list a row."""
    questions = questions_of(fitted, table)
    vector_BD, repeat_E = model.query(*_swap(questions.batch(np.arange(table.num_rows)), products))
    if repeat_E is None:
        return vector_BD.numpy(), None
    lengths = table["user_history"].combine_chunks().value_lengths().to_pylist()
    return vector_BD.numpy(), [part.numpy() for part in torch.split(repeat_E, lengths)]


def _swap(batch, products):
    tensors, history = batch
    return tensors, products, history


@pytest.mark.parametrize(("num", "max_length"), [(1, 0), (1, 1), (1, 12), (2, 0), (2, 3), (64, 12), (200, 7)])
def test_query_graph_equals_the_model(shop, num, max_length):
    rng = np.random.default_rng(num * 100 + max_length)
    table = random_buyers(rng, num, max_length, shop.catalog.item_ids)
    session = session_of(shop.release.file(QUERY_GRAPH))
    vectors, boosts = session.run([VECTOR, BOOSTS], feeds_of(buyer_inputs(shop.fitted), table))
    expected_vectors, expected_boosts = torch_answers(shop.model, shop.products, shop.fitted, table)
    np.testing.assert_allclose(vectors, expected_vectors, rtol=1e-4, atol=1e-5)
    for row, expected in enumerate(expected_boosts):
        np.testing.assert_allclose(boosts[row, : len(expected)], expected, rtol=1e-4, atol=1e-4)
        assert not boosts[row, len(expected) :].any()


def test_a_query_does_not_depend_on_its_neighbours_in_the_batch(shop):
    table = random_buyers(np.random.default_rng(5), 20, 12, shop.catalog.item_ids)
    session, inputs = session_of(shop.release.file(QUERY_GRAPH)), buyer_inputs(shop.fitted)
    together = session.run([VECTOR], feeds_of(inputs, table))[0]
    alone = [session.run([VECTOR], feeds_of(inputs, table.slice(row, 1)))[0][0] for row in range(20)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-4, atol=1e-5)


def test_missing_values_have_stand_ins(shop):
    empty = {
        "user_id": "", "country": "", "event_time_us": MISSING_INT64, "days_since_last_purchase": np.nan,
        "days_since_first_purchase": np.nan, "purchases_per_basket": np.nan, "num_baskets": MISSING_INT64,
        "num_products": MISSING_INT64,
    }  # fmt: skip
    types = {"STRING": object, "INT64": np.int64, "FLOAT": np.float32}
    feeds = {
        tensor.name: np.array([empty[tensor.name]], types[tensor.dtype])
        if len(tensor.shape) == 1
        else np.full((1, 1), {"STRING": "", "INT64": 0, "FLOAT": 0.0}[tensor.dtype], types[tensor.dtype])
        for tensor in buyer_inputs(shop.fitted)
    }
    vectors, boosts = session_of(shop.release.file(QUERY_GRAPH)).run([VECTOR, BOOSTS], feeds)
    assert np.isfinite(vectors).all()
    assert boosts.tolist() == [[0.0]]


def test_item_graph_gives_the_candidates_vectors_and_serves_products_that_nobody_bought(shop):
    known = pq.read_table(shop.release.file("items.parquet"))
    inputs = shop.fitted.raw_inputs("product")
    session = session_of(shop.release.file(ITEM_GRAPH))
    vectors = session.run([VECTOR], feeds_of(inputs, known))[0]
    ids = np.load(shop.release.file(CANDIDATE_IDS), allow_pickle=False).tolist()
    candidates = np.load(shop.release.file(CANDIDATE_VECTORS), allow_pickle=False)
    rows = [ids.index(item) for item in known["item_id"].to_pylist()]
    np.testing.assert_allclose(vectors, candidates[rows], rtol=1e-4, atol=1e-5)
    assert sorted(rows) == list(range(len(ids)))

    fresh = pa.table({
        tensor.name: pa.array(["99999", "Ünknown"] if tensor.name == "item_id" else ["PINK TEACUP", ""])
        if tensor.dtype == "STRING"
        else pa.array([None, 3.5], pa.float64())
        for tensor in inputs
    })  # fmt: skip
    said = session.run([VECTOR], feeds_of(inputs, fresh))[0]
    assert np.isfinite(said).all()
    assert not np.allclose(said[0], said[1])
    one = session.run([VECTOR], feeds_of(inputs, fresh.slice(0, 1)))[0]
    np.testing.assert_allclose(one, said[:1], rtol=1e-5, atol=1e-6)


def test_a_server_takes_products_as_the_item_graph_does(shop):
    """A known product, given again with its own features, is found where it was; a new one with them stands among the others."""
    predictor = Predictor(shop.release)
    inputs = {tensor.name for tensor in shop.fitted.raw_inputs("product")}
    known = pq.read_table(shop.release.file("items.parquet")).to_pylist()[3]
    item = {name: value for name, value in known.items() if name in inputs}

    def ask():
        asked = predictor.decoder.decode(b'{"instances": [{"user_id": "somebody new"}]}').queries
        num_items = predictor.retriever.num_items
        (found,) = predictor.retriever.recommend([structs.replace(asked[0], k=num_items)], lambda *_: None)
        ids = predictor.retriever.item_ids[found.rows].tolist() if found.ids is None else found.ids
        return dict(zip(ids, found.scores.tolist(), strict=True))

    before = ask()
    assert predictor.add_items([item, item | {"item_id": "new"}]) == 2
    after = ask()
    assert len(after) == len(before) + 1
    assert np.isfinite(after.pop("new"))
    assert after == pytest.approx(before, rel=1e-4, abs=1e-5)


def test_graphs_are_plain_onnx_that_names_raw_columns(shop):
    for name, side in ((QUERY_GRAPH, "buyer"), (ITEM_GRAPH, "product")):
        model = onnx.load(shop.release.file(name))
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version == IR_VERSION
        assert {opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")} == {OPSET}
        assert {opset.domain for opset in model.opset_import} <= {"", "ai.onnx", "ai.onnx.ml"}
        assert [value.name for value in model.graph.input] == [t.name for t in shop.fitted.raw_inputs(side)]
        assert [value.name for value in model.graph.output] == ([VECTOR, BOOSTS] if side == "buyer" else [VECTOR])
        assert b".py" not in model.SerializeToString()


def test_item_vectors_are_those_of_known_products(shop):
    vectors = item_vectors(shop.products)
    assert vectors.dtype == np.float32
    assert vectors.flags.c_contiguous
    np.testing.assert_array_equal(vectors, shop.products.vector_ND[1:].numpy())


def test_history_spec(shop):
    spec = history_spec(shop.fitted, has_boosts=True)
    assert (spec.items_input, spec.ages_input, spec.counts_input) == (
        "user_history", "user_history_age_days", "user_history_count"
    )  # fmt: skip
    assert (spec.max_length, spec.boosts_output) == (12, BOOSTS)
    assert history_spec(shop.fitted, has_boosts=False).boosts_output is None


@pytest.mark.parametrize("with_history", [False, True])
def test_a_model_without_numbers_exports_too(
    with_history, tmp_path, asked, question_table, product_table, fit_features, features, small
):
    histories = [(), (("p1", 3.0, 2),), (("p3", 9.0, 1), ("p1", 1.0, 4), ("p7", 2.0, 1)), (("p5", 0.0, 1),)]
    questions = question_table([asked(f"u{n}", 100, history, ("p1",)) for n, history in enumerate(histories)])
    products = product_table([100])
    wanted = ["user_id", "user_history"] if with_history else ["user_id"]
    config = {
        "buyer": {name: features["buyer"][name] for name in wanted},
        "product": {name: features["product"][name] for name in ("item_id", "title")},
    }
    fitted = fit_features(questions, products, config)
    torch.manual_seed(1)
    shape = small(model={"repeat_head": with_history}).model
    model = TwoTower(fitted.columns("buyer"), fitted.columns("product"), "item_id", shape).eval()
    with torch.no_grad():
        said = model.products(Catalog(fitted, products).on(100))
    assert (history_spec(fitted, has_boosts=with_history) is not None) == with_history
    export_query(model, fitted, said, tmp_path / "query.onnx")
    export_items(model, fitted, tmp_path / "item.onnx")
    users = questions.set_column(0, "user_id", pa.array(["u0", "", "Zoë", "u3"]))
    answers = session_of(tmp_path / "query.onnx").run(None, feeds_of(fitted.raw_inputs("buyer"), users))
    expected, boosts = torch_answers(model, said, fitted, users)
    np.testing.assert_allclose(answers[0], expected, rtol=1e-4, atol=1e-6)
    assert len(answers) == (2 if with_history else 1)
    for row, part in enumerate(boosts or []):
        np.testing.assert_allclose(answers[1][row, : len(part)], part, rtol=1e-4, atol=1e-6)
    items = session_of(tmp_path / "item.onnx").run([VECTOR], feeds_of(fitted.raw_inputs("product"), products))[0]
    order = np.argsort(Catalog(fitted, products).item_ids)
    np.testing.assert_allclose(
        items[np.argsort(products["item_id"].to_pylist())], item_vectors(said)[order], rtol=1e-4, atol=1e-6
    )


def test_a_model_with_an_item_map_exports_it(
    tmp_path, asked, question_table, product_table, fit_features, features, small
):
    histories = [(), (("p1", 3.0, 2),), (("p3", 9.0, 1), ("p1", 1.0, 4), ("p7", 2.0, 1)), (("zzz", 0.0, 1),)]
    questions = question_table([asked(f"u{n}", 100, history, ("p1",)) for n, history in enumerate(histories)])
    products = product_table([100])
    fitted = fit_features(questions, products, features)
    shape = small(model={"item_map_dim": 3, "output_embedding_dim": 10}).model
    rng = np.random.default_rng(1)
    tables = MapTables(*(rng.normal(size=(products.num_rows, 3)).astype(np.float32) for _ in range(2)))
    torch.manual_seed(1)
    model = TwoTower(fitted.columns("buyer"), fitted.columns("product"), "item_id", shape, tables).eval()
    with torch.no_grad():
        said = model.products(Catalog(fitted, products).on(100))
    export_query(model, fitted, said, tmp_path / "query.onnx")
    export_items(model, fitted, tmp_path / "item.onnx")
    answers = session_of(tmp_path / "query.onnx").run(None, feeds_of(fitted.raw_inputs("buyer"), questions))
    expected, boosts = torch_answers(model, said, fitted, questions)
    assert answers[0].shape == (4, 10)
    assert [bool(row.any()) for row in answers[0][:, :3]] == [False, True, True, False]
    np.testing.assert_allclose(answers[0], expected, rtol=1e-4, atol=1e-6)
    for row, part in enumerate(boosts):
        np.testing.assert_allclose(answers[1][row, : len(part)], part, rtol=1e-4, atol=1e-6)
    stranger = products.slice(0, 1).set_column(1, "item_id", pa.array(["unheard of"]))
    items = session_of(tmp_path / "item.onnx").run(
        [VECTOR], feeds_of(fitted.raw_inputs("product"), pa.concat_tables([products, stranger]))
    )[0]
    rows = [Catalog(fitted, products).item_ids.index(item) for item in products["item_id"].to_pylist()]
    np.testing.assert_allclose(items[:-1], item_vectors(said)[rows], rtol=1e-4, atol=1e-6)
    assert not items[-1, :3].any()


def test_a_model_with_neighbors_exports_them(
    tmp_path, asked, question_table, product_table, fit_features, features, small
):
    histories = [(), (("p1", 3.0, 2),), (("p3", 9.0, 1), ("p1", 1.0, 4), ("p7", 2.0, 1)), (("zzz", 0.0, 1),)]
    questions = question_table([asked(f"u{n}", 100, history, ("p1",)) for n, history in enumerate(histories)])
    products = product_table([100])
    fitted = fit_features(questions, products, features)
    rng = np.random.default_rng(1)
    num_items = products.num_rows
    tables = NeighborTables(
        rng.integers(-1, num_items, (num_items, 2)).astype(np.int32), rng.random((num_items, 2)).astype(np.float32)
    )
    shape = small(model={"neighbors": 2}).model
    model = TwoTower(fitted.columns("buyer"), fitted.columns("product"), "item_id", shape, None, tables).eval()
    with torch.no_grad():
        said = model.products(Catalog(fitted, products).on(100))
        _, history = questions_of(fitted, questions).batch(np.arange(4))
        item_EM, boost_EM = model.near(history)
    export_query(model, fitted, said, tmp_path / "query.onnx")
    spec = history_spec(fitted, has_boosts=True, has_neighbors=True)
    assert spec.outputs == [BOOSTS, NEIGHBOR_ITEMS, NEIGHBOR_BOOSTS]
    rows, boosts = session_of(tmp_path / "query.onnx").run(
        [NEIGHBOR_ITEMS, NEIGHBOR_BOOSTS], feeds_of(fitted.raw_inputs("buyer"), questions)
    )
    assert rows.dtype == np.int64
    assert rows.shape == boosts.shape == (4, 6)
    start = 0
    for row, history_of_row in enumerate(histories):
        part = slice(start, start + len(history_of_row))
        width = 2 * len(history_of_row)
        np.testing.assert_array_equal(rows[row, :width], item_EM[part].flatten().numpy() - 1)
        np.testing.assert_allclose(boosts[row, :width], boost_EM[part].flatten().numpy(), rtol=1e-5)
        assert (rows[row, width:] == -1).all()
        assert not boosts[row, width:].any()
        start += len(history_of_row)
    assert boosts[1].any()
