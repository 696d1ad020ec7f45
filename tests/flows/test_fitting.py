"""The item map of a run is that of the purchases which may be known, in the order of the model's vocabulary."""

import numpy as np
import pyarrow.compute as pc
import pytest
import scipy.sparse as sp

from endcap.contracts.reporting import Silent
from endcap.flows import fitting
from endcap.flows.features import build_features
from endcap.models.item_map import solve_map


@pytest.mark.parametrize(("stage", "moment"), [("tune", "eval_start_us"), ("refit", "test_start_us")])
def test_the_item_map_knows_what_was_bought_before_the_period(trained_shop, configured, stage, moment):
    tables = build_features(trained_shop.workspace, trained_shop.configuration, Silent())
    configuration = configured("model.item_map_dim=4", "training.num_epochs=1")
    model = (
        fitting.tune(tables, configuration, Silent())
        if stage == "tune"
        else fitting.refit(tables, configuration, 1, Silent())
    )
    purchases = tables.table("purchases")
    purchases = purchases.filter(pc.less(purchases["ts_us"], getattr(tables.split, moment)))
    place = {item: number for number, item in enumerate(model.catalog.item_ids)}
    pairs = set(zip(purchases["user_id"].to_pylist(), purchases["item_id"].to_pylist(), strict=True))
    users = sorted({user for user, _ in pairs})
    bought = np.zeros((len(users), len(place)))
    for user, item in pairs:
        if item in place:
            bought[users.index(user), place[item]] = 1
    expected = solve_map(sp.csr_array(bought), 4, configuration.model.item_map_l2)
    found = model.trained.model.item_map
    assert not found.leads_NR[0].any()
    assert not found.candidates_NR[0].any()
    for name in ("leads_NR", "candidates_NR"):
        np.testing.assert_array_equal(getattr(found, name)[1:].numpy(), getattr(expected, name))
