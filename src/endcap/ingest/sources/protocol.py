"""What a source of rows is: how its exports are read in batches, and the expression that turns rows into events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.events import MONEY_PRECISION, MONEY_SCALE


class Kind(Enum):
    """What a column of a file may hold; the value is how messages name it."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    TIMESTAMP = "timestamp"


@dataclass(frozen=True)
class RequiredColumn:
    """A column that a file must have, by its exact name."""

    name: str
    kind: Kind


NORMALIZED_TYPES: Final[Mapping[str, str]] = {
    c.ROW_NUMBER: "int64",
    c.REASON: "string",
    c.EVENT_ID: "string",
    c.USER_ID: "string",
    c.ITEM_ID: "string",
    c.EVENT_TYPE: "string",
    c.TS_US: "int64",
    c.VALUE: f"decimal({MONEY_PRECISION}, {MONEY_SCALE})",
    c.QUANTITY: "int64",
    c.CURRENCY: "string",
    c.PROPERTIES: "string",
    c.BASKET_ID: "string",
    c.PRICE: f"decimal({MONEY_PRECISION}, {MONEY_SCALE})",
    c.TITLE: "string",
    c.COUNTRY: "string",
}
"""Columns and types of what `Source.normalize` gives."""

OPTIONAL_TYPES: Final[Mapping[str, str]] = {
    c.GUEST_ID: "string",
    c.CATEGORY: "string",
    c.BRAND: "string",
}
"""Further columns that `Source.normalize` may give; null where it doesn't."""

CATALOG_TYPES: Final[Mapping[str, str]] = {
    c.ITEM_ID: "string",
    c.VALID_FROM_US: "int64",
    c.TITLE: "string",
    c.CATEGORY: "string",
    c.BRAND: "string",
    c.GROUP_ID: "string",
    c.PRICE: f"decimal({MONEY_PRECISION}, {MONEY_SCALE})",
    c.CURRENCY: "string",
    c.IN_STOCK: "boolean",
}
"""Columns and types of what `Source.catalog` gives."""


ATTRIBUTE_TYPES: Final[Mapping[str, str]] = {
    c.SIDE: "string",
    c.ENTITY_ID: "string",
    c.VALID_FROM_US: "int64",
    c.PROPERTIES: "string",
}
"""Columns and types of what `DescribingSource.attributes` gives."""


@dataclass(frozen=True)
class Batch:
    """What is ingested, replaced and accounted for as one: a file, a day's table, or a whole export.

    A batch of a name that was ingested before takes its place.
    """

    name: str
    """Unique within the workspace, such as `ga4/events_20260131`; stays the same when the data is exported again."""
    paths: tuple[Path, ...]
    """Its files, in the order in which their rows are numbered."""


class Source(Protocol):
    """One format in which a shop exports what happened. One file below `sources/` implements it."""

    @property
    def name(self) -> str:
        """How the command line names the source."""

    @property
    def is_whole_export(self) -> bool:
        """Whether an export holds all there is, so that it replaces everything ingested from this source before."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why a row may be quarantined, in the order in which they are tried: a row gets the first that applies."""

    def batches(self, path: Path) -> list[Batch]:
        """The event batches below `path` (a file or a folder), in the order of their names; empty: a catalog alone.

        Reads no more than names and footers. Raises InputError when there is nothing that fits.
        """

    def read(self, connection: Backend, batch: Batch) -> ir.Table:
        """The batch's raw rows with `row_number` (int64, from 0), after lists are unnested: one row per possible event.

        Raises InputError naming the file, the column, what was found and expected when it doesn't fit.
        """

    def normalize(self, rows: ir.Table) -> ir.Table:
        """Turn raw rows into one normalized row each (`NORMALIZED_TYPES`, and any of `OPTIONAL_TYPES`).

        `event_id` is the source's own id of the event, else a digest of what the row means, so that equal events have
        equal ids on every engine, whatever the form of their file. `reason` is null for a good row; a row with a reason may hold null elsewhere.
        `title` is null when the row's text is no title.
        """

    def catalog(self, connection: Backend, path: Path) -> ir.Table | None:
        """What the export at `path` says about products (`CATALOG_TYPES`); None when it says nothing.

        `valid_from_us` is 0 where the export doesn't tell since when; keys `item_id, valid_from_us` are unique.
        """


@runtime_checkable
class DescribingSource(Protocol):
    """A source that says more of users and products than the tables about them have columns for."""

    def attributes(self, connection: Backend, path: Path) -> Mapping[str, ir.Table]:
        """What each file of the export at `path` says (`ATTRIBUTE_TYPES`, unique by side, id and moment), by the file's name.

        `valid_from_us` is 0 where the export doesn't tell since when.
        """
