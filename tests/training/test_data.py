"""Tables become tensors: ragged lists, questions asked as by a stranger, catalogs by day, weights by age."""

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.errors import InputError
from endcap.training.data import Catalog, Questions, Ragged, questions_of, vocabulary_of, weights_of

DAY_US = 86_400_000_000


def ragged_of(lists):
    offsets = np.concatenate([[0], np.cumsum([len(values) for values in lists])]).astype(np.int64)
    return Ragged(offsets, torch.tensor([value for values in lists for value in values], dtype=torch.int64))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_take_gives_the_first_values_of_each_list(data):
    lists = data.draw(st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=6))
    rows = np.array(data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=8)), np.int64)
    lengths = np.array([data.draw(st.integers(0, len(lists[row]))) for row in rows], np.int64)
    ragged = ragged_of(lists)
    expected = [value for row, length in zip(rows, lengths, strict=True) for value in lists[row][:length]]
    assert ragged.take(rows, lengths).tolist() == expected
    assert ragged.lengths(rows).tolist() == [len(lists[row]) for row in rows]


@pytest.fixture
def tables(asked, question_table, product_table):
    history = (("p3", 20.0, 1), ("p1", 2.5, 4))
    questions = [
        asked("ann", 100, history, ("p1", "p7")),
        asked("bob", 100, (), ("p2",)),
        asked("ann", 101, (*history, ("gone", 1.0, 2)), ("gone", "p0")),
        asked("eve", 101, (("p0", 9.0, 1),), ("gone",)),
    ]
    return question_table(questions), product_table([100, 101])


@pytest.fixture
def fitted(tables, fit_features):
    questions, products = tables
    return fit_features(questions, products.slice(0, 12))


def index_of(fitted, *items):
    return [vocabulary_of(fitted).values.index(item) + 1 if item != "gone" else 0 for item in items]


def test_questions_by_hand(tables, fitted):
    questions = questions_of(fitted, tables[0])
    assert len(questions) == 4
    assert questions.day.tolist() == [100, 100, 101, 101]
    assert questions.bought_us.tolist() == tables[0]["bought_us"].to_pylist()
    # A target that no vocabulary knows is left out; a question may lose all.
    assert questions.targets.offsets.tolist() == [0, 2, 3, 4, 4]
    assert questions.targets.values.tolist() == index_of(fitted, "p1", "p7", "p2", "p0")
    items, ages, counts = questions.history.values()
    assert items.offsets.tolist() == ages.offsets.tolist() == counts.offsets.tolist() == [0, 2, 2, 5, 6]
    assert items.values.tolist() == index_of(fitted, "p3", "p1", "p3", "p1", "gone", "p0")
    assert ages.values.tolist() == [20.0, 2.5, 20.0, 2.5, 1.0, 9.0]
    assert counts.values.tolist() == [1, 4, 1, 4, 2, 1]


def test_a_slice_of_a_table_gives_the_same_questions(tables, fitted):
    whole, part = questions_of(fitted, tables[0]), questions_of(fitted, tables[0].slice(2, 2))
    rows = np.array([2, 3])
    for name, values in part.tensors.items():
        assert torch.equal(values, whole.tensors[name][rows])
    assert part.targets.values.tolist() == whole.targets.take(rows, whole.targets.lengths(rows)).tolist()
    for name, values in part.history.items():
        assert values.values.tolist() == whole.history[name].take(rows, whole.history[name].lengths(rows)).tolist()


def test_without_a_time_of_purchase_the_question_itself_counts(tables, fitted):
    table = tables[0].drop_columns(["bought_us"])
    assert questions_of(fitted, table).bought_us.tolist() == table["event_time_us"].to_pylist()


def test_a_batch_hides_nothing_unless_asked(tables, fitted):
    questions = questions_of(fitted, tables[0])
    rows = np.array([2, 0])
    tensors, history = questions.batch(rows)
    for name, values in tensors.items():
        assert torch.equal(values, questions.tensors[name][rows])
    assert history.item_E.tolist() == index_of(fitted, "p3", "p1", "gone", "p3", "p1")
    assert history.segments.question_E.tolist() == [0, 0, 0, 1, 1]


def test_a_hidden_id_hides_nothing_else(tables, fitted):
    questions = questions_of(fitted, tables[0])
    rows = np.arange(4)
    tensors, history = questions.batch(rows, np.array([True, False, False, True]), np.zeros(4, bool))
    ids = questions.tensors["user_id.embedding"]
    assert tensors["user_id.embedding"].tolist() == [0, ids[1].item(), ids[2].item(), 0]
    assert ids.min() > 0
    for name, values in tensors.items():
        assert name == "user_id.embedding" or torch.equal(values, questions.tensors[name])
    assert len(history.item_E) == 6


def test_a_hidden_history_asks_as_a_stranger_does(asked, tables, fitted, question_table):
    """Just what the same question is for somebody who never bought: id, history and all counts of purchases."""
    questions = questions_of(fitted, tables[0])
    rows = np.array([0, 3, 1])
    tensors, history = questions.batch(rows, np.zeros(3, bool), np.array([True, True, False]))
    strangers = questions_of(fitted, question_table([asked("nobody", day, (), ("p1",)) for day in (100, 101)]))
    for name, values in tensors.items():
        assert torch.equal(values[:2], strangers.tensors[name]), name
        assert torch.equal(values[2], questions.tensors[name][1])
    assert len(history.item_E) == len(history.age_days_E) == len(history.count_E) == 0
    known = questions.batch(np.array([0]))[0]
    assert not torch.equal(known["num_baskets.normalize"], tensors["num_baskets.normalize"][:1])


def test_a_hidden_profile_leaves_history_and_id(asked, tables, fitted, question_table):
    """What a request with `user_history` alone looks like: products, but no counts of purchases."""
    questions = questions_of(fitted, tables[0])
    rows = np.array([0, 2])
    tensors, history = questions.batch(rows, np.zeros(2, bool), np.zeros(2, bool), np.array([True, False]))
    stranger = questions_of(fitted, question_table([asked("nobody", 100, (), ("p1",))])).tensors
    for name, values in tensors.items():
        assert torch.equal(values[1], questions.tensors[name][2])
        if name == "user_id.embedding":
            assert values[0] == questions.tensors[name][0] > 0
        else:
            assert torch.equal(values[0], stranger[name][0]), name
    assert len(history.item_E) == 5


def test_hiding_leaves_the_questions_themselves_alone(tables, fitted):
    questions = questions_of(fitted, tables[0])
    before = {name: values.clone() for name, values in questions.tensors.items()}
    questions.batch(np.arange(4), np.ones(4, bool), np.ones(4, bool))
    for name, values in before.items():
        assert torch.equal(questions.tensors[name], values)


def test_a_stranger_hides_what_tells_of_purchases_without_a_sequence_too(
    tables, asked, question_table, fit_features, features
):
    buyer = {name: column for name, column in features["buyer"].items() if name != "user_history"}
    fitted = fit_features(*tables, {**features, "buyer": buyer})
    tensors, history = questions_of(fitted, tables[0]).batch(np.array([0]), np.zeros(1, bool), np.ones(1, bool))
    stranger = questions_of(fitted, question_table([asked("nobody", 100, (), ())])).tensors
    assert history is None
    assert {name: values.tolist() for name, values in tensors.items()} == {
        name: values.tolist() for name, values in stranger.items()
    }


def test_catalog_follows_the_vocabulary_and_begins_with_the_unknown_product(tables, fitted):
    catalog = Catalog(fitted, tables[1])
    assert catalog.item_ids == list(vocabulary_of(fitted).values)
    assert catalog.item_ids != tables[1]["item_id"].to_pylist()[:12]
    assert catalog.num_items == 12
    for day in (100, 101):
        columns = catalog.on(day)
        assert columns["item_id.embedding"].tolist() == list(range(13))
        rows = {row["item_id"]: row for row in tables[1].to_pylist() if row["day"] == day}
        expected = fitted.apply("product", pa.Table.from_pylist([rows[item] for item in catalog.item_ids]))
        assert columns["price.normalize"][1:, 0].tolist() == expected["price.normalize"].to_pylist()
        assert [[w for w in words if w] for words in columns["title.text"][1:].tolist()] == (
            expected["title.text"].to_pylist()
        )
        for values in columns.values():
            assert values[0].count_nonzero() == 0
    assert not torch.equal(catalog.on(100)["price.normalize"], catalog.on(101)["price.normalize"])
    assert torch.equal(catalog.on(100)["title.text"], catalog.on(101)["title.text"])


def test_words_that_change_with_the_day_are_those_of_the_day(tables, fitted):
    _, products = tables
    titles = products["title"].to_pylist()
    place = 12 + products.slice(12)["item_id"].to_pylist().index("p3")
    titles[place] = "THING p3 blue"
    moved = products.set_column(products.schema.get_field_index("title"), "title", pa.array(titles))
    still, moving = Catalog(fitted, products), Catalog(fitted, moved)
    row = still.item_ids.index("p3") + 1
    assert torch.equal(moving.on(100)["title.text"], still.on(100)["title.text"])
    differs = (moving.on(101)["title.text"] != still.on(101)["title.text"]).any(1)
    assert differs.nonzero().flatten().tolist() == [row]


def test_a_day_without_a_catalog_is_refused(tables, fitted):
    with pytest.raises(InputError, match="no catalog for day 99"):
        Catalog(fitted, tables[1]).on(99)


def test_a_catalog_that_lacks_a_product_on_a_day_is_refused(tables, fitted):
    with pytest.raises(InputError, match="23 rows; expected 12 products on each of 2 days"):
        Catalog(fitted, tables[1].slice(1))


def test_products_that_the_vocabulary_lacks_are_no_part_of_the_catalog(tables, fitted):
    strange = tables[1].set_column(1, "item_id", pa.array([f"new-{n}" for n in range(24)]))
    assert Catalog(fitted, pa.concat_tables([tables[1].slice(0, 12), strange, tables[1].slice(12)])).num_items == 12


def test_a_model_without_product_ids_is_refused(tables, fit_features, features):
    product = {**features["product"], "item_id": {"type": "STRING", "is_primary_id": True, "text": {"min_count": 1}}}
    buyer = {name: column for name, column in features["buyer"].items() if name != "user_history"}
    fitted = fit_features(*tables, {"buyer": buyer, "product": product})
    with pytest.raises(InputError, match=r"features\.product\.item_id: .* needs an embedding"):
        vocabulary_of(fitted)


def test_weights_by_hand():
    end_us = 100 * DAY_US
    questions = Questions(
        tensors={},
        stranger={},
        history=None,
        targets=ragged_of([[1], [1, 2, 3, 4], []]),
        day=np.array([100, 80, 60]),
        bought_us=np.array([100, 80, 60]) * DAY_US,
        id_column=None,
    )
    weights = weights_of(questions, 20.0, end_us)
    # 1, 1/2 / sqrt(4) and 1/4, over (1 x 1 + 1/4 x 4) / 3
    assert weights.tolist() == pytest.approx([1.5, 0.375, 0.375])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 9)), min_size=1, max_size=20), st.floats(10, 100))
def test_weights_halve_with_age_and_share_out_one_a_question(questions, half_life):
    ages = np.array([age for age, _ in questions])
    lengths = np.array([number for _, number in questions])
    made = Questions({}, {}, None, ragged_of([[1] * n for n in lengths]), ages, (400 - ages) * DAY_US, None)
    weights = weights_of(made, half_life, 400 * DAY_US).numpy().astype(float)
    if lengths.sum():
        assert (weights * lengths).sum() / len(lengths) == pytest.approx(1, rel=1e-4)
        first = int(np.argmax(lengths))
        ratio = 0.5 ** ((ages - ages[first]) / half_life) * math.sqrt(lengths[first]) / np.sqrt(np.maximum(lengths, 1))
        np.testing.assert_allclose(weights, weights[first] * ratio, rtol=1e-4, atol=1e-30)
    else:
        assert np.isfinite(weights).all()


def test_counts_by_type_are_hidden_with_the_profile_and_questions_weigh_what_they_say(
    asked, question_table, product_table, fit_features, features
):
    table = question_table(
        [asked("ann", 100, (("p3", 20.0, 2), ("p1", 2.5, 4)), ("p1",)), asked("bob", 100, (), ("p2",))]
    )
    for name, values in (("purchase", [[1, 0], []]), ("view_item", [[1, 4], []])):
        table = table.append_column(f"user_history_num_{name}", pa.array(values, pa.list_(pa.int64())))
    table = table.append_column("weight", pa.array([1.0, 0.25]))
    sequence = {"type": "STRING", "sequence": {"event_types": ["purchase", "view_item"]}}
    told = features | {"buyer": features["buyer"] | {"user_history": sequence}}
    questions = questions_of(fit_features(table, product_table([100]), told), table)
    rows = np.array([0, 1])
    _, history = questions.batch(rows)
    assert history.counted_EK.tolist() == [[1.0, 1.0], [0.0, 4.0]]
    _, hidden = questions.batch(rows, hide_profile=np.array([True, False]))
    assert hidden.counted_EK.tolist() == [[0.0, 0.0], [0.0, 0.0]]
    assert hidden.count_E.tolist() == history.count_E.tolist()
    weight = weights_of(questions, 40.0, questions.bought_us.max()).tolist()
    assert weight[1] / weight[0] == pytest.approx(0.25)


def test_a_product_shown_as_if_nobody_had_bought_it(tables, fitted):
    catalog = Catalog(fitted, tables[1])
    columns = catalog.on(100)
    shown = torch.zeros(13, dtype=torch.bool)
    shown[[2, 5]] = True
    found = catalog.unsold(columns, shown)
    assert found.keys() == columns.keys()
    assert found["price.normalize"][shown].tolist() == [[0.0], [0.0]]  # a price that nobody paid is missing
    assert torch.equal(found["price.normalize"][~shown], columns["price.normalize"][~shown])
    assert torch.equal(found["title.text"], columns["title.text"])
    assert catalog.unsold(columns, None) is columns
