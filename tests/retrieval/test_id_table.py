"""Rows of ids: as a dictionary would have them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endcap.retrieval.id_table import IdTable, rows_of_lists

INT64 = st.integers(-(2**63), 2**63 - 1)


@given(
    st.sets(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), min_size=1),
    st.data(),
)
def test_texts_as_in_a_dictionary(ids, data):
    known = sorted(ids)
    asked = data.draw(st.lists(st.sampled_from(known) | st.text()))
    row_by_id = {item_id: row for row, item_id in enumerate(known)}
    assert IdTable(np.array(known)).rows_of(asked).tolist() == [row_by_id.get(item_id, -1) for item_id in asked]


@given(st.integers(1, 20), st.data())
def test_texts_of_one_length_as_in_a_dictionary(length, data):
    letters = st.characters(codec="ascii", exclude_characters="\0")
    known = sorted(data.draw(st.sets(st.text(letters, min_size=length, max_size=length), min_size=1)))
    other = st.text(letters, min_size=length, max_size=length) | st.text(max_size=length + 1)
    asked = data.draw(st.lists(st.sampled_from(known) | other))
    row_by_id = {item_id: row for row, item_id in enumerate(known)}
    assert IdTable(np.array(known)).rows_of(asked).tolist() == [row_by_id.get(item_id, -1) for item_id in asked]


def test_texts_that_are_as_long_as_others_together_are_told_apart():
    table = IdTable(np.array(["ab\ncd", "abcde", "fghij"]))
    assert table.rows_of(["ab\ncd", "fghij"]).tolist() == [0, 2]
    table = IdTable(np.array(["abcde", "fghij"]))
    asked = ["abcd", "efghij", "fghij", "abc", "abcdefg", "ab\ncd", "abcde\n", "\nabcde", "", "äbcde", "abcde"]
    assert table.rows_of(asked).tolist() == [-1, -1, 1, -1, -1, -1, -1, -1, -1, -1, 0]
    assert table.rows_of([]).tolist() == []
    assert table.rows_of(["\ud800bcde", "abcde"]).tolist() == [-1, 0]


def test_many_texts_of_one_length_have_hashes_of_their_own():
    ids = [f"{number:017d}" for number in range(0, 10**6, 7)]
    table = IdTable(np.array(ids))
    np.testing.assert_array_equal(table.rows_of(ids[::-1]), np.arange(len(ids))[::-1])
    assert (table.rows_of([f"{number:017d}" for number in range(1, 10**6, 7)]) == -1).all()


@given(st.sets(INT64, min_size=1), st.data())
def test_numbers_as_in_a_dictionary(ids, data):
    known = sorted(ids)
    asked = data.draw(st.lists(st.sampled_from(known) | INT64))
    row_by_id = {item_id: row for row, item_id in enumerate(known)}
    assert IdTable(np.array(known, dtype=np.int64)).rows_of(asked).tolist() == [row_by_id.get(one, -1) for one in asked]


def test_numbers_of_one_hash_are_told_apart():
    one, alike = 5, 5 + 2**61 - 1
    assert hash(one) == hash(alike)
    table = IdTable(np.array([one, 7]))
    assert table.rows_of([alike, one, 7, 10**30]).tolist() == [-1, 0, 1, -1]


@pytest.mark.parametrize("step", [1, 2**10, 2**20, 2**40])
def test_numbers_at_any_distance(step):
    ids = np.arange(5000, dtype=np.int64) * step
    table = IdTable(ids)
    np.testing.assert_array_equal(table.rows_of(ids[::-1].tolist()), np.arange(5000)[::-1])
    assert (table.rows_of((ids + 5000 * step).tolist()) == -1).all()


def test_more_ids_than_are_read_at_once():
    ids = np.array([f"product-{number}" for number in range(70_000)])
    np.testing.assert_array_equal(IdTable(ids).rows_of(ids[65_000:].tolist()), np.arange(65_000, 70_000))


def test_several_lists_by_one_look():
    table = IdTable(np.array(["cup", "pot"]))
    calls = []

    def rows_of(ids):
        calls.append(ids)
        return table.rows_of(ids)

    found = rows_of_lists(rows_of, [["pot", "jug"], None, [], ["cup"]])
    assert [None if rows is None else rows.tolist() for rows in found] == [[1, -1], None, [], [0]]
    assert len(calls) == 1
    assert rows_of_lists(rows_of, [None, None]) == [None, None]
    assert len(calls) == 1
