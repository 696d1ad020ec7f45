"""Co-purchase against similarities worked out by hand."""

import numpy as np
import pytest

from endcap.contracts.errors import InputError
from endcap.models.item_knn import ItemKnn
from tests.models.purchase_logs import SPLIT, log, rank


def test_co_purchase_sums_cosines_over_own_products():
    baseline = ItemKnn.fit(log(), SPLIT)
    ranked = baseline.recommend(np.array([0]), 6, exclude_seen=False)
    # Baskets: {0,1} {0} {1,2} {1,2,3} {3} {4}; user 0 owns 0 and 1.
    expected = {
        0: 1 + 1 / np.sqrt(2 * 3),
        1: 1 + 1 / np.sqrt(2 * 3),
        2: 2 / np.sqrt(3 * 2),
        3: 1 / np.sqrt(3 * 2),
        4: 0.0,
        5: 0.0,
    }
    assert ranked.item_nums.tolist() == [[1, 0, 2, 3, 4, 5]]
    np.testing.assert_allclose(ranked.scores[0], [expected[item] for item in (1, 0, 2, 3, 4, 5)])


def test_co_purchase_without_own_products_and_for_a_user_without_any():
    baseline = ItemKnn.fit(log(), SPLIT)
    assert rank(baseline, [0, 4], exclude_seen=True) == [[2, 3, 4, 5, -1, -1], [1, 2, 3, 0, 4, 5]]


def test_co_purchase_keeps_the_nearest_neighbors_alone():
    baseline = ItemKnn.fit(log(), SPLIT, num_neighbors=2)
    assert np.diff(baseline.similarity.indptr).max() == 2


def test_shrinking_trusts_rare_meetings_less():
    plain, shrunk = ItemKnn.fit(log(), SPLIT).similarity, ItemKnn.fit(log(), SPLIT, shrink=3).similarity
    # Products in popularity order are 1, 2, 3, 0, 4, 5; items 1 and 2 share two baskets, 1 and 3 one.
    assert plain[1, 1] == pytest.approx(2 / np.sqrt(3 * 2))
    assert shrunk[1, 1] == pytest.approx(2 / np.sqrt(3 * 2) * 2 / (2 + 3))
    assert shrunk[1, 2] == pytest.approx(1 / np.sqrt(3 * 2) * 1 / (1 + 3))


def test_own_products_bought_long_ago_count_less():
    lines = [(0, 0, 0, 10), (0, 1, 1, 90), (1, 0, 2, 50), (1, 2, 2, 50), (2, 1, 3, 50), (2, 3, 3, 50)]
    scores = {}
    for half_life_days in (None, 40):
        baseline = ItemKnn.fit(log(lines), SPLIT, half_life_days=half_life_days)
        ranked = baseline.recommend(np.array([0]), 6, exclude_seen=True)
        scores[half_life_days] = dict(zip(ranked.item_nums[0].tolist(), ranked.scores[0].tolist(), strict=True))
    assert scores[None][2] == pytest.approx(scores[None][3]) == pytest.approx(1 / np.sqrt(2))
    assert scores[40][2] == pytest.approx(0.5 ** (90 / 40) / np.sqrt(2))
    assert scores[40][3] == pytest.approx(0.5 ** (10 / 40) / np.sqrt(2))


def test_a_session_joins_baskets_without_a_longer_pause():
    lines = [(0, 0, 0, 10), (0, 1, 1, 12), (0, 2, 2, 30), (1, 3, 3, 11)]
    baskets = ItemKnn.fit(log(lines), SPLIT, window_days=100)
    assert baskets.similarity.nnz == 4  # each product with itself alone
    sessions = ItemKnn.fit(log(lines), SPLIT, window_days=100, session_gap_days=2)
    dense = sessions.similarity.toarray()[:, sessions.popularity.places]
    assert dense[0, 1] == dense[1, 0] == 1.0
    assert dense[1, 2] == dense[0, 3] == 0.0


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"num_neighbors": 0}, "num_neighbors is 0"),
        ({"shrink": -1.0}, "shrink is -1"),
        ({"half_life_days": 0.0}, "half_life_days is 0"),
        ({"session_gap_days": 0.0}, "session_gap_days is 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(InputError, match=message):
        ItemKnn.fit(log(), SPLIT, **setting)
