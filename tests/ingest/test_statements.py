"""Catalogs with and without moments, one after the other, and what is known of a product when."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from pathlib import Path
from typing import Any

import ibis
import pyarrow as pa
import pytest
from ibis.backends.duckdb import Backend

from endcap.contracts.errors import InputError
from endcap.contracts.events import CATALOG, ITEM_VERSIONS, ITEMS, MONEY
from endcap.ingest import catalog, statements
from endcap.ingest.pipeline import ingest
from endcap.ingest.quality import IngestSettings
from endcap.ingest.sources.files import files
from endcap.ingest.sources.mapping import CatalogMapping, EventMapping, column
from endcap.ingest.sources.protocol import CATALOG_TYPES
from endcap.workspace import tables
from endcap.workspace.drafts import Draft
from endcap.workspace.layout import Workspace

DAY_US = 86_400_000_000
DAY_ONE_US = 1_767_225_600_000_000
LATEST_US = DAY_ONE_US + 40 * DAY_US


class Shop:
    """What catalogs said, one after the other, beside what events said of the price (day after the first of 2026)."""

    def __init__(self, connection: Backend, workspace: Workspace) -> None:
        self.connection = connection
        self.draft = Draft(workspace)

    def take(self, day: int, *rows: dict[str, Any], is_whole: bool = False) -> bool:
        schema = ibis.schema(CATALOG_TYPES).to_pyarrow()
        stated = ibis.memtable(pa.Table.from_pylist([dict.fromkeys(CATALOG_TYPES) | row for row in rows], schema))
        as_of_us = DAY_ONE_US + day * DAY_US
        return statements.write(self.connection, self.draft, "shop", stated, as_of_us, is_whole=is_whole)

    def stated(self) -> pa.Table:
        return tables.read_table(self.draft.workspace, CATALOG, version=self.draft.versions[CATALOG])

    def held(self, *seen: tuple[int, int]) -> list[tuple[Any, ...]]:
        """Days (from, to), price, stock, category of product i; None and 0 in microseconds stay."""
        said = [
            {"item_id": "i", "valid_from_us": DAY_ONE_US + day * DAY_US, "price": Decimal(price)} for day, price in seen
        ]
        moment = [("item_id", pa.string()), ("valid_from_us", pa.int64())]
        prices = pa.Table.from_pylist(said, pa.schema([*moment, ("price", MONEY)]))
        none = pa.schema([*moment, ("category", pa.string())]).empty_table()
        versions = catalog.item_versions(ibis.memtable(prices), ibis.memtable(none), ibis.memtable(self.stated()))
        rows = self.connection.to_pyarrow(versions.order_by("valid_from_us")).to_pylist()
        return [
            (_day(row["valid_from_us"]), _day(row["valid_to_us"]), row["price"], row["in_stock"], row["category"])
            for row in rows
            if row["item_id"] == "i"
        ]


def _day(moment: int | None) -> Any:
    return moment if not moment else (moment - DAY_ONE_US) / DAY_US


@pytest.fixture
def shop(connection: Backend, workspace: Workspace) -> Shop:
    return Shop(connection, workspace)


def test_two_snapshots_and_events_before_between_and_after(shop: Shop) -> None:
    seen = [(1, 9), (3, 8), (6, 7), (9, 6)]
    shop.take(5, {"item_id": "i", "category": "A", "price": Decimal(5), "in_stock": True})
    first = [
        (0, 1.0, None, None, "A"),
        (1.0, 3.0, Decimal(9), None, "A"),
        (3.0, 5.0, Decimal(8), None, "A"),
        (5.0, None, Decimal(5), True, "A"),
    ]
    assert shop.held(*seen) == first
    shop.take(8, {"item_id": "i", "category": "B", "price": Decimal(4), "in_stock": False})
    assert shop.held(*seen) == [
        *first[:3],
        (5.0, 8.0, Decimal(5), True, "A"),
        (8.0, None, Decimal(4), False, "B"),
    ]


def test_a_price_that_the_first_snapshot_confirms_is_no_new_range(shop: Shop) -> None:
    shop.take(5, {"item_id": "i", "price": Decimal(9)})
    assert shop.held((1, 9)) == [(1.0, None, Decimal(9), None, None)]


def test_a_snapshot_again_changes_nothing_and_a_word_that_is_missing_takes_nothing_back(shop: Shop) -> None:
    rows = ({"item_id": "i", "title": "LAMP", "price": Decimal(5)}, {"item_id": "j", "title": "CUP"})
    assert shop.take(1, *rows)
    for day in (1, 2, 30):
        assert not shop.take(day, *rows)
    assert not shop.take(30, {"item_id": "i", "title": "LAMP"})
    assert shop.take(31, {"item_id": "i", "title": "LANTERN"}, {"item_id": "k", "title": "POT"})
    found = [(row["item_id"], _day(row["valid_from_us"]), row["title"]) for row in shop.stated().to_pylist()]
    # What comes with a later snapshot wasn't known before it.
    assert found == [
        ("i", 0, "LAMP"), ("i", 1.0, "LAMP"), ("i", 31.0, "LANTERN"), ("j", 0, "CUP"), ("j", 1.0, "CUP"),
        ("k", 31.0, "POT"),
    ]  # fmt: skip


def test_a_snapshot_of_the_same_moment_takes_the_place_of_the_one_before(shop: Shop) -> None:
    shop.take(1, {"item_id": "i", "category": "TYPO", "price": Decimal(50)})
    shop.take(1, {"item_id": "i", "category": "A", "price": Decimal(5)})
    first = [(0, 1.0, None, None, "A"), (1.0, None, Decimal(5), None, "A")]
    assert shop.held() == first
    shop.take(3, {"item_id": "i", "category": "A", "price": Decimal(6)})
    assert len(shop.held()) == 3
    shop.take(3, {"item_id": "i", "category": "A", "price": Decimal(5)})
    assert shop.held() == first


def test_a_snapshot_from_before_the_latest_is_refused(shop: Shop) -> None:
    shop.take(3, {"item_id": "i", "price": Decimal(5)})
    before = dict(shop.draft.versions)
    with pytest.raises(InputError, match=r"shop is to hold as of 2026-01-03T.*one as of 2026-01-04T"):
        shop.take(2, {"item_id": "i", "price": Decimal(6)})
    assert shop.draft.versions == before


def test_statements_with_moments_stay_and_newer_words_on_a_moment_replace_older(shop: Shop) -> None:
    def at(day: int, price: int) -> dict[str, Any]:
        return {"item_id": "i", "valid_from_us": DAY_ONE_US + day * DAY_US, "price": Decimal(price)}

    shop.take(30, at(1, 5), at(2, 6))
    shop.take(30, at(2, 7), at(3, 8))
    assert not shop.take(31, at(3, 8))
    assert [(row[0], row[2]) for row in shop.held()] == [(1.0, Decimal(5)), (2.0, Decimal(7)), (3.0, Decimal(8))]
    shop.take(30, at(2, 4), is_whole=True)
    assert [(row[0], row[2]) for row in shop.held()] == [(2.0, Decimal(4))]


def test_without_a_word_since_when_a_snapshot_holds_from_the_ingest_on(
    workspace: Workspace, export: Any, event: Any, toy: Any
) -> None:
    folder = export("1.parquet", event("a", DAY_US, price=Decimal(9)))
    export("catalog.parquet", {"item_id": "i", "price": Decimal(5)}, catalog=True)
    ingest(workspace, toy, folder, settings=IngestSettings(latest_us=LATEST_US))
    found = tables.read_table(workspace, ITEM_VERSIONS).to_pylist()
    assert [(_day(row["valid_from_us"]), row["price"]) for row in found] == [(1.0, Decimal(9)), (40.0, Decimal(5))]


def test_exports_of_one_mapping_share_a_catalog_and_others_dont(toy: Any) -> None:
    columns = {"item_id": column("sku"), "event_type": column("what"), "ts": column("at"), "user_id": column("who")}
    items = CatalogMapping("products/items.csv", {"item_id": column("sku")})
    shop = EventMapping(columns, catalog=items)
    assert statements.catalog_name(files(shop)) == "files/products/items.csv"
    assert statements.catalog_name(files(dataclasses.replace(shop, name="app"))) == "app/products/items.csv"
    assert statements.catalog_name(toy) == "toy"


MAPPING = """
columns: {event_id: id, user_id: who, item_id: sku, event_type: what, ts: at}
catalog: {path: items.csv, columns: {item_id: sku, price: price}}
"""


def test_a_stale_copy_beside_another_file_of_events_counts_for_nothing(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "mapping.yaml").write_text(MAPPING)

    def bring(day: int, price: int) -> None:
        folder = tmp_path / f"export{day}"
        folder.mkdir()
        # By the alphabet the first file would have the last word.
        (folder / f"{9 - day}.csv").write_text(f"id,who,sku,what,at\n{day},u,i,view_item,2026-01-0{day}T10:00:00\n")
        (folder / "items.csv").write_text(f"sku,price\ni,{price}\n")
        ingest(
            workspace, "files", folder / f"{9 - day}.csv", options={"mapping": str(tmp_path / "mapping.yaml")},
            settings=IngestSettings(latest_us=LATEST_US + day),
        )  # fmt: skip

    bring(1, 5)
    bring(2, 6)
    assert set(tables.read_table(workspace, CATALOG)["batch"].to_pylist()) == {"files/items.csv@snapshots"}
    assert tables.read_table(workspace, ITEMS)["price"].to_pylist() == [Decimal(6)]
