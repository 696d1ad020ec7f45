"""Groups of truth rows from columns of any kind."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from endcap.contracts.errors import InputError
from endcap.evaluation.slices import slice_by, slice_by_count


def grouped(column):
    found = slice_by("x", pa.chunked_array([column]))
    return [found.labels[code] for code in found.codes]


def test_texts_truth_values_and_dates_keep_their_names():
    assert grouped(pa.array(["b", "a", None, "b"])) == ["b", "a", "(missing)", "b"]
    assert grouped(pa.array([True, False])) == ["true", "false"]
    moments = [datetime(2026, 1, 2, 3, tzinfo=UTC), datetime(2026, 1, 2, 23, tzinfo=UTC)]
    assert grouped(pa.array(moments)) == ["2026-01-02", "2026-01-02"]


def test_rare_texts_share_a_group():
    found = slice_by("x", pa.chunked_array([[f"v{i:02d}" for i in range(15)] + ["v14"]]))
    assert found.labels[0] == "v14"
    assert found.labels[-1] == "(other) 3 more values"
    assert (found.codes == 12).sum() == 3


def test_few_numbers_stay_and_many_become_quarters_that_hold_every_row():
    assert grouped(pa.array([2, 1, 2, None])) == ["2", "1", "2", "(missing)"]
    assert grouped(pa.array([None, None], pa.float64())) == ["(missing)", "(missing)"]
    found = slice_by("x", pa.chunked_array([np.arange(100)]))
    assert found.labels == ("0 to 24", "25 to 49", "50 to 74", "75 to 99")
    assert np.bincount(found.codes).tolist() == [25, 25, 25, 25]
    skewed = slice_by("x", pa.chunked_array([[0] * 80 + list(range(1, 21))]))
    assert skewed.labels == ("0", "1 to 20")


def test_counts_go_by_their_edges_and_the_rest_belongs_nowhere():
    found = slice_by_count("x", np.array([0, 1, 5, 9]), (("one", 1, 1), ("more", 5, None)))
    assert found.codes.tolist() == [-1, 0, 1, 1]


def test_lists_are_no_groups():
    with pytest.raises(InputError, match="expected text, numbers, dates or truth values"):
        slice_by("x", pa.chunked_array([[[1], [2]]]))
