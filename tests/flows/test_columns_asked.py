"""Catalogs and files about users reach the feature tables: as of the day, as of the question, and no later."""

import datetime as dt

import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import ColumnsError
from endcap.contracts.reporting import Silent
from endcap.features.point_in_time import DAY_US
from endcap.flows.features import build_features
from endcap.ingest.pipeline import ingest
from endcap.workspace.configuration import load_configuration
from endcap.workspace.layout import Workspace

BEGIN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
FIRST_DAY = int(BEGIN.timestamp()) // 86_400
MAPPING = """
columns: {user_id: who, item_id: sku, event_type: {constant: purchase}, ts: at}
catalog:
  path: goods.csv
  columns: {item_id: sku, title: name, brand: brand, category: kind, valid_from: since}
  properties: [size]
users:
  path: people.csv
  columns: {user_id: who, valid_from: since}
  properties: [age]
"""
FEATURES = """
buyer:
  user_id: {type: STRING, is_primary_id: true, embedding: {}}
  age: {type: INT64, normalize: {}}
  user_history: {type: STRING, sequence: {max_length: 5}}
product:
  item_id: {type: STRING, is_primary_id: true, embedding: {}}
  category: {type: STRING, multi_hot: {separator: " > "}}
  brand: {type: STRING, embedding: {}}
  size: {type: STRING, embedding: {}}
"""
EXPERIMENT = """
# @package _global_
defaults: [{/features: mine}, {/model: two_tower}, _self_]
experiment: mine
questions: {lag_days: 0}
"""


def day(number):
    return (BEGIN + dt.timedelta(days=number)).isoformat()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    bought = [
        f"{who},{sku},{day(number + 0.5)}" for number in range(20) for who, sku in (("ann", "cup"), ("bob", "jug"))
    ]
    (folder / "sold.csv").write_text("\n".join(["who,sku,at", *bought]))
    goods = ["sku,name,brand,kind,since,size", "cup,CUP,Acme,Home,,S", f"cup,CUP,Acme,Home > Tea,{day(4)},L"]
    (folder / "goods.csv").write_text("\n".join([*goods, "jug,JUG,,Home,,", "pan,PAN,Best,Home,,M"]))
    (folder / "people.csv").write_text(f"who,since,age\nann,{day(3)},30\nann,{day(9)},31\n")
    workspace = Workspace.init(tmp_path_factory.mktemp("shop") / "w")
    (folder.parent / "mapping.yaml").write_text(MAPPING)
    ingest(workspace, "files", folder, options={"mapping": str(folder.parent / "mapping.yaml")})
    conf = workspace.path / "conf"
    for name, text in (("features", FEATURES), ("experiment", EXPERIMENT)):
        (conf / name).mkdir(parents=True, exist_ok=True)
        (conf / name / "mine.yaml").write_text(text)
    return workspace


@pytest.fixture(scope="module")
def build(shop):
    def run(*overrides):
        return build_features(shop, load_configuration(["experiment=mine", *overrides], shop.path / "conf"), Silent())

    return run


def test_products_are_as_of_their_day(build):
    rows = build().table("products").to_pylist()
    said = {(row["day"] - FIRST_DAY, row["item_id"]): (row["category"], row["brand"], row["size"]) for row in rows}
    assert said[4, "cup"] == ("Home > Tea", "Acme", "L")
    assert said[3, "cup"] == ("Home", "Acme", "S")
    assert said[3, "jug"] == said[9, "jug"] == ("Home", None, None)
    assert {item for _, item in said} == {"cup", "jug"}  # nobody ever bought a pan


def test_buyers_are_as_of_their_question(build):
    rows = build().table("baskets").to_pylist()
    ages = {(row["user_id"], row["event_time_us"] // DAY_US - FIRST_DAY): row["age"] for row in rows}
    assert [ages["ann", number] for number in (2, 3, 8, 9)] == [None, 30, 30, 31]
    assert ages["bob", 9] is None


def test_the_columns_asked_for_are_part_of_the_key(build):
    with_brand = build()
    without = build("features.product.brand={type:STRING,text:{}}")
    assert without == with_brand  # another transform of the same column
    plain = build("features=online_retail")
    assert plain.folder != with_brand.folder
    assert not {"size", "category", "brand"} & set(pq.read_schema(plain.folder / "products.parquet").names)


def test_a_column_that_nobody_has_is_refused_before_anything_is_built(build):
    with pytest.raises(ColumnsError) as refused:
        build("features.product.sice={type:STRING,embedding:{}}", "features.buyer.aged={type:INT64,normalize:{}}")
    found = dict(refused.value.problems)
    assert found.keys() == {"features.product.sice", "features.buyer.aged"}
    assert found["features.product.sice"].endswith("Did you mean size?")
    assert "country" in found["features.buyer.aged"]
    assert found["features.buyer.aged"].endswith("Did you mean age?")
