"""Judging and reporting, where a shop is unlike the demo's."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from endcap.contracts.release import Blessing, Lineage
from endcap.evaluation.compare import SystemRankings, compare
from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.evaluation.metrics import RaggedSets
from endcap.features.dataset import FeatureTables
from endcap.features.split import Split
from endcap.flows.auc import aucs_on_test
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


def test_the_auc_of_a_release_is_of_all_its_scores():
    """Products 0 to 4; the first customer had 0 and bought 0 and 1, the second had 2 and bought 3 and what nobody sells."""
    scores = np.array([[5, 3, 4, 2, 1], [1, 2, 9, 2, 0]], np.float32)
    model = SimpleNamespace(
        index=SimpleNamespace(num_items=5),
        prepare=lambda asked: asked["row"].to_numpy(),
        scores=lambda rows: scores[rows],
    )
    customers = HeldOutCustomers(
        np.array([0, 1]),
        RaggedSets.from_lists([[0, 1], [3, 7]]),
        RaggedSets.from_lists([[0, 8], [2]]),
        np.ones(2, int),
        5,
    )
    found = aucs_on_test(model, pa.table({"row": [0, 1]}), customers)
    # 0 stands above all three others, 1 above two; 3 above two of four and beside one, the unknown product below all.
    assert found[Counting.ALL_PURCHASES] == pytest.approx([5 / 6, 2.5 / 8])
    # 0 is out: 1 stands above two of three; 2 is out: 3 stands above two of three and beside one.
    assert found[Counting.NEW_TO_CUSTOMER] == pytest.approx([2 / 3, 2.5 / 6])


def test_what_is_told_of_the_test_has_the_names_of_epochs(recorder):
    class Recommended(SimpleNamespace):
        def flat_metrics(self):
            return {"all_purchases/auc": 0.9, "new_to_customer/auc": 0.8}

    class Rated(SimpleNamespace):
        def flat_metrics(self):
            return {"auc": 0.7, "rmse": 0.6}

    blessing = Blessing("BLESSED", [])
    Judged(Recommended(), blessing, ratings=Rated()).tell(recorder)
    Judged(None, blessing, ratings=Rated()).tell(recorder)
    assert recorder.metrics == [
        (0, "auc", 0.9), (0, "new_to_customer/auc", 0.8), (0, "rating/auc", 0.7), (0, "rmse", 0.6),
        (0, "auc", 0.7), (0, "rmse", 0.6),
    ]  # fmt: skip
