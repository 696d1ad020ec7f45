"""UserEvents of Google's retail API as JSON-lines in, one event per product named out.

Schema: https://cloud.google.com/retail/docs/reference/rest/v2/projects.locations.catalogs.userEvents
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts import events as contract
from endcap.ingest import door, nested, reader
from endcap.ingest.sources import cells, normalized
from endcap.ingest.sources.protocol import Batch

NAME: Final = "google_retail"

_PRODUCT: Final = {
    "id": None, "name": None, "title": None, "brands": None, "categories": None,
    "priceInfo": {"price": None, "currencyCode": None},
}  # fmt: skip
_SHAPE: Final[nested.Shape] = {
    "eventType": None,
    "visitorId": None,
    "userInfo": {"userId": None},
    "eventTime": None,
    "sessionId": None,
    "cartId": None,
    "searchQuery": None,
    "attributionToken": None,
    "purchaseTransaction": {"id": None, "revenue": None, "currencyCode": None},
    "productDetails": [{"product": _PRODUCT, "quantity": None}],
}
_NEEDED: Final = ("eventType", "visitorId", "eventTime")

EVENT_NAMES: Final = {
    "detail-page-view": contract.VIEW_ITEM,
    "add-to-cart": contract.ADD_TO_CART,
    "remove-from-cart": contract.REMOVE_FROM_CART,
    "purchase-complete": contract.PURCHASE,
    "category-page-view": contract.VIEW_ITEM_LIST,
    "search": contract.SEARCH,
    "home-page-view": normalized.NOT_USED,
    "shopping-cart-page-view": normalized.NOT_USED,
    "promotion-offered": normalized.NOT_USED,
    "promotion-not-offered": normalized.NOT_USED,
}


@dataclass(frozen=True)
class GoogleRetail:
    """Files of one UserEvent a line; each file is a batch."""

    name: str = NAME
    is_whole_export: bool = False
    reasons: tuple[str, ...] = normalized.REASONS

    def batches(self, path: Path) -> list[Batch]:
        """See `Source.batches`."""
        found = door.parts(path, NAME)
        if path.is_file():
            door.check_has_rows(path)
        return [Batch(f"{NAME}/{name}", (file,)) for name, file in found.items()]

    def read(self, connection: Backend, batch: Batch) -> ir.Table:
        """See `Source.read`. An event without products is one row."""
        for path in batch.paths:
            door.check_columns(path, door.column_names(path), [[name] for name in _NEEDED], NAME)
        events = nested.read_shaped(connection, batch.paths, _SHAPE)
        leaves = {name: events[name] for name, inner in _SHAPE.items() if inner is None}
        order = events["purchaseTransaction"]
        flat = events.select(
            **leaves,
            user_id=events["userInfo"]["userId"],
            order_id=order["id"],
            order_revenue=order["revenue"],
            order_currency=order["currencyCode"],
            num_products=events["productDetails"].length().fill_null(0),
            productDetails=events["productDetails"],
            **{nested.EVENT_ROW: events[c.ROW_NUMBER], reader.MALFORMED_LINE: events[reader.MALFORMED_LINE]},
        )
        rows = nested.unnested(flat, "productDetails", ("product", "quantity"))
        product = rows["product"]
        plain = {f"product_{name}": product[name] for name, inner in _PRODUCT.items() if inner is None}
        prices = {name: product["priceInfo"][name] for name in ("price", "currencyCode")}
        return rows.mutate(**plain, **prices).drop("product")

    def normalize(self, rows: ir.Table) -> ir.Table:
        """See `Source.normalize`. `visitorId` is the guest, and the user where nobody is logged in.

        An order's revenue is its product's value when it names one product without a price.
        """
        word = cells.text(rows["eventType"])
        event_type = normalized.named_event_type(word, EVENT_NAMES)
        item = cells.first_of([rows["product_id"], rows["product_name"].re_extract(r"/products/([^/]+)$", 1)])
        is_sale = event_type == contract.PURCHASE
        has_one = is_sale & (rows["num_products"] <= 1)
        # A grand total, with shipping and taxes: where a price is known, price x quantity is nearer to the line's value.
        is_needed = has_one & cells.text(rows["price"]).isnull()
        value = is_needed.ifelse(rows["order_revenue"], ibis.null("string"))
        names = {"session_id": "sessionId", "search_term": "searchQuery", "attribution_token": "attributionToken"}
        fields = normalized.Fields(
            rows=rows,
            user=cells.id_text(rows["user_id"]),
            guest=cells.id_text(rows["visitorId"]),
            item=item,
            type_given=word,
            event_type=event_type,
            time_given=rows["eventTime"],
            ts_us=cells.moment_us(rows["eventTime"]),
            is_malformed=rows[reader.MALFORMED_LINE].notnull(),
            apart={"position": rows["position"]},
            price_given=cells.text(rows["price"]),
            price=cells.number(rows["price"]),
            value_given=cells.text(value),
            value=cells.number(value),
            quantity_given=cells.text(rows["quantity"]),
            quantity=cells.number(rows["quantity"]),
            currency=cells.first_of([rows["currencyCode"], rows["order_currency"]]),
            basket=is_sale.ifelse(cells.text(rows["order_id"]), ibis.null("string")),
            properties={name: cells.text(rows[column]) for name, column in names.items()},
            title=cells.clean_title(rows["product_title"]),
            category=cells.clean_title(cells.first_listed(rows["product_categories"])),
            brand=cells.clean_title(cells.first_listed(rows["product_brands"])),
        )
        return normalized.normalize(fields)

    def catalog(self, connection: Backend, path: Path) -> ir.Table | None:
        """See `Source.catalog`: products are known by their events alone."""
        del connection, path
        return None
