"""The page on sources, tried as it is written: each example of its table, and its mapping file."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.ingest.sources import SOURCES
from endcap.workspace import tables
from endcap.workspace.layout import Workspace

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text(encoding="utf-8")
EXAMPLES = {
    row.split("|")[1].strip().strip("`"): re.findall(r"`(endcap ingest [^`]+)`", row)[-1]
    for row in PAGE.splitlines()
    if row.startswith("| `") and "endcap ingest" in row
}
MAPPING = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]

EVENTS = """customer,sku,action,at,price,path,campaign
c1,s1,click,31/01/2026 12:00,"2,50",Home/Mugs,spring
c1,s1,order,31/07/2026 12:01,"2,50",Home/Mugs,
c1,,ping,31/01/2026 12:02,,,
"""
PRODUCTS = """sku,name,price,available,department,package_size
s1,Red &amp; blue mug,2.50,true,kitchen,single
s2,Plate,4.00,false,kitchen,set of 6
"""
MEMBERS = "customer,age,income\nc1,35-44,50-74K\n"
SKU = {"item_id": "s1", "item_name": "Mug", "price": 9.5, "quantity": 2}
BOUGHT = {
    "event_timestamp": 1_769_817_600_000_001, "event_name": "purchase", "user_id": "u1", "user_pseudo_id": "d1",
    "event_params": [{"key": "ga_session_id", "value": {"int_value": 7}}], "items": [SKU],
}  # fmt: skip
SHOWN = {
    "request_id": "r1", "user_key": "k1", "request_time": "2026-01-31T00:00:00Z", "release_digest": "d1",
    "surface": "home", "item_ids": ["s1"], "scores": [0.9], "positions": [1], "propensities": [0.5], "experiment": None,
    "variant": None,
}  # fmt: skip
CLICKED = {
    "request_id": "r1", "item_id": "s1", "event_type": "click", "event_time": "2026-01-31T00:00:05Z", "value": None,
}  # fmt: skip
VIEWED = {
    "eventType": "detail-page-view", "visitorId": "d1", "eventTime": "2026-01-31T00:00:00Z",
    "productDetails": [{"product": {"id": "s1"}}],
}  # fmt: skip
REES46 = (
    "event_time,event_type,product_id,category_id,category_code,brand,price,user_id,user_session\n"
    "2019-10-01 00:00:01 UTC,view,s1,2,home.mugs,acme,2.50,u1,x\n"
)
INVOICE = {
    "InvoiceNo": "536365", "StockCode": "85123A", "Description": "MUG", "Quantity": 6, "InvoiceDate": 1291192000000000,
    "UnitPrice": 2.55, "CustomerID": 17850.0, "Country": "Norway",
}  # fmt: skip


def write(name: str, content: str | list[dict[str, Any]] | pa.Table) -> None:
    path = Path(name)
    path.parent.mkdir(exist_ok=True)
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
        return
    text = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace in the current folder, and an export for each example."""
    monkeypatch.chdir(tmp_path)
    workspace = Workspace.init(tmp_path)
    write("mapping.yaml", MAPPING)
    write("export/products.csv", PRODUCTS)
    write("export/members.csv", MEMBERS)
    write("export/events.csv", EVENTS)
    write("ga4/events_20260131.json", [BOUGHT])
    write("events.jsonl", [VIEWED])
    write("interactions.csv", "USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE\nu1,s1,1580000000,view\n")
    write("feedback.csv", "feedback_type,user_id,item_id,time_stamp\nread,u1,s1,2026-01-31\n")
    write("2019-Oct.csv.gz", REES46)
    moment = pa.array([1_769_817_600_000_000], pa.timestamp("us", "UTC"))
    bought = pa.table({"user_id": ["u1"], "item_id": ["s1"], "event_type": ["purchase"], "event_time": moment})
    write("staging/interactions.parquet", bought)
    write("staging/items.parquet", pa.table({"item_id": ["s1"], "title": ["Mug"]}))
    write("logs/requests.jsonl", [SHOWN])
    write("logs/feedback.jsonl", [CLICKED])
    invoices = pa.Table.from_pylist([INVOICE])
    write(
        "online_retail.parquet",
        invoices.set_column(4, "InvoiceDate", invoices["InvoiceDate"].cast(pa.timestamp("us"))),
    )
    return workspace


def test_every_source_has_an_example() -> None:
    assert sorted(EXAMPLES) == sorted(SOURCES)


@pytest.mark.parametrize("source", sorted(EXAMPLES))
def test_an_example_lands_its_events(shop: Workspace, endcap: Any, source: str) -> None:
    said = endcap(*shlex.split(EXAMPLES[source])[1:], "--log-format", "json")
    assert said.code == 0, said.err
    account = json.loads(said.out.splitlines()[-1])
    assert sum(account["events"].values()) == (2 if source == "files" else 1)
    assert tables.read_table(shop, "items")["item_id"].to_pylist()[0] in ("s1", "85123A")


def test_the_mapping_file_says_what_the_page_says(shop: Workspace, endcap: Any) -> None:
    said = endcap(*shlex.split(EXAMPLES["files"])[1:], "--log-format", "json")
    assert json.loads(said.out.splitlines()[-1])["quarantined"] == {"event_type_not_used": 1}
    first, last = tables.read_table(shop, "events").to_pylist()
    assert (first["event_type"], first["ts_us"], str(first["price"])) == ("view_item", 1_769_860_800_000_000, "2.5000")
    assert json.loads(first["properties"]) == {"campaign": "spring"}
    assert (last["event_type"], last["ts_us"]) == ("purchase", 1_785_495_660_000_000)  # an hour less: summer in London
    mug, plate = tables.read_table(shop, "items").to_pylist()
    assert (mug["title"], mug["category"], mug["in_stock"]) == ("Red & blue mug", "Home > Mugs", True)
    assert (plate["item_id"], plate["in_stock"], plate["is_known"]) == ("s2", False, True)
    said_of = {
        row["entity_id"]: json.loads(row["properties"]) for row in tables.read_table(shop, "attributes").to_pylist()
    }
    assert said_of["s2"] == {"department": "kitchen", "package_size": "set of 6"}
    assert said_of["c1"] == {"age": "35-44", "income": "50-74K"}


def test_a_suggestion_is_a_mapping(shop: Workspace, endcap: Any) -> None:
    said = endcap("ingest", "--suggest", "export/events.csv")
    assert said.code == 0, said.err
    suggested = json.loads(said.out)
    assert (suggested["source"], suggested["mapping"]["columns"]["user_id"]) == ("files", "customer")
    beside = endcap("ingest", "--suggest", "export/events.csv", "--log-format", "text").out
    assert "user_id: customer" in beside
