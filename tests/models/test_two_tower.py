"""The two towers: training's ragged histories and the export's padded ones give the same scores."""

import math

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.configuration import Layer, ModelConfig
from endcap.contracts.encoded import EncodedColumn
from endcap.models.item_map import MapTables
from endcap.models.neighbors import NeighborTables
from endcap.models.segments import PaddedSegments, RaggedSegments
from endcap.models.towers import History, entry_features
from endcap.models.two_tower import TwoTower

NUM_PRODUCTS = 6  # index 0, the unknown one, aside
BUYER = [
    EncodedColumn("user_id.embedding", "user_id", "index", 5, 3),
    EncodedColumn("num_baskets.normalize", "num_baskets", "number", 0, 1),
    EncodedColumn("event_time_us.cyclical", "event_time_us", "number", 0, 2),
    EncodedColumn("user_history.sequence", "user_history", "sequence", NUM_PRODUCTS + 1, 4),
]
PRODUCT = [
    EncodedColumn("item_id.embedding", "item_id", "index", NUM_PRODUCTS + 1, 4),
    EncodedColumn("title.text", "title", "bag", 8, 3),
    EncodedColumn("repeat_share.normalize", "repeat_share", "number", 0, 1),
]
ENTRIES = st.lists(st.tuples(st.integers(0, NUM_PRODUCTS), st.floats(0, 900, width=32), st.integers(1, 40)), max_size=5)


def model_of(buyer=BUYER, product=PRODUCT, **changes):
    """A model with random weights everywhere, those that start at zero too."""
    settings = {
        "buyer_tower": [Layer(units=5, dropout=0.3)],
        "product_tower": [Layer(units=4)],
        "output_embedding_dim": 6,
        "dropout": 0.2,
    }
    model = TwoTower(buyer, product, "item_id", ModelConfig(**(settings | changes)))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return model.eval()


def catalog():
    generator = torch.Generator().manual_seed(4)
    return {
        "item_id.embedding": torch.arange(NUM_PRODUCTS + 1),
        "title.text": torch.randint(0, 8, (NUM_PRODUCTS + 1, 3), generator=generator),
        "repeat_share.normalize": torch.randn(NUM_PRODUCTS + 1, 1, generator=generator),
    }


def buyers(num):
    generator = torch.Generator().manual_seed(5)
    return {
        "user_id.embedding": torch.arange(num) % 5,
        "num_baskets.normalize": torch.randn(num, 1, generator=generator),
        "event_time_us.cyclical": torch.randn(num, 2, generator=generator),
    }


def ragged(histories):
    entries = [entry for history in histories for entry in history]
    items, ages, counts = zip(*entries, strict=True) if entries else ((), (), ())
    return History(
        torch.tensor(items, dtype=torch.int64),
        torch.tensor(ages, dtype=torch.float32),
        torch.tensor(counts, dtype=torch.float32),
        RaggedSegments(torch.tensor([len(history) for history in histories])),
    )


def padded(histories, room=1):
    width = max(1, *(len(history) for history in histories)) + room
    rows = [[*history, *[(0, 0.0, 0)] * (width - len(history))] for history in histories]
    items = torch.tensor([[entry[0] for entry in row] for row in rows])
    ages = torch.tensor([[entry[1] for entry in row] for row in rows], dtype=torch.float32)
    counts = torch.tensor([[entry[2] for entry in row] for row in rows], dtype=torch.float32)
    return History(items.reshape(-1), ages.reshape(-1), counts.reshape(-1), PaddedSegments(items > 0)), width


@settings(max_examples=50, deadline=None)
@given(st.lists(ENTRIES, min_size=1, max_size=5))
@torch.no_grad()
def test_padded_and_ragged_histories_give_equal_answers(histories):
    model = model_of()
    products, tensors = model.products(catalog()), buyers(len(histories))
    vector_BD, repeat_E = model.query(tensors, products, ragged(histories))
    wide, width = padded(histories)
    padded_vector_BD, padded_repeat = model.query(tensors, products, wide)
    torch.testing.assert_close(vector_BD, padded_vector_BD, rtol=1e-4, atol=1e-5)
    repeat_BL = padded_repeat.reshape(len(histories), width)
    flat = torch.cat([repeat_BL[row, : len(history)] for row, history in enumerate(histories)])
    torch.testing.assert_close(repeat_E, flat, rtol=1e-4, atol=1e-5)
    for row, history in enumerate(histories):
        assert repeat_BL[row, len(history) :].count_nonzero() == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(ENTRIES, min_size=1, max_size=4))
@torch.no_grad()
def test_unknown_products_of_a_history_add_nothing(histories):
    model = model_of()
    products, tensors = model.products(catalog()), buyers(len(histories))
    known = [[entry for entry in history if entry[0]] for history in histories]
    vector_BD, repeat_E = model.query(tensors, products, ragged(histories))
    known_vector_BD, known_repeat_E = model.query(tensors, products, ragged(known))
    torch.testing.assert_close(vector_BD, known_vector_BD, rtol=1e-4, atol=1e-5)
    is_known = ragged(histories).item_E > 0
    torch.testing.assert_close(repeat_E[is_known], known_repeat_E, rtol=1e-4, atol=1e-5)
    assert repeat_E[~is_known].count_nonzero() == 0


def test_entry_features_by_hand():
    history = ragged([[(3, 10.0, 1), (0, 0.5, 99), (2, 4.0, 3)], [], [(1, -2.0, 5)]])
    expected = [
        # log(1 + count), log(1 + age) / 2, 10 x share of known purchases, log(1 + days before the last one) / 2
        [math.log(2), math.log(11) / 2, 2.5, math.log(7) / 2],
        [0.0, 0.0, 0.0, 0.0],
        [math.log(4), math.log(5) / 2, 7.5, 0.0],
        [math.log(6), 0.0, 10.0, 0.0],
    ]
    torch.testing.assert_close(entry_features(history), torch.tensor(expected))


@torch.no_grad()
def test_history_matters_and_so_do_age_count_and_who_asks():
    model = model_of()
    products, tensors = model.products(catalog()), buyers(1)
    said = [
        model.query(tensors, products, ragged([history]))[0]
        for history in ([], [(1, 5.0, 1)], [(2, 5.0, 1)], [(1, 5.0, 1), (2, 5.0, 1)], [(1, 90.0, 1), (2, 5.0, 9)])
    ]
    for first in range(len(said)):
        for second in range(first):
            assert not torch.allclose(said[first], said[second], atol=1e-4)
    scores = [
        model.query(tensors, products, ragged([[entry, (2, 3.0, 2)]]))[1][0]
        for entry in ((1, 5.0, 1), (1, 50.0, 1), (1, 5.0, 7), (3, 5.0, 1))
    ]
    assert len({round(float(score), 5) for score in scores}) == 4


@torch.no_grad()
def test_the_last_dimension_carries_the_products_bias():
    model = model_of()
    products = model.products(catalog())
    vector_BD, _ = model.query(buyers(2), products, ragged([[], [(1, 1.0, 1)]]))
    assert vector_BD[:, -1].tolist() == [1.0, 1.0]
    numbers = catalog()["repeat_share.normalize"]
    moved = model.members[0].item_tower.selling(numbers)
    torch.testing.assert_close(products.vector_ND[:, -1], moved[:, -1])
    torch.testing.assert_close(products.vector_ND[:, :-1], products.base_ND + moved[:, :-1])
    assert torch.equal(products.numbers_NF, numbers)


def test_dropout_acts_while_training_alone():
    model = model_of()
    history = ragged([[(1, 1.0, 1), (2, 3.0, 2)]] * 3)

    def answers():
        products = model.products(catalog())
        vector_BD, repeat_E = model.query(buyers(3), products, history)
        return torch.cat([products.vector_ND.flatten(), vector_BD.flatten(), repeat_E]).detach()

    assert torch.equal(answers(), answers())
    model.train()
    torch.manual_seed(1)
    assert not torch.equal(answers(), answers())


@torch.no_grad()
def test_without_history_numbers_or_words():
    buyer, product = BUYER[:1], PRODUCT[:1]
    model = model_of(buyer, product, repeat_head=False)
    products = model.products({"item_id.embedding": torch.arange(NUM_PRODUCTS + 1)})
    assert products.numbers_NF.shape == (NUM_PRODUCTS + 1, 0)
    assert products.vector_ND[:, -1].count_nonzero() == 0
    vector_BD, repeat = model.query({"user_id.embedding": torch.tensor([1, 4])}, products, None)
    assert vector_BD.shape == (2, 6)
    assert repeat is None


@torch.no_grad()
def test_a_history_without_repeat_head_is_pooled_all_the_same():
    model = model_of(repeat_head=False)
    products = model.products(catalog())
    vector_BD, repeat = model.query(buyers(2), products, ragged([[(1, 1.0, 1)], []]))
    assert repeat is None
    assert torch.isfinite(vector_BD).all()


@pytest.mark.parametrize("changes", [{}, {"repeat_head": False}, {"item_map_dim": 2, "output_embedding_dim": 8}])
def test_a_score_is_the_mean_of_the_members_scores(changes):
    histories = ragged([((1, 4.0, 1), (2, 9.0, 3)), ((5, 1.0, 1),), ()])
    model = mapped(num_members=3, **{"item_map_dim": 0, **changes})
    alone = mapped(**{"item_map_dim": 0, **changes})
    each = []
    for member in model.members:
        alone.members[0] = member
        each.append(all_scores(alone, histories))
    assert not torch.allclose(each[0], each[1], atol=0.1)
    torch.testing.assert_close(all_scores(model, histories), torch.stack(each).mean(0), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_vectors_of_members_lie_end_to_end_beside_one_map():
    model = mapped(num_members=3)
    products = model.products(catalog())
    assert products.vector_ND.shape == (NUM_PRODUCTS + 1, 2 + 3 * 6)
    assert model.learned_products(catalog()).vector_ND.shape == (NUM_PRODUCTS + 1, 3 * 6)
    vector_BD, _ = model.query(buyers(1), products, ragged([[(1, 5.0, 1)]]))
    assert vector_BD.shape == (1, 2 + 3 * 6)


@pytest.mark.parametrize("ages", [0.0, 1e6])
@torch.no_grad()
def test_attention_stays_finite_at_any_logit(ages):
    model = model_of()
    for parameter in model.members[0].query_tower.attention.parameters():
        parameter.fill_(1e4)
    vector_BD, repeat_E = model.query(buyers(1), model.products(catalog()), ragged([[(1, ages, 40), (2, 0.0, 1)]]))
    assert torch.isfinite(vector_BD).all()
    assert torch.isfinite(repeat_E).all()


MAP = MapTables(
    np.array([[1, 0], [3, 4], [0, 0], [0, 0], [0, 2], [0, 0]], np.float32),
    np.array([[0, 0], [0, 0], [5, 0], [0, 10], [0, 0], [1, 1]], np.float32),
)
"""Product 1 leads along the first dimension, products 2 and 5 along both or the second."""


def mapped(**changes):
    buyer = torch.Generator().manual_seed(3)
    settings = {"buyer_tower": [], "product_tower": [Layer(units=4)], "output_embedding_dim": 8, "item_map_dim": 2}
    model = TwoTower(BUYER, PRODUCT, "item_id", ModelConfig(**(settings | changes)), MAP)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=buyer) / 2)
    return model.eval()


@torch.no_grad()
def all_scores(model, history):
    """Scores of all products, [B, N], repeat scores added."""
    num = len(history.segments.total(torch.zeros(len(history.item_E), 1)))
    products = model.products(catalog())
    query, repeat = model.query(buyers(num), products, history)
    scores = query @ products.vector_ND.T
    if repeat is not None:
        scores.index_put_((history.segments.question_E, history.item_E), repeat, accumulate=True)
    return scores


def test_the_item_map_adds_to_products_outside_of_the_history():
    histories = [((1, 4.0, 1), (2, 9.0, 3)), ((5, 1.0, 1),), ()]
    model = mapped(item_map_scale=0.5)
    with_map = all_scores(model, ragged(histories))
    model.item_map = None
    added = (with_map - all_scores(model, ragged(histories)))[:, 1:]
    # 1 and 2 lead to (4, 4), 5 to (0, 2); at length 0.5 that is (1, 1) / √8 and (0, 0.5).
    each = 1 / math.sqrt(8)
    expected = [[0, 0, 5 * each, 10 * each, 0, 2 * each], [0, 0, 0, 5, 0, 0.5], [0] * 6]
    torch.testing.assert_close(added, torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_without_a_repeat_head_the_map_speaks_of_own_products_too():
    model = mapped(repeat_head=False, item_map_scale=1.0)
    with_map = all_scores(model, ragged([((1, 4.0, 1), (3, 9.0, 3))]))
    model.item_map = None
    added = with_map - all_scores(model, ragged([((1, 4.0, 1), (3, 9.0, 3))]))
    torch.testing.assert_close(added[0, 1:], torch.tensor([0.0, 0, 5, 0, 0, 1]), atol=1e-5, rtol=1e-5)


def test_the_item_map_stays_out_of_training():
    model = mapped(dropout=0.0).train()
    vectors = model.products(catalog()).vector_ND
    assert vectors.shape == (NUM_PRODUCTS + 1, 6)
    assert not any("item_map" in name for name, _ in model.named_parameters())
    assert model.eval().products(catalog()).vector_ND.shape == (NUM_PRODUCTS + 1, 8)


@given(st.lists(ENTRIES, min_size=1, max_size=4))
@settings(max_examples=25, deadline=None)
def test_the_item_map_says_the_same_of_padded_histories(histories):
    model = mapped()
    with torch.no_grad():
        products = model.products(catalog())
        query, repeat = model.query(buyers(len(histories)), products, ragged(histories))
        other, boosts = model.query(buyers(len(histories)), products, padded(histories)[0])
    torch.testing.assert_close(other, query, atol=1e-5, rtol=1e-5)
    known = [boosts.reshape(len(histories), -1)[row, : len(history)] for row, history in enumerate(histories)]
    torch.testing.assert_close(torch.cat(known), repeat, atol=1e-4, rtol=1e-4)


def test_neighbors_add_what_leads_to_them():
    tables = NeighborTables(
        np.array([[1, 3], [0, 3], [-1, -1], [-1, -1], [-1, -1], [5, -1]], np.int32),
        np.array([[2, 1], [4, 0.5], [0, 0], [0, 0], [0, 0], [1, 0]], np.float32),
    )
    buyer = [
        msgspec.structs.replace(column, counted=["purchase", "view_item"]) if column.kind == "sequence" else column
        for column in BUYER
    ]
    shape = ModelConfig(
        buyer_tower=[], product_tower=[], output_embedding_dim=6, neighbors=2, neighbor_scale=3.0, neighbor_fade=0.5,
        neighbor_weights={"purchase": 2.0},
    )  # fmt: skip
    model = TwoTower(buyer, PRODUCT, "item_id", shape, None, tables).eval()
    # Product 1 was viewed once, last of all; product 2 bought twice, three days before; the request doesn't say how 1 was met.
    history = ragged([((2, 4.0, 2), (1, 1.0, 1)), ((1, 9.0, 1), (0, 9.0, 7)), ()])
    history = history._replace(counted_EK=torch.tensor([[2.0, 0], [0, 1], [0, 0], [0, 0]]))
    items, boosts = model.near(history)
    assert items.tolist() == [[1, 4], [2, 4], [2, 4], [0, 0]]
    older = 3 * 2 * math.log(3) / math.sqrt(4)
    last = 3 * math.log(2)
    expected = [[4 * older, 0.5 * older], [2 * last, last], [2 * last, last], [0, 0]]
    torch.testing.assert_close(boosts, torch.tensor(expected))
    assert not list(model.neighbors.parameters())
