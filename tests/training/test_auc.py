"""The AUC of scores against pairs counted one by one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from endcap.evaluation.metrics import RaggedSets
from endcap.training import auc as module
from endcap.training.auc import auc_of

NUM = 7


@st.composite
def cases(draw):
    """Scores with many ties, some of products that aren't ranked; what was bought, also unknown products."""
    num_rows = draw(st.integers(1, 4))
    scores, bought = [], []
    for _ in range(num_rows):
        bought.append(draw(st.sets(st.integers(0, NUM + 2), min_size=1)))
        row = draw(st.lists(st.sampled_from([-2.0, 0.0, 0.5, 3.0]), min_size=NUM, max_size=NUM))
        out = draw(st.sets(st.integers(0, NUM - 1))) - bought[-1]
        scores.append([-np.inf if place in out else score for place, score in enumerate(row)])
    return np.array(scores, np.float32), bought


@settings(deadline=None)
@given(cases(), st.sampled_from([1, 10, 1 << 22]))
def test_it_is_the_share_of_pairs_in_order(case, cells):
    scores, bought = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CELLS", cells)
        found = auc_of(torch.from_numpy(scores), RaggedSets.from_lists([sorted(row) for row in bought]))
    for row, wanted, value in zip(scores, bought, found, strict=True):
        others = [row[place] for place in range(NUM) if place not in wanted and np.isfinite(row[place])]
        own = [row[place] if place < NUM else -np.inf for place in wanted]
        pairs = [(good > bad) + (good == bad) / 2 for good in own for bad in others]
        assert value == pytest.approx(np.mean(pairs) if pairs else 0.5)


def test_it_is_the_area_under_the_curve_of_each_customer():
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(30, 200)).astype(np.float32).round(1)
    bought = [rng.choice(200, rng.integers(1, 20), replace=False) for _ in range(30)]
    found = auc_of(torch.from_numpy(scores), RaggedSets.from_lists([row.tolist() for row in bought]))
    expected = [roc_auc_score(np.isin(np.arange(200), row), score) for row, score in zip(bought, scores, strict=True)]
    assert found == pytest.approx(expected)


def test_who_bought_nothing_has_none():
    assert np.isnan(auc_of(torch.ones(1, 3), RaggedSets.from_lists([[]]))).all()
    assert len(auc_of(torch.ones(0, 3), RaggedSets.from_lists([]))) == 0
