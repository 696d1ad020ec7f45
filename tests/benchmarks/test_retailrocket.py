"""What the benchmark holds out inside of the events, and what it counts."""

import numpy as np
import pyarrow as pa
import pytest

from benchmarks.quality.retailrocket import Asked, Events, inside, read
from endcap.contracts.errors import InputError

ROWS = [
    ("ann", "cup", "view_item", 1),
    ("ann", "cup", "purchase", 2),
    ("ann", "jug", "view_item", 3),
    ("ann", "jug", "purchase", 4),
    ("ann", "pan", "view_item", 5),
    ("bob", "cup", "purchase", 6),
]


def events(held):
    users, items, types, moments = zip(*ROWS, strict=True)
    table = pa.table({"user_id": users, "item_id": items, "event_type": types, "ts_us": pa.array(moments, pa.int64())})
    return Events(table, pa.table({"user_id": list(held), "item_id": list(held.values())}))


def test_the_last_purchase_goes_with_its_views_and_what_came_after_stays():
    found = inside(events({}))
    assert found.held.to_pylist() == [{"user_id": "ann", "item_id": "jug"}]
    assert found.table["item_id"].to_pylist() == ["cup", "cup", "pan", "cup"]


def test_what_the_user_met_is_no_answer_and_leaves_its_place():
    asked = Asked(events({"bob": "pan", "ann": "new"}))
    cup, jug, pan = (asked.items[name] for name in ("cup", "jug", "pan"))
    values = asked.values(np.array([[cup, jug, pan], [cup, jug, pan]]))
    assert values.tolist() == pytest.approx([1 / np.log2(3), 0.0])


def test_visits_are_baskets_and_what_is_held_out_is_known_to_nobody():
    asked = Asked(events({"bob": "pan"}))
    periods = asked.periods(with_signals=True)
    assert periods.is_eval.tolist() == [False] * 6 + [True]
    assert len(set(periods.basket_nums.tolist())) == 3
    assert asked.periods(with_signals=False).before_eval.sum() == 3


def test_data_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"events\.parquet.*--data"):
        read(tmp_path)
