"""Sampled metrics, by hand, and that they carry their name."""

import math

import numpy as np
import pytest

from endcap.contracts.errors import InputError
from endcap.evaluation.sampled import measure_sampled


def test_ranks_among_the_sample_by_hand_with_ties_against_the_product():
    found = measure_sampled(np.array([0.9, 0.5]), np.array([[0.1, 0.2, 0.3], [0.5, 0.6, 0.1]]), ks=(1, 3))
    assert {name: values.tolist() for name, values in found.items()} == {
        "sampled_hit_rate@1": [1.0, 0.0],
        "sampled_ndcg@1": [1.0, 0.0],
        "sampled_hit_rate@3": [1.0, 1.0],
        "sampled_ndcg@3": [1.0, 1 / math.log2(4)],
        "sampled_mrr": [1.0, 1 / 3],
    }


def test_what_does_not_fit_is_refused():
    with pytest.raises(InputError, match="at least one sampled product"):
        measure_sampled(np.ones(2), np.ones((2, 0)))
    with pytest.raises(InputError, match="not all finite"):
        measure_sampled(np.array([np.nan]), np.ones((1, 2)))
