"""The item map of a run is that of the purchases which may be known, in the order of the model's vocabulary."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import scipy.sparse as sp

from endcap.contracts.reporting import Silent
from endcap.features.dataset import FeatureTables
from endcap.features.split import Split
from endcap.flows import fitting
from endcap.flows.features import build_features
from endcap.models.item_map import solve_map
from endcap.models.neighbors import count_neighbors


@pytest.mark.parametrize(("stage", "moment"), [("eval", "eval_start_us"), ("test", "test_start_us")])
@pytest.mark.parametrize("types", [["purchase"], ["purchase", "view_item"], ["view_item"]])
def test_neighbors_know_what_happened_before_the_period(tmp_path, configured, stage, moment, types):
    bought = [
        ("anna", "x", 0, "train"),
        ("anna", "y", 1, "train"),
        ("bert", "x", 10, "eval"),
        ("bert", "z", 11, "eval"),
    ]
    viewed = [
        ("anna", "z", 2, "train"),
        ("bert", "y", 12, "eval"),
        ("bert", "unheard of", 12, "eval"),
        ("anna", "x", 9, "train"),
    ]

    def table(rows, event_type):
        users, items, hours, periods = zip(*rows, strict=True)
        moments = [hour * 60_000_000 for hour in hours]
        return pa.table({
            "user_id": users, "item_id": items, "ts_us": moments, "period": periods, "event_type": [event_type] * len(rows),
        })  # fmt: skip

    purchases, signals = table(bought, "purchase"), table(viewed, "view_item")
    pq.write_table(purchases, tmp_path / "purchases.parquet")
    if "view_item" in types:
        pq.write_table(pa.concat_tables([signals, table(bought, "add_to_cart")]), tmp_path / "signals.parquet")
    tables = FeatureTables(tmp_path, Split(9 * 60_000_000 + 1, 20 * 60_000_000, 30 * 60_000_000, 2, 2, 0))
    configuration = configured(
        "model.neighbors=2", f"features.buyer.user_history.sequence.event_types=[{','.join(types)}]"
    )
    found = fitting.neighbors_before(
        stage, tables, configuration, SimpleNamespace(item_ids=["x", "y", "z"], num_items=3)
    )
    acts = [row for name, rows in (("purchase", bought), ("view_item", viewed)) if name in types for row in rows]
    acts = [row for row in acts if row[1] != "unheard of" and row[2] * 60_000_000 < getattr(tables.split, moment)]
    users, items, moments = (
        np.array(x) for x in zip(*((r[0] == "bert", "xyz".index(r[1]), r[2] * 60_000_000) for r in acts), strict=True)
    )
    expected = count_neighbors(users.astype(np.int64), items, moments, 3, 2)
    np.testing.assert_array_equal(found.items_NK, expected.items_NK)
    np.testing.assert_allclose(found.weights_NK, expected.weights_NK, rtol=1e-6)


@pytest.mark.parametrize(("stage", "moment"), [("tune", "eval_start_us"), ("refit", "test_start_us")])
def test_the_item_map_knows_what_was_bought_before_the_period(trained_shop, configured, recorder, stage, moment):
    tables = build_features(trained_shop.workspace, trained_shop.configuration, Silent())
    configuration = configured("model.item_map_dim=4", "training.num_epochs=1")
    model = (
        fitting.tune(tables, configuration, recorder)
        if stage == "tune"
        else fitting.refit(tables, configuration, 1, recorder)
    )
    losses = [(step, name) for step, name, _ in recorder.metrics if name.endswith("loss")]
    assert losses == [(1, {"tune": "loss", "refit": "refit/loss"}[stage])]
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
