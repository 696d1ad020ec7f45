"""ALS against its normal equations, solved one row at a time."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from endcap.contracts.errors import InputError
from endcap.models.als import Als, factorize
from tests.models.purchase_logs import SPLIT, log

L2 = 2.0


@pytest.fixture(scope="module")
def weights():
    rng = np.random.default_rng(4)
    dense = np.where(rng.random((30, 20)) < 0.3, 1 + rng.uniform(1, 5, (30, 20)), 0.0)
    dense[7] = 0.0
    return sp.csr_array(dense)


def solved(weights, y_CF):
    """Each row's exact solution, from the paper's formula."""
    rows = []
    for row in weights.toarray():
        confidence = np.diag(np.where(row > 0, row, 1.0))
        system = y_CF.T @ confidence @ y_CF + L2 * np.eye(y_CF.shape[1])
        rows.append(np.linalg.solve(system, y_CF.T @ confidence @ (row > 0)))
    return np.array(rows)


def objective(weights, x_RF, y_CF):
    dense = weights.toarray()
    errors = np.where(dense > 0, dense, 1.0) * ((dense > 0) - x_RF @ y_CF.T) ** 2
    return errors.sum() + L2 * ((x_RF**2).sum() + (y_CF**2).sum())


def fitted(weights, **settings):
    return factorize(weights, **{"num_factors": 4, "l2": L2, "num_epochs": 30, "seed": 1, "num_threads": 1, **settings})


def test_it_ends_where_neither_side_can_be_bettered(weights):
    x_RF, y_CF = fitted(weights, num_epochs=300, num_steps=5)
    np.testing.assert_allclose(x_RF, solved(weights, y_CF), atol=2e-3)
    np.testing.assert_allclose(y_CF, solved(sp.csr_array(weights.T), x_RF), atol=2e-3)


def test_each_epoch_lowers_the_objective(weights):
    values = [objective(weights, *fitted(weights, num_epochs=num_epochs)) for num_epochs in (1, 2, 4, 8)]
    assert values == sorted(values, reverse=True)


def test_rows_dealt_to_more_threads_come_back_in_their_order(weights):
    threads = torch.get_num_threads()
    for one, two in zip(fitted(weights), fitted(weights, num_threads=2), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-4)
    assert torch.get_num_threads() == threads


def test_another_seed_starts_elsewhere(weights):
    assert not np.allclose(fitted(weights)[0], fitted(weights, seed=2)[0], atol=1e-4)


@pytest.mark.parametrize(
    "setting", [{"num_factors": 0}, {"num_epochs": 0}, {"num_threads": 0}, {"l2": 0.0}, {"alpha": 0.0}]
)
def test_settings_out_of_range_are_refused(setting):
    name, value = next(iter(setting.items()))
    with pytest.raises(InputError, match=f"{name} (is )?{value}"):
        Als.fit(log(), SPLIT, **setting)
