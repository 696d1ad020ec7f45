"""The whole example file: every one of its 541,909 rows is accounted for."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import pyarrow.compute as pc
import pytest

from endcap.contracts.events import EVENTS, ITEM_VERSIONS, ITEMS, QUARANTINE, USERS
from endcap.ingest.landing import RowAccount
from endcap.ingest.pipeline import IngestResult, ingest
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

FILE = Path(__file__).parents[2] / "examples" / "online_retail" / "online_retail.parquet"


@pytest.fixture(scope="module")
def ingested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, IngestResult]:
    workspace = Workspace.init(tmp_path_factory.mktemp("online_retail"))
    return workspace, ingest(workspace, "online_retail", FILE)


def test_account(ingested: tuple[Workspace, IngestResult]) -> None:
    workspace, result = ingested
    assert result.account == RowAccount(
        num_rows=541_909,
        events={"purchase": 391_054, "refund": 8_503},
        num_duplicates=5_268,
        quarantined={"no_customer": 135_037, "not_a_product": 2_014, "price_not_positive": 33},
    )
    events = tables.read_table(workspace, EVENTS, columns=["event_type", "event_id"])
    assert Counter(events.column("event_type").to_pylist()) == {"purchase": 391_054, "refund": 8_503}
    assert len(events.column("event_id").unique()) == events.num_rows
    quarantine = tables.read_table(workspace, QUARANTINE, columns=["reason"])
    assert Counter(quarantine.column("reason").to_pylist()) == result.account.quarantined


def test_people_and_products(ingested: tuple[Workspace, IngestResult]) -> None:
    workspace, _ = ingested
    events = tables.read_table(workspace, EVENTS)
    purchases = events.filter(pc.equal(events["event_type"], "purchase"))
    assert len(purchases["user_id"].unique()) == 4_334
    assert len(purchases["item_id"].unique()) == 3_656
    assert purchases.group_by(["basket_id", "item_id"]).aggregate([]).num_rows == 386_230
    assert set(events["user_id"].unique().to_pylist()) == set(
        tables.read_table(workspace, USERS)["user_id"].to_pylist()
    )
    items = tables.read_table(workspace, ITEMS)
    assert set(events["item_id"].unique().to_pylist()) == set(items["item_id"].to_pylist())
    assert items["price"].null_count == 0
    assert not pc.any(pc.equal(items["title"], items["item_id"])).as_py()


def test_each_purchase_finds_one_price_in_force(ingested: tuple[Workspace, IngestResult]) -> None:
    workspace, _ = ingested
    prices = tables.read_table(workspace, ITEM_VERSIONS).to_pylist()
    for before, after in itertools.pairwise(prices):
        if before["item_id"] == after["item_id"]:
            assert before["valid_to_us"] == after["valid_from_us"]
            assert before["price"] != after["price"]
        else:
            assert before["valid_to_us"] is None
    firsts = {row["item_id"]: row["first_sold_us"] for row in tables.read_table(workspace, ITEMS).to_pylist()}
    starts: dict[str, int] = {}
    for row in prices:
        starts.setdefault(row["item_id"], row["valid_from_us"])
    assert starts == {item: first for item, first in firsts.items() if first is not None}


def test_lines_of_one_invoice_share_a_session(ingested: tuple[Workspace, IngestResult]) -> None:
    workspace, _ = ingested
    events = tables.read_table(workspace, EVENTS, columns=["basket_id", "ts_us", "session_id"])
    per_moment = events.group_by(["basket_id", "ts_us"]).aggregate([("session_id", "count_distinct")])
    assert set(per_moment["session_id_count_distinct"].to_pylist()) == {1}
