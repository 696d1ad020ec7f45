"""A date of a table is there whole or not at all; equal rows have equal digests."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endcap.contracts.errors import ArtifactError
from endcap.workspace.dated import content_digest, date_files, find_date, list_dates, publish_date, remove_date

DAY = "2026-03-01"


def writing(*values: int):
    def write(path: Path) -> int:
        pq.write_table(pa.table({"n": list(values)}), path)
        return len(values)

    return write


def publish(folder: Path, *values: int, key: str = "k"):
    return publish_date(folder, "user_days", DAY, writing(*values), key=key, run_id="r")


def test_a_date_is_published_found_and_replaced(tmp_path):
    assert find_date(tmp_path, "user_days", DAY) is None
    first = publish(tmp_path, 1, 2)
    assert find_date(tmp_path, "user_days", DAY) == first
    assert (first.num_rows, first.key, first.run_id) == (2, "k", "r")
    second = publish(tmp_path, 3, key="other")
    assert find_date(tmp_path, "user_days", DAY) == second
    (file,) = date_files(tmp_path, "user_days", [DAY])
    assert pq.read_table(file, partitioning=None)["n"].to_pylist() == [3]
    # Any tool reads the folder as one table.
    assert pq.read_table(tmp_path / "user_days")["event_date"].to_pylist() == [DAY]
    assert sorted(path.name for path in Path(file).parent.iterdir()) == ["_manifest.json", "part.parquet"]


def test_a_write_that_dies_leaves_what_was_there(tmp_path):
    first = publish(tmp_path, 1, 2)

    def dies(path: Path) -> int:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        publish_date(tmp_path, "user_days", DAY, dies, key="k", run_id="r")
    assert find_date(tmp_path, "user_days", DAY) == first
    (file,) = date_files(tmp_path, "user_days", [DAY])
    assert sorted(path.name for path in Path(file).parent.iterdir()) == ["_manifest.json", "part.parquet"]


@pytest.mark.parametrize("name", ["part.parquet", "_manifest.json"])
def test_a_date_that_is_not_whole_is_not_there(tmp_path, name):
    publish(tmp_path, 1, 2)
    path = tmp_path / "user_days" / f"event_date={DAY}" / name
    path.write_bytes(b"{}")
    assert find_date(tmp_path, "user_days", DAY) is None
    with pytest.raises(ArtifactError, match=f"lacks 1 of 1 dates.*endcap backfill --from {DAY} --to {DAY}"):
        date_files(tmp_path, "user_days", [DAY])
    path.unlink()
    assert find_date(tmp_path, "user_days", DAY) is None


def test_damage_that_keeps_the_size_is_found(tmp_path):
    publish(tmp_path, 1, 2)
    (file,) = map(Path, date_files(tmp_path, "user_days", [DAY]))
    found = file.read_bytes()
    place = len(found) // 2
    file.write_bytes(found[:place] + bytes([found[place] ^ 1]) + found[place + 1 :])
    assert find_date(tmp_path, "user_days", DAY) is None


def test_dates_on_disk_are_listed_whole_or_not_and_removed(tmp_path):
    publish(tmp_path, 1, 2)
    (tmp_path / "item_days" / "event_date=2026-02-01").mkdir(parents=True)
    tables = ("user_days", "item_days")
    assert list_dates(tmp_path, tables) == ["2026-02-01", DAY]
    for table in tables:
        remove_date(tmp_path, table, DAY)
        remove_date(tmp_path, table, DAY)
    assert list_dates(tmp_path, tables) == ["2026-02-01"]


SCHEMA = pa.schema([
    ("user_id", pa.string()), ("n", pa.int64()), ("value", pa.decimal128(18, 4)), ("day", pa.date32()),
    ("share", pa.float64()), ("is_known", pa.bool_()),
])  # fmt: skip
ROWS = st.lists(
    st.fixed_dictionaries({
        "user_id": st.none() | st.text(max_size=3), "n": st.none() | st.integers(-9, 9),
        "value": st.none() | st.decimals(-9, 9, places=4), "day": st.none() | st.dates(date(1960, 1, 1), date(2030, 1, 1)),
        "share": st.none() | st.floats(0, 1), "is_known": st.none() | st.booleans(),
    }),
    max_size=5,
)  # fmt: skip


@settings(deadline=None)
@given(rows=ROWS, other=ROWS, cut=st.integers(0, 5))
def test_the_digest_is_of_the_rows_alone(rows, other, cut):
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    pieces = pa.concat_tables([table.slice(0, cut), table.slice(cut)])
    assert content_digest(pieces) == content_digest(table)
    behind = pa.concat_tables([pa.Table.from_pylist(other, schema=SCHEMA), table]).combine_chunks().slice(len(other))
    assert content_digest(behind) == content_digest(table)
    differ = pa.Table.from_pylist(other, schema=SCHEMA)
    assert (content_digest(differ) == content_digest(table)) == differ.equals(table)


def test_what_stands_below_a_null_does_not_count():
    mask = [False, True]
    left = pa.table({"n": pa.array([1, 7], mask=pa.array(mask).to_numpy(zero_copy_only=False))})
    assert content_digest(left) == content_digest(pa.table({"n": pa.array([1, None])}))
    assert content_digest(left) != content_digest(pa.table({"n": pa.array([1, 0])}))
    assert content_digest(pa.table({"a": pa.array([1])})) != content_digest(pa.table({"b": pa.array([1])}))
    assert content_digest(pa.table({"v": [Decimal("1.0")]})) != content_digest(pa.table({"v": [Decimal("1.00")]}))
