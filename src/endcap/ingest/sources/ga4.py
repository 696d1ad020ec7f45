"""Google Analytics 4's BigQuery export in (a table `events_YYYYMMDD` a day), one event per product named out.

A day's table changes for three days; exported again it takes the place of what was ingested of that day. Of a day's
`events_intraday_` and `events_` tables the latter counts. Schema: https://support.google.com/analytics/answer/7029846
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts import events as contract
from endcap.contracts.errors import InputError
from endcap.ingest import door, nested, reader
from endcap.ingest.sources import cells, normalized
from endcap.ingest.sources.protocol import Batch

NAME: Final = "ga4"

_TABLE: Final = re.compile(r"events_(intraday_)?(\d{8})(?!\d)")
_ITEM: Final = (
    "item_id", "item_name", "item_brand", "item_variant", "item_category", "item_category2", "item_category3",
    "item_category4", "item_category5", "price", "quantity", "item_revenue", "item_refund", "item_list_name", "item_list_index",
)  # fmt: skip
_VALUE: Final = ("string_value", "int_value", "float_value", "double_value")
_SHAPE: Final[nested.Shape] = {
    "event_timestamp": None,
    "event_name": None,
    "user_id": None,
    "user_pseudo_id": None,
    "event_bundle_sequence_id": None,
    "event_params": [{"key": None, "value": dict.fromkeys(_VALUE)}],
    "geo": {"country": None},
    "ecommerce": {"transaction_id": None},
    "items": [dict.fromkeys(_ITEM)],
}
_NEEDED: Final = ("event_timestamp", "event_name", "user_pseudo_id")
_PARAMETERS: Final = ("ga_session_id", "currency", "search_term", "transaction_id")

EVENT_NAMES: Final = {**{name: name for name in contract.EVENT_TYPES}, "view_search_results": contract.SEARCH}
"""Other names are left out on purpose: `page_view`, `session_start`, `scroll`, a shop's own."""


@dataclass(frozen=True)
class Ga4:
    """Day tables as Parquet or JSON-lines, each a file `events_YYYYMMDD…` or a folder of that name with parts."""

    name: str = NAME
    is_whole_export: bool = False
    reasons: tuple[str, ...] = normalized.REASONS

    def batches(self, path: Path) -> list[Batch]:
        """See `Source.batches`."""
        days: dict[str, dict[bool, list[Path]]] = {}
        for name, file in door.parts(path, NAME).items():
            found = _TABLE.search(f"{path.name}/{name}" if path.is_dir() else name)
            if found and door.file_kind(file) is door.FileKind.CSV:
                raise InputError(
                    f"{file} is CSV, which can't hold the lists of a table of source {NAME}; expected Parquet or "
                    "JSON-lines. Export the day as one of them."
                )
            if found:
                is_intraday = bool(found[1])
                days.setdefault(found[2], {}).setdefault(is_intraday, []).append(file)
        if not days:
            raise InputError(
                f"{path} holds no table of source {NAME}; expected Parquet or JSON-lines files named events_YYYYMMDD."
            )
        return [
            Batch(f"{NAME}/events_{day}", tuple(tables.get(False) or tables[True]))
            for day, tables in sorted(days.items())
        ]

    def read(self, connection: Backend, batch: Batch) -> ir.Table:
        """See `Source.read`. An event without products is one row."""
        for path in batch.paths:
            door.check_columns(path, door.column_names(path), [[name] for name in _NEEDED], NAME)
        events = nested.read_shaped(connection, batch.paths, _SHAPE)
        parameters = {name: _parameter(events, name) for name in _PARAMETERS}
        leaves = {name: events[name] for name in _SHAPE if name not in ("event_params", "geo", "ecommerce", "items")}
        flat = events.select(
            **leaves,
            **{f"param_{name}": value for name, value in parameters.items()},
            country=events["geo"]["country"],
            order_id=events["ecommerce"]["transaction_id"],
            items=events["items"],
            **{nested.EVENT_ROW: events[c.ROW_NUMBER]},
            **{reader.MALFORMED_LINE: events[reader.MALFORMED_LINE]},
        )
        return nested.unnested(flat, "items", _ITEM)

    def normalize(self, rows: ir.Table) -> ir.Table:
        """See `Source.normalize`. `user_pseudo_id` is the guest, and the user where nobody is logged in."""
        word = cells.text(rows["event_name"])
        names = normalized.named_event_type(word, EVENT_NAMES)
        basket = cells.first_of([rows["order_id"], rows["param_transaction_id"]])
        is_sale = names.isin((contract.PURCHASE, contract.REFUND))
        # Of a sale and of a refund, each in the event's own currency, after discounts.
        value = (names == contract.REFUND).ifelse(
            ibis.coalesce(rows["item_refund"], rows["item_revenue"]), rows["item_revenue"]
        )
        levels = [rows[name] for name in _ITEM if name.startswith("item_category")]
        kept = {
            "session_id": rows["param_ga_session_id"],
            "search_term": rows["param_search_term"],
            "item_list_name": rows["item_list_name"],
            "item_list_index": rows["item_list_index"],
            "item_variant": rows["item_variant"],
        }
        fields = normalized.Fields(
            rows=rows,
            user=cells.id_text(rows["user_id"]),
            guest=cells.id_text(rows["user_pseudo_id"]),
            item=cells.id_text(rows["item_id"]),
            type_given=word,
            event_type=(word.notnull() & names.isnull()).ifelse(normalized.NOT_USED, names),
            time_given=rows["event_timestamp"],
            ts_us=cells.moment_us(rows["event_timestamp"], "us"),
            is_malformed=rows[reader.MALFORMED_LINE].notnull(),
            apart={"position": rows["position"], "bundle": rows["event_bundle_sequence_id"]},
            price_given=cells.text(rows["price"]),
            price=cells.number(rows["price"]),
            value_given=cells.text(value),
            value=cells.number(value),
            quantity_given=cells.text(rows["quantity"]),
            quantity=cells.number(rows["quantity"]),
            currency=cells.text(rows["param_currency"]),
            basket=is_sale.ifelse(basket, ibis.null("string")),
            properties={name: cells.text(kept_value) for name, kept_value in kept.items()},
            title=cells.clean_title(rows["item_name"]),
            category=cells.joined_levels(levels),
            brand=cells.clean_title(rows["item_brand"]),
            country=cells.text(rows["country"]),
        )
        return normalized.normalize(fields)

    def catalog(self, connection: Backend, path: Path) -> ir.Table | None:
        """See `Source.catalog`: products are known by their events alone."""
        del connection, path
        return None


def _parameter(events: ir.Table, key: str) -> ir.StringValue:
    """An event parameter's value as text, whichever type it has."""
    value = events["event_params"].filter(lambda parameter: parameter["key"] == key)[0]["value"]
    result: ir.StringValue = ibis.coalesce(*[value[name] for name in _VALUE])
    return result
