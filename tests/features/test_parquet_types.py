"""What the engine writes has the types that the expressions promise: no sum becomes a floating point number in a file."""

from functools import partial

import ibis
import pyarrow.parquet as pq
import pytest

from endcap.contracts.events import ADD_TO_CART, IMPRESSIONS_TABLE, PURCHASE, US_PER_DAY, VIEW_ITEM
from endcap.engines import duckdb
from endcap.features import covisitation, daily, negatives, windows
from endcap.features.default import default_features
from endcap.features.purchases import purchases_of
from endcap.workspace.layout import Workspace

DAY = US_PER_DAY
TODAY = 12


@pytest.fixture(scope="module")
def write(tmp_path_factory):
    """A function that writes a table as the flows do, and gives the file's types and the promised ones."""
    folder = tmp_path_factory.mktemp("written")
    with duckdb.session(Workspace.init(folder / "workspace")) as connection:

        def written(table):
            path = folder / "table.parquet"
            connection.to_parquet(table, path)
            schema = pq.read_schema(path)
            promised = table.schema().to_pyarrow()
            return {n: str(schema.field(n).type) for n in schema.names}, {
                n: str(promised.field(n).type) for n in promised.names
            }

        yield written


@pytest.fixture(scope="module")
def shop(events_of, versions_of, spine_of):
    events = events_of(
        [("ann", item, kind, day * DAY, {"basket_id": f"b{day}"})
         for day in range(1, 11) for item in ("cup", "jug") for kind in (VIEW_ITEM, ADD_TO_CART, PURCHASE)]
    )  # fmt: skip
    versions = versions_of([(item, 0, None, "2", "tea") for item in ("cup", "jug")])
    return spine_of([("ann", "cup", 11 * DAY), ("bob", "jug", 3 * DAY)]), events, versions


def tables_of(spine, events, versions):
    made = default_features(spine, events, versions)
    days = {
        "user_days": daily.user_days(events), "item_days": daily.item_days(events),
        "user_category_days": daily.user_category_days(events, versions), "user_item_days": daily.user_item_days(events),
    }  # fmt: skip
    made |= days
    for name in ("user", "item", "user_category"):
        made[f"{name}_windows"] = getattr(windows, f"{name}_windows")(days[f"{name}_days"], TODAY)
    for name in ("repurchase_intervals", "repurchase_due"):
        made[name] = getattr(windows, name)(days["user_item_days"], TODAY)
    made["price_positions"] = windows.price_positions(versions, TODAY)
    counted = partial(dict, events=events, as_of_us=TODAY * DAY)
    made["covisits"] = covisitation.covisits(**counted(half_life_days=3))
    made["next_items"] = covisitation.next_items(**counted())
    made["bought_together"] = covisitation.bought_together(**counted())
    made["bought_near"] = covisitation.bought_together(**counted(within_days=2))
    made["popularity"] = negatives.popularity(events, TODAY * DAY)
    made["bought_before"] = negatives.bought_before(spine, events)
    shown = ibis.memtable(IMPRESSIONS_TABLE.schema.empty_table())
    made["impression_negatives"] = negatives.impression_negatives(spine, shown, num_negatives=2, seed=1)
    made["purchases"] = purchases_of(events)
    return made


def test_every_feature_table(write, shop):
    wrong = {}
    for name, table in tables_of(*shop).items():
        found, promised = write(table)
        if found != promised:
            wrong[name] = {
                column: (found[column], promised[column]) for column in promised if found[column] != promised[column]
            }
    assert wrong == {}
