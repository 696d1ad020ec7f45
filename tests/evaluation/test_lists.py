"""The rules by which anyone's tables become rankings and sets, each worked by hand, and what is refused."""

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError
from endcap.evaluation.files import ids_of, read_file
from endcap.evaluation.lists import number_items, rank_lists, read_lists, read_truth, relevant_sets, wanting_users


def ranked(rows, truth, depth=3, **columns):
    """Each customer's list as ids, and the notes; `rows` are columns of a table of recommendations."""
    lists = read_lists(pa.table(rows), "run")
    wanted = read_truth(pa.table(truth))
    users = wanting_users(wanted)
    items = number_items(None, [wanted.items, lists.items])
    found = rank_lists(lists, users, items, depth)
    names = items.to_pylist()
    return {
        user: [names[place] if place >= 0 else None for place in row]
        for user, row in zip(users.to_pylist(), found.rankings.tolist(), strict=True)
    }, found


TRUTH = {"user_id": [1, 2], "item_id": ["a", "b"]}


def test_ranks_rise_from_whatever_they_begin_with_whatever_the_order_of_rows():
    found, lists = ranked({"user_id": [1, 2, 1, 1], "item_id": ["z", "y", "x", "w"], "rank": [30, 0, 7, 8]}, TRUTH)
    assert found == {"1": ["x", "w", "z"], "2": ["y", None, None]}
    assert lists.notes == ()


def test_scores_fall_and_equal_ones_stand_by_id_as_text():
    rows = {"user_id": [1, 1, 1, 2], "item_id": [10, 9, 8, 7], "score": [0.5, 0.5, 0.9, 1.0]}
    found, lists = ranked(rows, TRUTH)
    assert found == {"1": ["8", "10", "9"], "2": ["7", None, None]}  # as text, 10 comes before 9
    assert lists.notes == ("1 products have the score of the one before; equal scores stand by id, as text, rising.",)


def test_whole_numbers_that_lie_close_together_are_counted_across_chunks_and_below_zero():
    column = pa.chunked_array(
        [pa.array([7, -2], pa.int64()), pa.array([], pa.int64()), pa.array([-2, 0, 7], pa.int64())]
    )
    found = ids_of(column, "item_id", "x")
    assert found.ids.to_pylist() == ["-2", "0", "7"]
    assert found.codes.tolist() == [2, 0, 0, 1, 2]


def test_lists_of_one_length_are_cut_or_padded_to_the_depth():
    rows = {"user_id": [1, 1, 2, 2], "item_id": ["x", "y", "z", "w"], "rank": [1, 2, 1, 2]}
    for depth, expected in (
        (1, [["x"], ["z"]]),
        (2, [["x", "y"], ["z", "w"]]),
        (3, [["x", "y", None], ["z", "w", None]]),
    ):
        assert list(ranked(rows, TRUTH, depth)[0].values()) == expected


def test_where_both_are_given_the_rank_decides():
    rows = {"user_id": [1, 1, 2], "item_id": ["a", "b", "c"], "rank": [2, 1, 1], "score": [0.9, 0.1, 0.5]}
    assert ranked(rows, TRUTH)[0]["1"] == ["b", "a", None]


def test_a_product_keeps_its_better_place_and_those_behind_close_up():
    rows = {"user_id": [1] * 4 + [2], "item_id": ["a", "b", "a", "c", "b"], "rank": [1, 2, 3, 4, 1]}
    found, lists = ranked(rows, TRUTH)
    assert found["1"] == ["a", "b", "c"]
    assert lists.notes == ("1 repeats of a product in a list were left out; its better place counts.",)


def test_lists_in_one_column():
    rows = {"user_id": [2, 1, 9], "item_ids": [["x", "y", "z", "w"], ["w"], ["x"]]}
    found, lists = ranked(rows, TRUTH)
    assert found == {"1": ["w", None, None], "2": ["x", "y", "z"]}
    assert lists.notes == ("1 customers have a list but no truth; they are left out.",)


def test_customers_without_a_list_stay_and_lists_may_be_empty():
    found, lists = ranked({"user_id": [1, 2], "item_ids": [["x"], []]}, TRUTH)
    assert found == {"1": ["x", None, None], "2": [None, None, None]}
    assert lists.num_without_list == 1
    assert "1 of 2 customers have truth but no list; they count as having found nothing." in lists.notes
    assert "No list is longer than 1; what a larger k asks for beyond it is a miss." in lists.notes


@pytest.mark.parametrize(
    "users", [[1, 2], [1.0, 2.0], ["1", "2"], pa.array([1, 2], pa.uint8()), pa.array(["1", "2"]).dictionary_encode()]
)
def test_ids_are_matched_as_text_whatever_their_type(users):
    assert ranked({"user_id": users, "item_id": ["a", "b"], "rank": [1, 1]}, TRUTH)[0] == {
        "1": ["a", None, None],
        "2": ["b", None, None],
    }


def test_truth_counts_repeats_once_and_leaves_out_what_was_not_wanted():
    table = pa.table({"user_id": [1, 1, 1, 2, 3], "item_id": ["a", "a", "b", "c", "d"], "value": [2, 1, 0, 5, -1]})
    truth = read_truth(table)
    users = wanting_users(truth)
    assert users.to_pylist() == ["1", "2"]
    sets = relevant_sets(truth, users, number_items(None, [truth.items]))
    assert (sets.lengths.tolist(), sets.values.tolist()) == ([1, 1], [0, 2])


def test_the_catalog_comes_first_then_the_rest_by_text():
    others = ids_of(pa.chunked_array([["z", "b", "a"]]), "item_id", "x")
    assert number_items(pa.array(["c", "b"]), [others]).to_pylist() == ["c", "b", "a", "z"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"user_id": [1], "item_id": ["a"]}, "found the columns user_id, item_id; expected rank .* or score"),
        ({"user_id": [1], "rank": [1]}, "found the columns user_id, rank; expected item_id too"),
        ({"customer": [1], "item_id": ["a"], "rank": [1]}, "neither of the columns user_id and user_key"),
        ({"user_id": [1, None], "item_id": ["a", "b"], "rank": [1, 2]}, "1 of 2 rows have no user_id"),
        ({"user_id": [1], "item_id": [1.5], "rank": [1]}, "item_id holds fractions"),
        ({"user_id": [True], "item_id": ["a"], "rank": [1]}, "user_id holds bool where ids were expected"),
        ({"user_id": [1], "item_id": ["a"], "rank": ["first"]}, "rank holds string, expected numbers"),
        (
            {"user_id": [1, 1], "item_id": ["a", "b"], "score": [0.5, float("nan")]},
            "missing or not finite in 1 of 2 rows",
        ),
        ({"user_id": [1, 1], "item_id": ["a", "b"], "rank": [1, 1]}, "1 customers have one rank twice"),
        ({"user_id": [1, 1], "item_ids": [["a"], ["b"]]}, "1 customers have several rows of item_ids"),
        ({"user_id": [1], "item_ids": pa.array([[]], pa.list_(pa.string()))}, "all lists are empty"),
        ({"user_id": [1], "item_ids": ["a b"]}, "A CSV file can't hold lists"),
        ({"user_id": ["u1"], "item_id": ["a"], "rank": [1]}, "1 distinct ids, none of digits alone, 2 to 2 characters"),
    ],
)
def test_recommendations_that_can_not_be_read_are_refused(rows, message):
    with pytest.raises(InputError, match=message):
        ranked(rows, TRUTH)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({"user_id": [1], "item_id": ["a"], "value": [0]}, "no row has a value above 0"),
        ({"user_id": [1, 2], "item_id": ["a", "b"], "value": [1, None]}, "value is missing or not finite in 1 of 2"),
        ({"user_id": [1], "product": ["a"]}, "found the columns user_id, product; expected item_id too"),
    ],
)
def test_truth_that_can_not_be_read_is_refused(rows, message):
    with pytest.raises(InputError, match=message):
        read_truth(pa.table(rows))


def test_csv_keeps_leading_zeros_and_words_that_look_like_nothing(tmp_path):
    (tmp_path / "lists.csv").write_text("user_id,item_id,rank\n007,NA,1\n007,0010,2\n")
    found = read_file(tmp_path / "lists.csv", "x")
    assert found["user_id"].to_pylist() == ["007", "007"]
    assert found["item_id"].to_pylist() == ["NA", "0010"]
    assert found["rank"].to_pylist() == [1, 2]


def test_a_folder_of_parts_is_one_table(tmp_path):
    for number in range(2):
        pq.write_table(pa.table({"user_id": [number]}), tmp_path / f"part-{number}.parquet")
    assert sorted(read_file(tmp_path, "x")["user_id"].to_pylist()) == [0, 1]


def test_parquet_keeps_what_stands_in_it_whatever_the_width_of_its_numbers(tmp_path):
    table = pa.table(
        {
            "item_id": ["b", "a", "b", "c"],
            "user_id": pa.array([-(2**31), 2**31 - 1, 0, 7]),
            "session": pa.array([1, None, 3, 4]),
            "item_ids": [[1], [], [2, 3], None],
            "stamp": pa.array([2**31, 0, 1, 2]),
            "rank": pa.array([4, 3, 2, 1]),
        }
    )
    pq.write_table(table, tmp_path / "lists.parquet", row_group_size=3)
    found = read_file(tmp_path / "lists.parquet", "x")
    assert found.to_pydict() == table.to_pydict()
    assert found.column_names == table.column_names
    narrow = [field.name for field in found.schema if field.type == pa.int32()]
    assert narrow == ["user_id", "rank"]
    pq.write_table(table, tmp_path / "untold.parquet", write_statistics=False)
    assert read_file(tmp_path / "untold.parquet", "x").to_pydict() == table.to_pydict()
    pq.write_table(table.slice(0, 0), tmp_path / "none.parquet")
    with pytest.raises(InputError, match="has no rows"):
        read_file(tmp_path / "none.parquet", "x")


def test_files_that_can_not_be_read_are_refused(tmp_path):
    (tmp_path / "empty.parquet").touch()
    (tmp_path / "text.parquet").write_text("a,b\n1,2\n")
    (tmp_path / "odd.csv").write_text("a,b\n1,2,3\n")
    pa_csv.write_csv(pa.table({"user_id": pa.array([], pa.string())}), tmp_path / "none.csv")
    for name, message in {
        "no.parquet": "does not exist",
        "empty.parquet": r"is empty \(0 bytes\)",
        "text.parquet": r"can't be read; Parquet \(what ends in .csv",
        "odd.csv": "can't be read; CSV with one header line",
        "none.csv": "has no rows",
    }.items():
        with pytest.raises(InputError, match=message):
            read_file(tmp_path / name, "the truth")
