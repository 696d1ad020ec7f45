"""A file's rows become questions, each negative stands behind its own, and what doesn't fit is refused by name."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError
from endcap.features.spine import positives, read_spine, with_negatives

MOMENT = datetime(2026, 1, 5, 12, tzinfo=UTC)
MOMENT_US = round(MOMENT.timestamp() * 1_000_000)
GOOD = {
    "user_id": ["007", "b"],
    "item_id": ["cup", None],
    "event_time_us": [MOMENT_US, 5],
    "label": [1, 0],
    "device": ["x", "y"],
}


@pytest.fixture
def written(tmp_path):
    """A function that writes columns as Parquet or CSV and gives the path."""

    def write(columns, suffix=".parquet"):
        path = tmp_path / f"asked{suffix}"
        table = pa.table(columns)
        pa_csv.write_csv(table, path) if suffix == ".csv" else pq.write_table(table, path)
        return path

    return write


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_rows_are_numbered_and_ids_stay_text(written, suffix):
    found = read_spine(written(GOOD, suffix))
    assert found.column_names == [
        "query_num",
        "row_number",
        "place",
        "user_id",
        "item_id",
        "event_time_us",
        "label",
        "device",
    ]
    assert found.select(["query_num", "user_id", "item_id", "event_time_us", "label"]).to_pylist() == [
        {"query_num": 0, "user_id": "007", "item_id": "cup", "event_time_us": MOMENT_US, "label": 1},
        {"query_num": 1, "user_id": "b", "item_id": None, "event_time_us": 5, "label": 0},
    ]


@pytest.mark.parametrize(
    "moment", [pa.array([MOMENT]), pa.array([MOMENT.replace(tzinfo=None)], pa.timestamp("s")), pa.array(["2026-01-05T12:00:00Z"])]
)  # fmt: skip
def test_moments_are_utc_whatever_their_form(written, moment):
    columns = {"user_id": ["a"], "item_id": ["cup"], "event_time": moment}
    suffix = ".csv" if pa.types.is_string(moment.type) else ".parquet"
    assert read_spine(written(columns, suffix))["event_time_us"].to_pylist() == [MOMENT_US]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_id": None}, "has no column user_id; it has: item_id"),
        ({"event_time_us": None}, "has no moment; expected one of event_time"),
        ({"event_time": [MOMENT, MOMENT]}, "has event_time and event_time_us; expected one"),
        ({"query_num": [1, 2]}, "has a column query_num, which the spine gets here"),
        ({"user_id": ["a", None]}, "1 rows have no user_id, the first is row 1"),
        ({"user_id": [1.5, 2.0]}, "user_id is double; expected text or whole numbers"),
        ({"event_time_us": None, "event_time": [1, 2]}, "event_time is int64; expected a timestamp"),
        ({"label": [1, 7]}, "label has the value 7; expected 0, 1 or nothing"),
        ({"label": ["yes", "no"]}, "label is string; expected 0 and 1"),
    ],
)
def test_what_does_not_fit_is_refused(written, changes, message):
    columns = {name: values for name, values in (GOOD | changes).items() if values is not None}
    with pytest.raises(InputError, match=message):
        read_spine(written(columns))


def test_what_is_no_table_is_refused(tmp_path, written):
    with pytest.raises(InputError, match="There is no file"):
        read_spine(tmp_path / "none.parquet")
    (tmp_path / "text.parquet").write_text("no")
    with pytest.raises(InputError, match=r"can't be read: .* Expected a Parquet file"):
        read_spine(tmp_path / "text.parquet")
    with pytest.raises(InputError, match="has no rows"):
        read_spine(written({name: values[:0] for name, values in GOOD.items()}))


def test_negatives_stand_behind_their_row(written):
    spine = read_spine(written(GOOD | {"item_id": ["cup", "jug"], "label": [1, 1]}))
    drawn = pa.table({"query_num": [0, 0, 1], "place": [0, 1, 0], "item_id": ["tin", "urn", "tin"]})
    rows = with_negatives(spine, drawn).to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        (0, 0, None, "007", "cup", MOMENT_US, 1, "x"), (1, 0, 0, "007", "tin", MOMENT_US, 0, None),
        (2, 0, 1, "007", "urn", MOMENT_US, 0, None), (3, 1, None, "b", "jug", 5, 1, "y"),
        (4, 1, 0, "b", "tin", 5, 0, None),
    ]  # fmt: skip
    unlabelled = with_negatives(spine.drop_columns(["label"]), drawn)
    assert unlabelled["label"].to_pylist() == [1, 0, 0, 1, 0]


def test_what_negatives_are_drawn_for(written):
    spine = read_spine(written(GOOD | {"label": [0, 1]}))
    assert positives(spine).num_rows == 0
    assert positives(spine.drop_columns(["label"]))["query_num"].to_pylist() == [0]
