"""Breadth, diversity, novelty and popularity of lists, by hand and against plain Python."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.contracts.errors import InputError
from endcap.evaluation.beyond import (
    diversity_by_category_at,
    diversity_by_vectors_at,
    gini,
    mean_over_list,
    novelty_at,
    popularity_of,
)
from endcap.evaluation.metrics import RaggedSets, exposures

NUM_ITEMS = 8


@st.composite
def rankings(draw):
    rows = draw(st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), unique=True, max_size=6), min_size=1, max_size=5))
    return np.array([row + [-1] * (6 - len(row)) for row in rows])


def test_gini_is_0_when_all_are_shown_alike_and_near_1_when_one_is():
    assert gini(exposures(np.array([[0, 1], [2, 3]]), 4, 2)) == pytest.approx(0.0)
    assert gini(np.array([3] + [0] * 99)) == pytest.approx(0.99)
    assert gini(exposures(np.array([[0, 1], [0, -1]]), 2, 2)) == pytest.approx((1 * 2 - 1 * 1) / (2 * 3))
    with pytest.raises(InputError, match="No ranking names a product"):
        gini(exposures(np.array([[-1]]), 4, 1))


def test_popularity_counts_a_customer_once():
    had = RaggedSets.from_pairs(np.array([0, 0, 1, 2]), np.array([3, 3, 3, 1]), 4)
    assert popularity_of(had, 5).tolist() == [0, 1 / 4, 0, 2 / 4, 0]


def test_novelty_by_hand_takes_unseen_products_as_had_by_one():
    popularity = np.array([0.5, 0.25, 0.0])
    found = novelty_at(np.array([[0, 1, -1], [2, -1, -1], [-1, -1, -1]]), popularity, 16, 3)
    assert found[:2].tolist() == [1.5, 4.0]
    assert math.isnan(found[2])


@given(rankings(), st.lists(st.integers(-1, 2), min_size=NUM_ITEMS, max_size=NUM_ITEMS), st.integers(1, 6))
def test_diversity_counts_pairs(ranked, categories, k):
    found = diversity_by_category_at(ranked, np.array(categories), k)
    for row, value in zip(ranked, found, strict=True):
        pairs = list(itertools.combinations([item for item in row[:k] if item >= 0], 2))
        if not pairs:
            assert math.isnan(value)
        else:
            alike = [categories[a] == categories[b] >= 0 for a, b in pairs]
            assert value == pytest.approx(1 - sum(alike) / len(pairs))


@given(rankings(), st.integers(1, 6))
def test_diversity_of_vectors_is_that_of_pairs_of_cosines(ranked, k):
    vectors = np.random.default_rng(0).normal(size=(NUM_ITEMS, 3))
    vectors[5] = 0
    found = diversity_by_vectors_at(ranked, vectors, k)
    lengths = np.maximum(np.linalg.norm(vectors, axis=1), 1e-300)
    for row, value in zip(ranked, found, strict=True):
        pairs = list(itertools.combinations([item for item in row[:k] if item >= 0], 2))
        expected = [1 - vectors[a] @ vectors[b] / lengths[a] / lengths[b] for a, b in pairs]
        assert math.isnan(value) if not pairs else value == pytest.approx(sum(expected) / len(pairs), abs=1e-9)


def test_a_mean_over_a_list_leaves_empty_places_out():
    assert mean_over_list(np.array([[1, 0, -1]]), np.array([4.0, 2.0]), 3).tolist() == [3.0]
    assert mean_over_list(np.array([[1, 0, -1]]), np.array([4.0, 2.0]), 1).tolist() == [2.0]
