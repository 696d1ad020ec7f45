"""Categories and stock as they stood at a moment, and how a release's products bear them."""

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.events import ITEM_VERSIONS, ITEM_VERSIONS_TABLE
from endcap.contracts.release import ITEMS
from endcap.flows.packing import write_items
from endcap.flows.standing import standing_at
from endcap.workspace.layout import Workspace
from endcap.workspace.tables import Dataset, publish_dataset, write_table

VERSIONS = [
    ("lamp", 10, 20, "Home", True), ("lamp", 20, None, "Home > Lamps", False), ("tea", 15, 25, None, None),
    ("cup", 5, None, "Kitchen", None),
]  # fmt: skip


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    workspace = Workspace.init(tmp_path_factory.mktemp("standing") / "shop")
    names = ("item_id", "valid_from_us", "valid_to_us", "category", "in_stock")
    rows = [dict(zip(names, row, strict=True)) for row in VERSIONS]
    write = write_table(workspace, ITEM_VERSIONS, pa.Table.from_pylist(rows, schema=ITEM_VERSIONS_TABLE.schema))
    publish_dataset(workspace, Dataset(source="test", run_id="run-1", versions={ITEM_VERSIONS: write.version}))
    return workspace


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        (4, []),
        (5, [("cup", "Kitchen", None)]),
        (19, [("cup", "Kitchen", None), ("lamp", "Home", True), ("tea", None, None)]),
        (20, [("cup", "Kitchen", None), ("lamp", "Home > Lamps", False), ("tea", None, None)]),
        (25, [("cup", "Kitchen", None), ("lamp", "Home > Lamps", False)]),
    ],
)
def test_what_held_at_a_moment(workspace, moment, expected):
    found = standing_at(workspace, moment).to_pylist()
    assert [(row["item_id"], row.get("category"), row.get("in_stock")) for row in found] == expected


def test_a_column_that_is_unknown_of_all_is_left_out(workspace):
    assert standing_at(workspace, 5).column_names == ["item_id", "category"]
    assert standing_at(workspace, 4).column_names == ["item_id"]


def test_a_release_s_products_bear_it_beside_their_features(workspace, tmp_path):
    features = pa.table({"day": [3, 3, 3], "item_id": ["cup", "lamp", "new"], "tags": [["a"], [], ["b"]]})
    tables = SimpleNamespace(products_on=lambda day: features if day == 3 else None)
    write_items(tables, 3, standing_at(workspace, 20), ["new", "lamp"], tmp_path)
    assert pq.read_table(tmp_path / ITEMS).to_pylist() == [
        {"item_id": "lamp", "tags": [], "category": "Home > Lamps", "in_stock": 0},
        {"item_id": "new", "tags": ["b"], "category": None, "in_stock": None},
    ]
    own = features.append_column("category", pa.array(["x", "y", "z"]))
    write_items(SimpleNamespace(products_on=lambda _: own), 3, standing_at(workspace, 20), ["cup"], tmp_path)
    assert pq.read_table(tmp_path / ITEMS).to_pylist() == [
        {"item_id": "cup", "tags": ["a"], "category": "x", "in_stock": None}
    ]
