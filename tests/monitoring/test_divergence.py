"""PSI and Jensen-Shannon against values worked by hand and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from endcap.monitoring.divergence import jensen_shannon_distance, population_stability_index

counts = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=30)


def test_psi_by_hand() -> None:
    # Half a row on each: shares 1/4, 3/4 of the reference and 3/4, 1/4 of what is looked at.
    expected = 0.5 * math.log(3) + -0.5 * math.log(1 / 3)
    assert population_stability_index([0, 1], [1, 0]) == pytest.approx(expected, abs=1e-15)
    # 9.5/20 against 4.5/10 and 10.5/20 against 5.5/10.
    expected = (0.45 - 0.475) * math.log(0.45 / 0.475) + (0.55 - 0.525) * math.log(0.55 / 0.525)
    assert population_stability_index([9, 10], [4, 5]) == pytest.approx(expected, abs=1e-15)


def test_bins_empty_on_both_sides_say_nothing() -> None:
    assert population_stability_index([500, 0, 0], [3, 0, 0]) == 0.0
    assert population_stability_index([5, 0, 7], [2, 0, 9]) == population_stability_index([5, 7], [2, 9])


def test_js_by_hand() -> None:
    assert jensen_shannon_distance([5, 0], [0, 3]) == 1.0
    assert jensen_shannon_distance([1, 1], [1, 0]) == pytest.approx(
        math.sqrt((math.log2(1 / 0.75) + 0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25)) / 2), abs=1e-15
    )
    assert jensen_shannon_distance([2, 4], [1, 2]) == 0.0


def test_nothing_to_compare_is_no_number() -> None:
    for measure in (population_stability_index, jensen_shannon_distance):
        assert measure([0, 0], [1, 2]) is None
        assert measure([1, 2], [0, 0]) is None
        assert measure([], []) is None
        with pytest.raises(ValueError, match="2 bins against 1"):
            measure([1, 2], [3])


@given(counts)
def test_equal_to_scipy(pairs: list[tuple[int, int]]) -> None:
    reference, actual = [r for r, _ in pairs], [a for _, a in pairs]
    psi, js = population_stability_index(reference, actual), jensen_shannon_distance(reference, actual)
    if not sum(reference) or not sum(actual):
        assert psi is js is None
        return
    kept = np.array([(r, a) for r, a in pairs if r or a], dtype=float) + 0.5
    q, p = kept[:, 0], kept[:, 1]
    # The index is the sum of both relative entropies; scipy makes shares of the counts itself.
    assert psi == pytest.approx(entropy(p, q) + entropy(q, p), abs=1e-12)
    # The root of the divergence: where that is tiny, rounding is not, so that its square is compared.
    expected = jensenshannon(np.array(actual, float), np.array(reference, float), base=2)
    assert js is not None
    assert js**2 == pytest.approx(np.nan_to_num(expected) ** 2, abs=1e-12)
    if js > 1e-3:
        assert js == pytest.approx(expected, abs=1e-12)


@given(counts)
def test_symmetric_and_not_negative(pairs: list[tuple[int, int]]) -> None:
    one, other = [r for r, _ in pairs], [a for _, a in pairs]
    for measure in (population_stability_index, jensen_shannon_distance):
        there, back = measure(one, other), measure(other, one)
        assert (there is None) == (back is None)
        if there is not None and back is not None:
            assert there == pytest.approx(back, abs=1e-12)
            assert there >= 0
