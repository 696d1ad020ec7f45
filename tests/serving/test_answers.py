"""Product ids as JSON fragments: whatever the ids, the joined list reads back as they are."""

import json

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from endcap.serving.answers import IdFragments

STRINGS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
INTEGERS = st.integers(-(2**63), 2**63 - 1)


@given(st.lists(STRINGS, min_size=1, max_size=20) | st.lists(INTEGERS, min_size=1, max_size=20), st.data())
@example(["a" * 200, "b", "c", "d"], None)
@example(["a\0b", "abc"], None)
@example(["a\x1fb", "~ ~"], None)
@example(["a\x7fb", "~ ~"], None)
@example(["22423", "85123A", 'quote"d', "ünïcode", " "], None)
def test_joined_ids_read_back(ids, data):
    rows = list(range(len(ids)))
    if data is not None:
        rows = data.draw(st.lists(st.sampled_from(rows), max_size=30))
    array = np.array(ids, dtype=np.str_ if isinstance(ids[0], str) else np.int64)
    assert json.loads(IdFragments(array).join(np.array(rows, dtype=np.int64))) == [ids[row] for row in rows]


def test_ids_of_one_length_carry_no_padding():
    assert IdFragments(np.array(["p1", "p2"])).join(np.array([1, 0])) == b'["p2","p1"]'
