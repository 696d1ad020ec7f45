"""Which steps follow from a column, and that what a step asks for is what is listed."""

from __future__ import annotations

import pytest

from endcap.contracts import columns as c
from endcap.contracts.events import EVENTS, ITEM_VERSIONS, LANDED
from endcap.workspace import lineage


@pytest.mark.parametrize(
    ("table", "column", "steps"),
    [
        (EVENTS, c.PROPERTIES, ("drift",)),
        (EVENTS, c.SESSION_ID, ("drift", "daily", "windows")),
        (EVENTS, c.PRICE, ("drift", "features")),
        (ITEM_VERSIONS, c.PRICE, ("windows",)),
        (ITEM_VERSIONS, c.CATEGORY, ("daily", "windows", "features")),
        (ITEM_VERSIONS, c.IN_STOCK, ("features",)),
        (LANDED, c.BRAND, ("items", "features")),
        ("daily", None, ("windows",)),
    ],
)
def test_steps_follow_from_the_columns_that_they_read(table: str, column: str | None, steps: tuple[str, ...]) -> None:
    assert lineage.readers_of([(table, column)]) == steps


def test_every_column_that_is_read_is_one_of_its_table() -> None:
    for step, reads in lineage.READS.items():
        for table in reads.keys() - lineage.READS.keys():
            assert set(lineage.columns_read(step, table)) <= set(lineage.contract.TABLES[table].schema.names)
