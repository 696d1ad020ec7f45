"""Judging and reporting, where a shop is unlike the demo's."""

import numpy as np
import pytest

from endcap.contracts.release import Blessing, Lineage
from endcap.evaluation.compare import SystemRankings, compare
from endcap.evaluation.customers import HeldOutCustomers
from endcap.features.dataset import FeatureTables
from endcap.features.split import Split
from endcap.flows.judging import Judged, report_on


@pytest.mark.parametrize("num_items", [3, 9, 60])
def test_a_catalog_of_a_few_products_is_reported_too(num_items, configured, tmp_path):
    customers = HeldOutCustomers.from_purchases(
        earlier_user_nums=np.arange(5),
        earlier_item_nums=np.zeros(5, np.int64),
        earlier_basket_nums=np.arange(5),
        test_user_nums=np.arange(5),
        test_item_nums=np.full(5, 2),
        num_items=num_items,
    )
    every = np.tile(np.arange(num_items), (5, 1))
    new = np.where(every == 0, -1, every)[:, np.r_[1:num_items, 0]]
    systems = [SystemRankings(name, name, every, new) for name in ("model", "popular_lately")]
    compared = compare(systems[0], systems[1:], customers, seed=1, num_resamples=100)
    lineage = Lineage("run-1", "abc", 7, {"events": 0}, {"seed": 7}, {"numpy": "2"})
    split = Split(1, 2, 3, 10, 5, 5)
    judged = Judged(compared, Blessing("NOT_BLESSED", ["Equal to popular lately."]), [])
    paths = report_on(judged, "shop", FeatureTables(tmp_path, split), configured(), lineage, tmp_path / "report")
    assert "NOT_BLESSED" in paths.markdown.read_text(encoding="utf-8").splitlines()[0]
    assert paths.page.read_text(encoding="utf-8").rstrip().endswith("</html>")
