"""Tables of a warehouse as Parquet files: BigQuery by its official client, Delta by its log."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from endcap.contracts.errors import ArtifactError, InputError, TransientError
from endcap.contracts.job import FEEDBACK_COLUMNS, REQUESTS_COLUMNS
from endcap.ingest import warehouse
from endcap.ingest.warehouse import export_bigquery, export_delta, is_delta
from tests.ingest.fake_bigquery import FakeBigQuery, serving

MOMENT = datetime(2026, 1, 31, 12, 30, 0, 5, tzinfo=UTC)
MOMENT_US = int(MOMENT.timestamp()) * 1_000_000 + 5
REQUESTS = [
    {
        "request_id": f"r{number}", "user_key": "k", "request_time": MOMENT_US, "surface": "home", "debug": "not asked for",
        "item_ids": ["a", "b"], "scores": [0.5, 0.25], "positions": [0, 1], "propensities": [0.5, 0.125],
    }
    for number in range(5)
]  # fmt: skip


@pytest.fixture
def bigquery(monkeypatch):
    with serving(FakeBigQuery(tables={"requests": REQUESTS, "feedback": []})) as fake:
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", fake.url)
        yield fake


def read(folder):
    return pa.concat_tables([pq.read_table(path) for path in sorted(folder.glob("*.parquet"))]).to_pylist()


def test_a_table_of_bigquery_comes_page_by_page_with_the_columns_asked_for(bigquery, tmp_path):
    assert export_bigquery("acme-shop", "recsys.requests", tmp_path, REQUESTS_COLUMNS) == 5
    rows = read(tmp_path)
    assert [row["request_id"] for row in rows] == ["r0", "r1", "r2", "r3", "r4"]
    assert set(rows[0]) == set(REQUESTS_COLUMNS)
    assert rows[0]["request_time"] == MOMENT
    assert (rows[0]["item_ids"], rows[0]["propensities"], rows[0]["variant"]) == (["a", "b"], [0.5, 0.125], None)
    assert sum("/data?" in call for call in bigquery.calls) == 3
    assert all("/projects/acme-shop/datasets/recsys/tables/requests" in call for call in bigquery.calls)


def test_an_empty_table_is_a_file_without_rows(bigquery, tmp_path):
    assert export_bigquery("acme-shop", "recsys.feedback", tmp_path, FEEDBACK_COLUMNS) == 0
    (path,) = tmp_path.glob("*.parquet")
    assert pq.read_table(path).column_names == list(FEEDBACK_COLUMNS)


def test_a_service_that_fails_for_a_moment_is_asked_again(bigquery, tmp_path):
    bigquery.faults = [503]
    assert export_bigquery("acme-shop", "recsys.requests", tmp_path, REQUESTS_COLUMNS) == 5


@pytest.mark.parametrize(
    ("table", "faults", "error", "said"),
    [
        ("recsys.nothing", [], InputError, "There is no table acme-shop.recsys.nothing"),
        ("recsys.requests", [403], InputError, "may not be read: .*roles/bigquery.dataViewer"),
        ("recsys.requests", [400], InputError, "can't be read"),
        ("recsys.requests", [503] * 99, TransientError, "can't be reached: .* Start the job again"),
    ],
)
def test_what_cannot_be_had_says_whose_turn_it_is(bigquery, tmp_path, monkeypatch, table, faults, error, said):
    monkeypatch.setattr(warehouse, "_RETRY_S", 0.5)
    bigquery.faults = faults
    with pytest.raises(error, match=said):
        export_bigquery("acme-shop", table, tmp_path, REQUESTS_COLUMNS)


def test_a_table_of_something_else_is_refused(bigquery, tmp_path):
    with pytest.raises(InputError, match="has none of the columns hour, feature; it has request_id, "):
        export_bigquery("acme-shop", "recsys.requests", tmp_path, ("hour", "feature"))


def test_nobody_listening_is_transient(tmp_path, monkeypatch):
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", "http://127.0.0.1:9")
    monkeypatch.setattr(warehouse, "_RETRY_S", 0.2)
    with pytest.raises(TransientError, match="can't be reached"):
        export_bigquery("acme-shop", "recsys.requests", tmp_path, REQUESTS_COLUMNS)


def test_of_a_delta_table_only_the_newest_version_counts(tmp_path):
    place = tmp_path / "table"
    write_deltalake(place, pa.table({"day": ["a", "b"], "n": [1, 2]}), partition_by=["day"])
    write_deltalake(place, pa.table({"day": ["b", "c"], "n": [3, 4]}), partition_by=["day"], mode="overwrite")
    assert is_delta(place)
    assert not is_delta(tmp_path)
    assert export_delta(place, tmp_path / "whole") == 2
    assert read(tmp_path / "whole") == [{"day": "b", "n": 3}, {"day": "c", "n": 4}]
    assert export_delta(place, tmp_path / "some", ["n", "absent"]) == 2
    assert read(tmp_path / "some") == [{"n": 3}, {"n": 4}]
    export_delta(place, tmp_path / "again")
    files = [path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").glob("*")]
    assert [(tmp_path / "again" / file).read_bytes() for file in files] == [
        (tmp_path / "whole" / file).read_bytes() for file in files
    ]


def test_many_rows_become_several_files(tmp_path, monkeypatch):
    monkeypatch.setattr(warehouse, "ROWS_PER_FILE", 2)
    for n in range(3):
        write_deltalake(tmp_path / "table", pa.table({"n": [2 * n, 2 * n + 1]}), mode="append")
    assert export_delta(tmp_path / "table", tmp_path / "out") == 6
    assert len(list((tmp_path / "out").iterdir())) == 3
    assert sorted(row["n"] for row in read(tmp_path / "out")) == list(range(6))


def test_a_delta_table_that_lost_a_file_is_damaged(tmp_path):
    write_deltalake(tmp_path / "table", pa.table({"n": [1]}))
    for path in (tmp_path / "table").glob("*.parquet"):
        path.unlink()
    with pytest.raises(ArtifactError, match="can't be read"):
        export_delta(tmp_path / "table", tmp_path / "out")
