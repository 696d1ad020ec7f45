"""`endcap features check` as typed: a table, a page, JSON; and what is wrong with a configuration or its data said once."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.workspace.layout import Workspace

EXAMPLE = Path(__file__).parents[2] / "examples" / "completejourney"
FILES = ("--data", EXAMPLE / "buyers.parquet", "--data", EXAMPLE / "products.parquet")
SMALL = """\
buyer:
  user_id: {type: STRING, is_primary_id: true, embedding: {dim: 2}}
  mood: {type: STRING, embedding: {dim: 2}}
  spent: {type: FLOAT64, log: {}, normalize: {}, bucketize: {n: 4, dim: 2}}
  shop: {type: STRING, embedding: {dim: 2}}
product:
  item_id: {type: STRING, is_primary_id: true, embedding: {dim: 4}}
  tags: {type: STRING, multi_hot: {dim: 3, separator: "|"}}
crosses:
  both: {columns: [spent, shop], n: 7, dim: 2}
"""


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Five rows with the columns of both sides; `mood` is always missing, `shop` always the same."""
    path = tmp_path / "rows.parquet"
    pq.write_table(
        pa.table({
            "user_id": ["ann", "ann", "bob", "bob", "<i>eve</i>"],
            "mood": pa.array([None] * 5, pa.string()),
            "spent": [2.0, 2.0, 2.0, None, 9.0],
            "shop": ["here"] * 5,
            "item_id": ["a", "b", "a", "c", "b"],
            "tags": ["x|y", "x", None, "z", "x|x"],
        }),
        path,
    )  # fmt: skip
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A FeatureConfig of the rows."""
    path = tmp_path / "mine.yaml"
    path.write_text(SMALL, "utf-8")
    return path


def test_the_second_example_is_what_its_configuration_says(endcap: Callable[..., Any], tmp_path: Path) -> None:
    said = endcap("features", "check", "completejourney", *FILES, "--json")
    assert (said.code, said.err) == (0, "")
    found = json.loads(said.out)
    assert found["remarks"] == []
    assert (found["num_buyers"], found["num_products"]) == (1195, 1378)
    inputs = {encoded["name"]: encoded for column in found["columns"] for encoded in column["becomes"]}
    assert inputs["event_time_us.cyclical"]["dim"] == 6
    assert inputs["marital_status.embedding"]["num_values"] == 2
    assert inputs["category.multi_hot"]["steps"] == ["multi_hot"]
    assert inputs["income_and_kids.cross"]["cardinality"] == 65
    missing = {column["name"]: column["share_missing"] for column in found["columns"]}
    known = pq.read_table(EXAMPLE / "buyers.parquet")["income"]
    assert missing["income"] == pytest.approx(known.null_count / 1195)
    assert missing["income_and_kids"] == pytest.approx(missing["income"])
    assert not list(tmp_path.iterdir())


def test_columns_by_hand(endcap: Callable[..., Any], config: Path, rows: Path) -> None:
    found = json.loads(endcap("features", "check", config, "--data", rows, "--json").out)
    columns = {column["name"]: column for column in found["columns"]}
    assert [column["side"] for column in found["columns"]] == ["buyer"] * 5 + ["product"] * 2
    assert (found["num_buyers"], found["num_products"]) == (5, 3)  # a, b, c as they were last
    assert [(bar["label"], bar["count"]) for bar in columns["user_id"]["before"]["bars"]] == [("1", 1), ("2", 2)]
    assert [(bar["label"], bar["count"]) for bar in columns["spent"]["before"]["bars"]] == [("2", 3), ("9", 1)]
    buckets, normal = columns["spent"]["becomes"]
    assert (buckets["steps"], normal["steps"]) == (["bucketize"], ["log", "normalize"])
    assert sum(bar["count"] for bar in buckets["after"][0]["bars"]) == 4
    assert buckets["after"][0]["num_missing"] == 1
    assert columns["spent"]["share_missing"] == pytest.approx(0.2)
    assert columns["both"]["share_missing"] == pytest.approx(0.2)
    assert [(bar["label"], bar["count"]) for bar in columns["tags"]["before"]["bars"]] == [("x|x", 1), ("z", 1)]
    assert [(bar["label"], bar["count"]) for bar in columns["tags"]["becomes"][0]["after"][0]["bars"]] == [
        ("0", 1), ("1", 1), ("2", 1)
    ]  # fmt: skip
    assert found["remarks"] == [
        "features.buyer.mood: missing in all 5 rows, so it says nothing. Fill it, or leave it out.",
        "features.buyer.spent.bucketize: 3 buckets instead of n=4, since many rows hold the same number.",
        "features.buyer.shop.embedding: the vocabulary has one value, so it only says whether a row has it.",
    ]
    assert "ann" not in json.dumps(found)


def test_table_and_page(endcap: Callable[..., Any], config: Path, rows: Path, tmp_path: Path) -> None:
    arguments = ("features", "check", config, "--data", rows, "--out", tmp_path / "page", "--log-format", "text")
    said = endcap(*arguments)
    assert said.code == 0
    assert "spent FLOAT64" in said.out
    assert "log → normalize" in said.out
    assert "! features.buyer.mood: missing in all 5 rows" in said.out
    assert f"Page: {tmp_path / 'page' / 'features.html'}" in said.out
    page = (tmp_path / "page" / "features.html").read_text("utf-8")
    assert "eve" not in page
    assert page.count("<figure") == 14
    assert "http" not in page
    assert "<script" not in page
    assert 'content="width=device-width, initial-scale=1"' in page
    lines = [json.loads(line) for line in endcap(*arguments[:-1], "json").out.splitlines()]
    assert [line["event"] for line in lines] == ["remark on the features"] * 3 + ["features checked"]
    assert Path(lines[-1]["page"]).is_file()
    assert (tmp_path / "page" / "features.html").read_text("utf-8") == page


def test_a_workspace_is_fitted_on_its_train_period(
    endcap: Callable[..., Any], ingested_shop: Workspace, copy_of: Callable[[Workspace], Workspace]
) -> None:
    workspace = copy_of(ingested_shop)
    found = json.loads(endcap("features", "check", "online_retail", "--data", workspace.path, "--json").out)
    columns = {column["name"]: column for column in found["columns"]}
    ids = columns["user_id"]["becomes"][0]
    assert found["num_later"] > 0
    assert 0 < ids["share_unknown"] < 1
    assert ids["share_unknown_later"] == 0.0  # who came lately had come before, three times and more
    assert columns["country"]["becomes"][0]["num_values"] == 3


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("bucketize:", "bucketise:", "{file}: features.buyer.spent.bucketise: unknown key; expected one of"),
        ("bucketize:", "bucketise:", "Did you mean bucketize?"),
        ("type: FLOAT64", "type: float64", "found 'float64', expected 'STRING', 'BYTES'"),
        ("type: FLOAT64", "type: float64", "Did you mean FLOAT64?"),
        ("n: 4", "n: many", "{file}: features.buyer.spent.bucketize.n: found 'many', expected a valid integer"),
        ("n: 4", "n: 1", "features.buyer.spent.bucketize.n: found 1, expected greater than or equal to 2."),
        ("crosses:", "cross:", "{file}: features.cross: unknown key; expected one of buyer, crosses, product, target."),
        ("[spent, shop]", "[spend, shop]", "crosses.both: buyer spend is no column; expected one of"),
        ("  spent:", "  spend:", "crosses.both: buyer spent is no column"),
        ("  mood:", "  moods:", "{file}: features.buyer.moods: the data has no such column; it has item_id, mood,"),
        ("  mood:", "  moods:", "Did you mean mood?"),
        (
            "type: FLOAT64",
            "type: INT64",
            "{file}: features.buyer.spent: the configuration says INT64, the data has double.",
        ),
        (
            ', separator: "|"',
            "",
            "features.product.tags: the configuration says STRING, and multi_hot needs lists of it",
        ),
        ("buyer:", "buyer: [", "can't be read as YAML"),
    ],
)
def test_what_is_wrong_is_said(
    endcap: Callable[..., Any], config: Path, rows: Path, before: str, after: str, message: str
) -> None:
    assert before in SMALL
    config.write_text(SMALL.replace(before, after, 1), "utf-8")
    said = endcap("features", "check", config, "--data", rows)
    assert said.code == 2
    assert message.format(file=config) in said.err


def test_a_configuration_or_data_that_is_not_there(
    endcap: Callable[..., Any], config: Path, rows: Path, tmp_path: Path
) -> None:
    said = endcap("features", "check", "online_retial", "--data", rows)
    assert said.code == 2
    assert "There is no FeatureConfig online_retial: expected a YAML file, or one of" in said.err
    assert "Did you mean online_retail?" in said.err
    assert "expected a workspace" in endcap("features", "check", config, "--data", tmp_path).err
    assert "can't be read" in endcap("features", "check", config, "--data", config).err
    assert "found 3" in endcap("features", "check", config, *(["--data", rows] * 3)).err
    csv = tmp_path / "rows.csv"
    csv.write_text("user_id,mood,spent,shop,item_id,tags\n007,,1.5,here,01,x|y\n", "utf-8")
    found = json.loads(endcap("features", "check", config, "--data", csv, "--json").out)
    assert found["num_products"] == 1
