"""Products first sold in the test period: worked by hand, and what chance would give against drawing many orders."""

import numpy as np
import pytest

from endcap.evaluation.cold_items import ColdRankings, measure_cold_items
from endcap.evaluation.metrics import RaggedSets, find_hits, measure

RELEVANT = RaggedSets.from_lists([[0], [1, 2]])


def test_two_customers_worked_by_hand():
    among_all = np.array([[9, 0, -1], [1, 8, 7]])
    model = ColdRankings("the model", np.array([[0, 1, 2], [1, 2, 0]]))
    other = ColdRankings("other", np.array([[2, 1, 0], [0, 1, 2]]))
    found = measure_cold_items(
        among_all, np.array([0.2, 0.4]), [model, other], RELEVANT, 3, 7, seed=0, num_resamples=20
    )
    assert (found.num_items, found.num_all_items, found.num_customers, found.num_relevant) == (3, 10, 2, 3)
    assert found.among_all["recall@100"].mean == pytest.approx((1 + 1 / 2) / 2)
    assert found.by_chance["recall@100"] == pytest.approx(1.0)
    assert found.among_all["auc"].mean == pytest.approx(0.3)
    assert [system.title for system in found.systems] == ["the model", "other", "drawn at random"]
    own, others, chance = found.systems
    second, third = 1 / np.log2(3), 1 / 2
    assert own.metrics["ndcg@10"].mean == pytest.approx(1.0)
    assert others.metrics["ndcg@10"].mean == pytest.approx((third + (second + third) / (1 + second)) / 2)
    assert others.differences["ndcg@10"].mean == pytest.approx(1 - others.metrics["ndcg@10"].mean)
    assert own.differences is None
    assert chance.metrics["recall@5"].mean == pytest.approx(1.0)
    assert found.flat_metrics()["cold_items/recall@100"] == pytest.approx(0.75)
    assert found.flat_metrics()["cold_items/alone/ndcg@10"] == pytest.approx(1.0)


def test_chance_is_the_mean_of_many_orders():
    relevant = RaggedSets.from_lists([[3, 7, 11], [0]])
    generator = np.random.default_rng(1)
    drawn = []
    for _ in range(2000):
        rankings = np.stack([generator.permutation(25), generator.permutation(25)])
        values = measure(find_hits(rankings, relevant), relevant.lengths, ("ndcg@10", "recall@5"))
        drawn.append([values["ndcg@10"].mean(), values["recall@5"].mean()])
    order = ColdRankings("the model", np.tile(np.arange(25), (2, 1)))
    found = measure_cold_items(order.rankings, np.zeros(2), [order], relevant, 25, 75, seed=0, num_resamples=10)
    chance = found.systems[-1].metrics
    assert [chance["ndcg@10"].mean, chance["recall@5"].mean] == pytest.approx(np.mean(drawn, axis=0), rel=0.05)
    assert found.by_chance["recall@100"] == 1.0
