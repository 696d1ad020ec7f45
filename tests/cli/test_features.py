"""`endcap features spine` and `covisitation`, as they are typed: files, manifest, what is refused."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.events import PURCHASE
from endcap.features import default, exact
from endcap.workspace.tables import read_table


@pytest.fixture(scope="module")
def asked(ingested_shop, tmp_path_factory):
    """Three purchases of the shop, far apart, as a file."""
    events = read_table(ingested_shop, "events", columns=["user_id", "item_id", "ts_us", "event_type"])
    bought = events.filter(pa.compute.equal(events["event_type"], PURCHASE)).drop_columns(["event_type"])
    path = tmp_path_factory.mktemp("asked") / "asked.parquet"
    rows = bought.take(pa.array([0, bought.num_rows // 2, bought.num_rows - 1]))
    rows = rows.rename_columns(["user_id", "item_id", "event_time_us"])
    pq.write_table(rows.append_column("category", pa.array(["mine"] * 3)), path)
    return path


def test_spine(endcap, ingested_shop, asked, tmp_path):
    command = (
        "features",
        "spine",
        asked,
        "-w",
        ingested_shop.path,
        "--groups",
        "user,price,history",
        "--negatives",
        "in_category",
    )
    out = tmp_path / "made"
    said = endcap(*command, "--num-negatives", 2, "--out", out, "--log-format", "text")
    assert (said.code, said.err) == (0, "")
    for part in ("history", "leak check", "0 with a user", "4 negatives; none could be drawn for 1 rows"):
        assert part in said.out
    spine = pq.read_table(out / "spine.parquet")
    assert spine["query_num"].to_pylist() == list(range(7))
    assert spine["row_number"].to_pylist() == [0, 1, 1, 1, 2, 2, 2]
    assert spine["label"].to_pylist() == [1, 1, 0, 0, 1, 0, 0]
    for name in ("user", "price"):
        assert pq.read_table(out / f"{name}.parquet")["query_num"].to_pylist() == list(range(7))
    assert pq.read_schema(out / "user.parquet").field("user_num_purchase_7d").type == pa.int64()
    assert {path.name for path in out.iterdir()} == {
        "manifest.json", "spine.parquet", "user.parquet", "price.parquet", "history.parquet",
    }  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["inputs"][0]["num_bytes"] == asked.stat().st_size
    assert manifest["data_versions"]["events"] >= 0
    assert manifest["metrics"]["num_rows_user"] == 7
    assert set(manifest["timings_s"]) == {"spine", "user", "price", "history", "leak check"}
    assert manifest["configuration"]["groups"] == ["user", "price", "history"]
    again = tmp_path / "again"
    assert endcap(*command, "--num-negatives", 2, "--groups", "price", "--out", again).code == 0
    assert pq.read_table(again / "spine.parquet").equals(spine)
    assert "exists already" in endcap(*command, "--out", out).err


@pytest.mark.parametrize(("kind", "periods"), [("time", {"train", "eval", "test"}), ("leave_last_out", {"train"})])
def test_splits(endcap, ingested_shop, asked, tmp_path, kind, periods):
    out = tmp_path / "made"
    shares = ("--eval-fraction", 0.33, "--test-fraction", 0.33) if kind == "time" else ()
    said = endcap(
        "features", "spine", asked, "-w", ingested_shop.path, "--groups", "price", "--split", kind, *shares, "-o", out
    )
    if kind == "time":
        assert set(pq.read_table(out / "spine.parquet")["period"].to_pylist()) == periods
    else:
        assert (said.code, "leaves a part empty" in said.err, out.exists()) == (2, True, False)


def test_a_leak_ends_with_code_2_and_leaves_nothing(endcap, ingested_shop, asked, tmp_path, monkeypatch):
    def late(spine, events):
        return exact.user_features(spine.mutate(event_time_us=spine.event_time_us + 1), events)

    real = default.features_of
    calls = []

    def first_calls_look_ahead(names, spine, events, versions, **options):
        calls.append(names)
        return {"user": late(spine, events)} if len(calls) == 1 else real(names, spine, events, versions, **options)

    monkeypatch.setattr(default, "features_of", first_calls_look_ahead)
    said = endcap("features", "spine", asked, "-w", ingested_shop.path, "--groups", "user", "-o", tmp_path / "made")
    assert said.code == 2
    assert "Leak: user.user_num_purchase_1d changes when what happened at or after" in said.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--groups", "user,prise"), "there is no group 'prise'; the groups are: user, item"),
        (("--negatives", "uniform", "--num-negatives", 0), "num-negatives is 0; expected 1"),
        (("--negatives", "impressions"), "holds no impressions. Ingest the logs"),
        (("--split", "leave_last_out", "--test-fraction", 0.2), "leave_last_out has no shares"),
        (("--split", "time", "--test-fraction", 0.9), "test-fraction is 0.9; expected more than 0"),
    ],
)
def test_wrong_options_end_with_code_2(endcap, ingested_shop, asked, tmp_path, arguments, message):
    said = endcap("features", "spine", asked, "-w", ingested_shop.path, "-o", tmp_path / "made", *arguments)
    assert (said.code, list(tmp_path.iterdir())) == (2, [])
    assert message in said.err


def test_ids_that_nobody_knows_are_refused(endcap, ingested_shop, tmp_path):
    path = tmp_path / "asked.parquet"
    pq.write_table(pa.table({"user_id": ["nobody"], "item_id": ["nothing"], "event_time_us": [5]}), path)
    said = endcap("features", "spine", path, "-w", ingested_shop.path, "-o", tmp_path / "made")
    assert (said.code, "None of the 1 rows has a user_id that the workspace's users know" in said.err) == (2, True)


def test_covisitation(endcap, ingested_shop, tmp_path):
    command = ("features", "covisitation", "-w", ingested_shop.path, "--log-format", "json")
    said = endcap(*command, "--out", tmp_path / "made", "--top-n", 3, "--half-life-days", 30)
    (built,) = [json.loads(line) for line in said.out.splitlines() if "covisitation built" in line]
    for name in ("covisits", "next_items", "bought_together"):
        table = pq.read_table(tmp_path / "made" / f"{name}.parquet")
        assert table.column_names == ["item_id", "other_item_id", "num", "weight", "rank"]
        assert table.num_rows == built["rows"][name]
        assert set(table["rank"].to_pylist()) <= {0, 1, 2}
    assert built["rows"]["bought_together"] > 0
    earlier = endcap(*command, "--out", tmp_path / "early", "--before", "2011-01-03")
    assert (earlier.code, pq.read_table(tmp_path / "early" / "covisits.parquet").num_rows) == (0, 0)
    assert "top-n is 0; expected 1 or more" in endcap(*command, "--out", tmp_path / "none", "--top-n", 0).err
