"""A made-up shop goes the whole way: events and logs in, negatives from what was shown, features of rows and of dates out."""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from endcap.contracts.events import PURCHASE
from endcap.contracts.reporting import Silent
from endcap.flows.backfill import backfill
from endcap.flows.feature_steps import folder_of
from endcap.flows.spine import SpineSettings, build_spine_features
from endcap.flows.steps import make_steps
from endcap.flows.table_steps import settings_in_force
from endcap.ingest.pipeline import ingest
from endcap.ingest.synthetic import Plan, generate
from endcap.workspace import tables
from endcap.workspace.dated import date_files
from endcap.workspace.layout import Workspace

PLAN = Plan(num_events=1_500, num_days=2, num_users=30, num_items=40, seed=3)


@pytest.mark.slow  # from end to end what other tests do in parts
def test_from_made_up_files_to_features(tmp_path):
    workspace = Workspace.init(tmp_path / "ws")
    shop = tmp_path / "shop"
    truth = generate(shop, PLAN, user_key=workspace.user_key)
    mapped = {"mapping": str(shop / "mapping.yaml")}
    ingest(workspace, "files", shop / "events", options=mapped)
    ingest(workspace, "files", shop / "item_versions.parquet", options=mapped)
    ingest(workspace, "logs", shop / "logs")
    assert tables.read_table(workspace, "impressions").num_rows == truth["num_impressions"]

    items = tables.read_table(workspace, "items")
    assert items.num_rows == PLAN.items
    assert items["group_id"].null_count == items["title"].null_count == 0
    versions = pq.read_table(shop / "item_versions.parquet")
    assert tables.read_table(workspace, "item_versions").num_rows == versions.num_rows

    events = tables.read_table(workspace, "events", columns=["user_id", "item_id", "ts_us", "event_type"])
    bought = events.filter(pc.equal(events["event_type"], PURCHASE)).drop_columns(["event_type"])
    pq.write_table(bought.rename_columns(["user_id", "item_id", "event_time_us"]), tmp_path / "asked.parquet")
    settings = SpineSettings(groups=("price",), negatives="impressions", num_negatives=3)
    result = build_spine_features(workspace, tmp_path / "asked.parquet", tmp_path / "made", settings, Silent())
    assert result.figures["num_negatives"] > bought.num_rows / 10
    spine = pq.read_table(tmp_path / "made" / "spine.parquet")
    assert spine.num_rows == bought.num_rows + result.figures["num_negatives"]
    assert pq.read_table(tmp_path / "made" / "price.parquet")["query_num"].equals(spine["query_num"])
    shown = pa.concat_tables([pq.read_table(shop / "logs/requests", columns=["user_key", "item_ids"])]).to_pylist()
    pairs = {(row["user_key"], item) for row in shown for item in row["item_ids"]}
    negatives = spine.filter(pc.equal(spine["label"], 0)).to_pylist()
    assert {(workspace.user_key(row["user_id"]), row["item_id"]) for row in negatives} <= pairs

    first, last = PLAN.start, PLAN.start.replace(day=PLAN.start.day + 1)
    steps = make_steps(["daily", "windows"], settings_in_force(workspace))
    assert backfill(workspace, first, last, steps, Silent(), jobs=1).exit_code == 0
    (file,) = date_files(folder_of(workspace, "windows"), "user_windows", [str(last)])
    assert pq.read_table(file).num_rows > 0
