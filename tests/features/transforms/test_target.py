"""The target: bounds and logarithm by hand, back again in its own units, and what leaves nothing to learn."""

import ibis
import msgspec
import numpy as np
import pyarrow as pa
import pytest

from endcap.contracts.errors import ColumnsError
from endcap.contracts.features import Target
from endcap.features.transforms.target import FittedTarget


def fitted(values, kind=None, **target):
    rows = ibis.memtable(pa.table({"value": pa.array(values, kind or pa.float64())}))
    return FittedTarget.fit(rows, Target.model_validate({"column": "value"} | target))


def test_clip_then_log_and_back():
    target = fitted([0.0, 1.0, 2.0, 3.0, 1000.0], clip={"p_low": 0.25, "p_high": 0.75}, log={})
    assert (target.clip.low, target.clip.high) == (1.0, 3.0)
    said = target.transform(pa.array([-5.0, 1.5, 1000.0, None, float("nan")]))
    np.testing.assert_allclose(said[:3], np.log1p([1.0, 1.5, 3.0]), rtol=1e-6)
    assert np.isnan(said[3:]).all()
    np.testing.assert_allclose(target.inverse(said[:3]), [1.0, 1.5, 3.0], rtol=1e-6)
    assert target.inverse([-9.0, 50.0, 1e9]).tolist() == [1.0, 3.0, 3.0]
    assert msgspec.json.decode(msgspec.json.encode(target), type=FittedTarget) == target


def test_without_clip_and_log_it_is_the_number():
    target = fitted([1, 5, None], pa.int64())
    assert target.transform(pa.array([1, 5])).tolist() == [1.0, 5.0]
    assert target.inverse([2.5, -3.0]).tolist() == [2.5, -3.0]
    assert np.isfinite(fitted([1.0, 2.0], log={}).inverse([1e9, -1e9])).all()


@pytest.mark.parametrize(
    ("values", "target", "message"),
    [
        ([3.0, 3.0, None], {}, "value is constant: found 3 in all 3 training rows, which leaves nothing to learn"),
        ([0.0, 1.0, 1.0, 1.0, 9.0], {"clip": {"p_low": 0.3, "p_high": 0.7}}, "value is constant after clip: found 1"),
        ([-2.0, 0.0, -1.0], {"log": {}}, "found nothing above 0 (-2 to 0), which log makes one number"),
        ([None, float("nan"), float("inf")], {}, "value is missing in all 3 training rows"),
        ([1.0, 2.0], {"column": "price"}, "the data has no column price; it has value."),
    ],
)
def test_what_leaves_nothing_to_learn_is_refused(values, target, message):
    with pytest.raises(ColumnsError) as caught:
        fitted(values, **target)
    assert message in str(caught.value)
    assert str(caught.value).startswith("features.target.column: ")


def test_numbers_alone_are_predicted():
    rows = ibis.memtable(pa.table({"value": ["1"]}))
    with pytest.raises(ColumnsError, match="value has to hold numbers; found string"):
        FittedTarget.fit(rows, Target(column="value"))
