"""Products are found by id and by words, by hand on six of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from endcap.contracts.errors import ArtifactError
from endcap.serving.catalog import Catalog

IDS = ["22", "220", "7", "8", "9", "10"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file has its products in another order than the candidates, one more, and one less (10)."""
    path = tmp_path_factory.mktemp("catalog") / "items.parquet"
    table = pa.table(
        {
            "item_id": ["9", "8", "7", "220", "22", "gone"],
            "title": ["Red lantern", "LANTERN, 22 cm", None, "Köln mug", "Blue mug", "Red gone"],
            "category": ["Home > Light", "Home > Light", "Home", "Kitchen", "Kitchen", "Kitchen"],
            "price": pa.array([1.5, float("nan"), None, 4, 3, 2], pa.float32()),
            "in_stock": [True, False, None, True, None, True],
            "purchases_per_10k": [5.0, 9.0, 1.0, 2.0, 3.0, 100.0],
        }
    )
    pq.write_table(table, path)
    return path


@pytest.fixture(scope="module")
def catalog(path: Path) -> Catalog:
    return Catalog(path, np.array(IDS))


@pytest.mark.parametrize(
    ("asked", "ids"),
    [
        ("lantern", ["8", "9"]),  # by sales
        ("LANTERN red", ["9"]),  # every word, in any order
        ("antern", ["8", "9"]),  # inside of a word
        ("mu", ["22", "220"]),
        ("22", ["22", "220", "8"]),  # the id, the id's start, a word of a title
        ("köln", ["220"]),
        ("2", ["22", "220", "8"]),
        ("red gone", []),  # no candidate
        ("lantern lamp", []),
        (" \t", ["8", "9", "22", "220", "7", "10"]),  # what sells most first, what nobody knows of last
    ],
)
def test_words_find_products(catalog: Catalog, asked: str, ids: list[str]) -> None:
    found = catalog.search(asked, 20)
    assert ([product["id"] for product in found.products], found.num_found) == (ids, len(ids))


def test_a_search_is_cut_and_says_how_many_there_are(catalog: Catalog) -> None:
    found = catalog.search("", 2)
    assert (len(found.products), found.num_found) == (2, 6)


def test_products_come_with_what_is_known_of_them(catalog: Catalog) -> None:
    assert catalog.of(["9", "10", "nobody's", "8"]) == [
        {"id": "9", "title": "Red lantern", "category": "Home > Light", "price": 1.5, "in_stock": True},
        {"id": "10", "title": None, "category": None, "price": None, "in_stock": None},
        {"id": "8", "title": "LANTERN, 22 cm", "category": "Home > Light", "price": None, "in_stock": False},
    ]


def test_it_tells_what_there_is(catalog: Catalog) -> None:
    assert catalog.describe() == {
        "num_products": 6,
        "columns": ["title", "category", "price", "in_stock"],
        "num_categories": 3,
        "categories": [
            {"name": "Home", "num_products": 3},
            {"name": "Home > Light", "num_products": 2},
            {"name": "Kitchen", "num_products": 2},
        ],
        "price": {"min": 1.5, "max": 4.0},
        "num_in_stock": 2,
    }


def test_whole_numbers_are_ids_too(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    pq.write_table(pa.table({"item_id": [2**62, 5], "title": ["Large", "Small"]}), path)
    catalog = Catalog(path, np.array([5, 2**62, 6]))
    assert catalog.search("46116", 5).products == [{"id": 2**62, "title": "Large"}]
    assert catalog.of([6, 5, 7]) == [{"id": 6, "title": None}, {"id": 5, "title": "Small"}]


def test_without_a_file_there_are_ids_alone() -> None:
    catalog = Catalog(None, np.array(["b1", "a1"]))
    assert catalog.search("a", 5).products == [{"id": "a1"}]
    assert catalog.describe() == {"num_products": 2, "columns": []}


def test_without_candidates_all_of_the_file_counts(path: Path) -> None:
    assert [product["id"] for product in Catalog(path).search("red", 5).products] == ["gone", "9"]


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(ArtifactError, match="Release again"):
        Catalog(path)
    pq.write_table(pa.table({"title": ["x"]}), path)
    with pytest.raises(ArtifactError, match="Release again"):
        Catalog(path)
