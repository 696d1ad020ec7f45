"""A run's rankings and truth as files, and back."""

import numpy as np
import pyarrow as pa
import pytest

from endcap.contracts.errors import ArtifactError
from endcap.evaluation.compare import SystemRankings
from endcap.evaluation.customers import Counting, HeldOutCustomers
from endcap.evaluation.kept import has_kept, keep, kept_tables, read_kept
from endcap.evaluation.lists import read_lists, read_truth
from endcap.evaluation.metrics import RaggedSets
from endcap.evaluation.runs import Settings, compare_lists

# Customer 0 bought 0 before and 0, 1 later; customer 1 bought 2 before and again, and 4, which nobody sold before.
CUSTOMERS = HeldOutCustomers(
    user_nums=np.array([5, 8]),
    bought=RaggedSets.from_lists([[0, 1], [2, 4]]),
    earlier=RaggedSets.from_lists([[0], [2]]),
    num_earlier_baskets=np.array([1, 3]),
    num_items=4,
)
SYSTEM = SystemRankings("m", "m", np.array([[0, 2, 1, 3], [3, 2, 1, 0]]), np.array([[1, 2, 3, -1], [3, 1, 0, -1]]))


def test_what_is_kept_reads_back_under_each_counting(tmp_path):
    keep(tmp_path, *kept_tables(SYSTEM, CUSTOMERS, ["aa", "bb"], pa.array(["p0", "p1", "p2", "p3", "later"])))
    assert has_kept(tmp_path)
    rankings, truth = read_kept(tmp_path, Counting.ALL_PURCHASES)
    assert rankings.to_pylist() == [
        {"user_key": "aa", "item_ids": ["p0", "p2", "p1", "p3"]},
        {"user_key": "bb", "item_ids": ["p3", "p2", "p1", "p0"]},
    ]
    assert truth["item_id"].to_pylist() == ["p0", "p1", "p2", "later"]
    assert truth["num_earlier_baskets"].to_pylist() == [1, 1, 3, 3]
    rankings, truth = read_kept(tmp_path, Counting.NEW_TO_CUSTOMER)
    assert rankings["item_ids"].to_pylist()[0] == ["p1", "p2", "p3"]
    assert truth["item_id"].to_pylist() == ["p1", "later"]
    found = compare_lists([read_lists(rankings, "m")], read_truth(truth), settings=Settings(ks=(1,), num_resamples=5))
    assert found.reference.metrics["recall@1"].mean == 0.5


def test_damaged_files_are_told(tmp_path):
    keep(tmp_path, *kept_tables(SYSTEM, CUSTOMERS, ["aa", "bb"], pa.array(["p0", "p1", "p2", "p3", "later"])))
    (tmp_path / "truth.parquet").write_bytes(b"nothing")
    with pytest.raises(ArtifactError, match="endcap evaluate RELEASE"):
        read_kept(tmp_path, Counting.ALL_PURCHASES)
    (tmp_path / "truth.parquet").unlink()
    assert not has_kept(tmp_path)
