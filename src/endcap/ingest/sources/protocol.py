"""What a source of rows is: the columns its files must have, and the expression that turns its rows into events."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

import ibis.expr.types as ir

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


class Source(Protocol):
    """One format in which a shop exports what happened. One file below `sources/` implements it."""

    @property
    def name(self) -> str:
        """How the command line names the source."""

    @property
    def required_columns(self) -> tuple[RequiredColumn, ...]:
        """What every file must have; further columns are ignored."""

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why a row may be quarantined, in the order in which they are tried: a row gets the first that applies."""

    def normalize(self, rows: ir.Table) -> ir.Table:
        """Turn raw rows (the required columns and `row_number`) into one normalized row each (`NORMALIZED_TYPES`).

        `event_id` is a digest of the row's whole content, so that equal rows have equal ids on every engine. `reason`
        is null for a good row; a row with a reason may hold null elsewhere. `title` is null when the row's text is no
        title.
        """
