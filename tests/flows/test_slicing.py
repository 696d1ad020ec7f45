"""Groups of the test period's purchases: by age always, by any column of customers, products or purchases on demand."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import InputError
from endcap.features.dataset import FeatureTables
from endcap.features.split import Split
from endcap.flows.features import build_features
from endcap.flows.slicing import check_slice_columns, slices_of
from endcap.ingest.pipeline import ingest
from endcap.workspace.layout import Workspace

DAY_US = 86_400_000_000
START = 15_000
START_US = START * DAY_US


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A shop of two customers whose phones and tablets are known, and feature tables by hand; not to be changed."""
    place = tmp_path_factory.mktemp("slicing")
    staged, folder = place / "staged", place / "features"
    staged.mkdir()
    folder.mkdir()
    lines = [
        ("ann", "a", START - 100, "phone"), ("ann", "b", START - 15, "phone"), ("bob", "a", START - 20, "desk"),
        ("ann", "new", START + 1, "tablet"), ("ann", "a", START + 2, "phone"), ("bob", "b", START + 3, "desk"),
    ]  # fmt: skip
    times = [datetime.fromtimestamp(day * 86_400, UTC) for *_, day, _ in lines]
    pq.write_table(
        pa.table({
            "user_id": [line[0] for line in lines],
            "item_id": [line[1] for line in lines],
            "event_type": ["purchase"] * len(lines),
            "event_time": pa.array(times, pa.timestamp("us", "UTC")),
            "rating": [line[3] for line in lines],
        }),
        staged / "interactions.parquet",
    )  # fmt: skip
    items = {"item_id": ["a", "b", "new"], "title": ["A", "B", "N"], "category": ["x", "y", None]}
    pq.write_table(pa.table(items), staged / "items.parquet")
    workspace = Workspace.init(place / "shop")
    ingest(workspace, "staging", staged)
    pq.write_table(
        pa.table({
            "user_id": [line[0] for line in lines],
            "item_id": [line[1] for line in lines],
            "ts_us": [line[2] * DAY_US for line in lines],
            "period": ["train"] * 3 + ["test"] * 3,
        }),
        folder / "purchases.parquet",
    )  # fmt: skip
    pq.write_table(pa.table({"day": [START], "item_id": ["a"], "colour": ["red"]}), folder / "products.parquet")
    tables = FeatureTables(folder, Split(START_US - 10 * DAY_US, START_US, START_US + 5 * DAY_US, 3, 0, 3))
    bought = pa.table({"user_id": ["ann", "ann", "bob"], "item_id": ["a", "new", "b"]})
    return workspace, tables, bought


def labels(column):
    return [column.labels[code] if code >= 0 else None for code in column.codes]


def test_ages_of_customers_and_products(shop):
    customers, products = slices_of(*shop[:2], [], shop[2])
    assert (customers.name, labels(customers)) == ("days as a customer", ["more than 90", "more than 90", "up to 30"])
    assert products.name == "days since first sold"
    assert labels(products) == ["more than 90", "first sold in the test period", "up to 30"]


def test_columns_of_products_and_of_purchases(shop):
    category, colour, device = slices_of(*shop[:2], ["category", "colour", "rating"], shop[2])[2:]
    assert labels(category) == ["x", "(missing)", "y"]
    assert labels(colour) == ["red", "(missing)", "(missing)"]
    assert labels(device) == ["phone", "tablet", "desk"]  # of the purchase in the test period


def test_a_column_that_nothing_has(shop):
    with pytest.raises(
        InputError, match=r"evaluation.slice_columns: nothing has a column ratings; .* Did you mean rating\?"
    ):
        check_slice_columns(*shop[:2], ["ratings"])


def test_a_column_of_customers(trained_shop, recorder):
    workspace = trained_shop.workspace
    tables = build_features(workspace, trained_shop.configuration, recorder)
    bought = tables.table("purchases").select(["user_id", "item_id"]).slice(0, 50)
    country = slices_of(workspace, tables, ["country"], bought)[-1]
    assert set(country.labels) == {"United Kingdom", "Norway", "Côte d'Ivoire"}
