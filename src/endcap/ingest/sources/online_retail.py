"""Invoice lines of the Online Retail data set in, purchases and refunds out.

Source: D. Chen, S. L. Sain, K. Guo (2012), doi:10.1057/dbm.2012.17. A line is an invoice number, a stock code, a
quantity and a price; `C` before the number cancels. Customers are mostly wholesalers; prices are in pounds sterling.
"""

from __future__ import annotations

import functools
import operator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import ibis
import ibis.expr.types as ir
from ibis.backends.duckdb import Backend

from endcap.contracts import columns as c
from endcap.contracts.events import PURCHASE, REFUND
from endcap.engines import duckdb
from endcap.engines.portable import md5_hex
from endcap.ingest import door
from endcap.ingest.sources.protocol import NORMALIZED_TYPES, Batch, Kind, RequiredColumn

CURRENCY: Final = "GBP"

MISSING_FIELD: Final = "missing_field"
NO_CUSTOMER: Final = "no_customer"
NOT_A_PRODUCT: Final = "not_a_product"
UNKNOWN_INVOICE_KIND: Final = "unknown_invoice_kind"
PRICE_NOT_POSITIVE: Final = "price_not_positive"
QUANTITY_NOT_POSITIVE: Final = "quantity_not_positive"
CANCELLATION_NOT_NEGATIVE: Final = "cancellation_not_negative"
AMOUNT_OUT_OF_RANGE: Final = "amount_out_of_range"
TIME_OUT_OF_RANGE: Final = "time_out_of_range"

# Stock numbers have five digits and up to two letters for variants; everything else is postage (POST, DOT, C2), fees
# (BANK CHARGES, AMAZONFEE, CRUK), corrections (M, D, B), samples (S), vouchers (gift_...), pads, goods of another
# catalog that no customer ever bought (DCGS...).
_PRODUCT_CODE: Final = r"^[0-9]{5}[A-Z]{0,2}$"
# Services hidden behind stock numbers: next day carriage, packing charge, high resolution image.
_SERVICE_CODES: Final = ("23444", "23574", "23702")
_INVOICE: Final = r"^C?[0-9]+$"
# Titles are written in capitals; notes of the stockroom ("damaged", "?", "sold as 1") are not.
_TITLE: Final = r"[A-Z]{2}"

MAX_PRICE: Final = 10_000_000
MAX_QUANTITY: Final = 1_000_000
FIRST_YEAR: Final = 1990
LAST_YEAR: Final = 2099
_MAX_WHOLE_FLOAT: Final = 2**53
_MONEY_UNITS: Final = 10_000
_US_PER_SECOND: Final = 1_000_000
_MISSING: Final = "\\N"
_SEPARATOR: Final = "\x1f"


@dataclass(frozen=True)
class OnlineRetail:
    """The Online Retail invoices as one Parquet file."""

    name: str = "online_retail"
    required_columns: tuple[RequiredColumn, ...] = (
        RequiredColumn("InvoiceNo", Kind.TEXT),
        RequiredColumn("StockCode", Kind.TEXT),
        RequiredColumn("Description", Kind.TEXT),
        RequiredColumn("Quantity", Kind.INTEGER),
        RequiredColumn("InvoiceDate", Kind.TIMESTAMP),
        RequiredColumn("UnitPrice", Kind.NUMBER),
        RequiredColumn("CustomerID", Kind.NUMBER),
        RequiredColumn("Country", Kind.TEXT),
    )
    reasons: tuple[str, ...] = (
        MISSING_FIELD,
        NO_CUSTOMER,
        NOT_A_PRODUCT,
        UNKNOWN_INVOICE_KIND,
        PRICE_NOT_POSITIVE,
        QUANTITY_NOT_POSITIVE,
        CANCELLATION_NOT_NEGATIVE,
        AMOUNT_OUT_OF_RANGE,
        TIME_OUT_OF_RANGE,
    )

    is_whole_export: bool = True

    def batches(self, path: Path) -> list[Batch]:
        """See `Source.batches`."""
        door.check_file(self, path)
        return [Batch(name=self.name, paths=(path,))]

    def read(self, connection: Backend, batch: Batch) -> ir.Table:
        """See `Source.read`."""
        (path,) = batch.paths
        door.check_file(self, path)
        rows = duckdb.scan_parquet(connection, path)
        return rows.select(c.ROW_NUMBER, *(column.name for column in self.required_columns))

    def catalog(self, connection: Backend, path: Path) -> ir.Table | None:
        """See `Source.catalog`: invoices state prices as paid, and no catalog."""
        del connection, path
        return None

    def normalize(self, rows: ir.Table) -> ir.Table:
        """See `Source.normalize`."""
        fields = _parse(rows)
        judged = fields.mutate(**{c.REASON: _reason(fields), c.EVENT_ID: _digest(fields)})
        return _as_events(judged)


def _parse(rows: ir.Table) -> ir.Table:
    """Raw columns to trimmed text (never empty), whole numbers and microseconds; what can't be parsed is null."""
    price = _number(rows["UnitPrice"])
    customer = _number(rows["CustomerID"])
    moment = rows["InvoiceDate"].cast("timestamp")
    in_range = (price.abs() <= MAX_PRICE).fill_null(False)
    customer = ((customer > 0) & (customer < _MAX_WHOLE_FLOAT)).ifelse(customer, ibis.null("float64"))
    customer = (customer == customer.floor()).ifelse(customer, ibis.null("float64"))
    return rows.select(
        **{
            c.ROW_NUMBER: rows[c.ROW_NUMBER],
            "invoice": _text(rows["InvoiceNo"]).upper(),
            "code": _text(rows["StockCode"]).upper(),
            "text": _text(rows["Description"].re_replace(r"\s+", " ")),
            "country": _text(rows["Country"]),
            "lines": rows["Quantity"].try_cast("int64"),
            "price_known": price.notnull(),
            "price_in_range": in_range,
            # Whole ten-thousandths: the same digits on every engine, unlike a printed float.
            "price_units": (in_range.ifelse(price, 0.0) * _MONEY_UNITS).round().cast("int64"),
            "price_text": price.cast("string"),
            "customer": customer.cast("int64").cast("string"),
            "year": moment.year(),
            "ts_us": _epoch_seconds(moment) * _US_PER_SECOND + moment.microsecond(),
        }
    )


def _number(column: ir.Value) -> ir.FloatingValue:
    """Null for NaN, which some engines order above every number and others nowhere."""
    number = column.cast("float64")
    return number.isnan().ifelse(ibis.null("float64"), number)


def _epoch_seconds(moment: ir.TimestampValue) -> ir.IntegerValue:
    """Whole seconds: engines round a fraction differently.

    The cast to a float keeps Ibis from dropping the one to an integer, without which DuckDB goes on with a float.
    """
    seconds: ir.IntegerValue = moment.truncate("s").epoch_seconds().cast("float64").cast("int64")
    return seconds


def _text(column: ir.Value) -> ir.StringValue:
    text: ir.StringValue = column.cast("string").strip().nullif("")
    return text


def _is_cancellation(fields: ir.Table) -> ir.BooleanValue:
    return fields["invoice"].startswith("C")


def _reason(fields: ir.Table) -> ir.StringValue:
    cancelled = _is_cancellation(fields)
    missing = functools.reduce(
        operator.or_,
        [fields[name].isnull() for name in ("invoice", "code", "lines", "ts_us")],
        ~fields["price_known"],
    )
    product = fields["code"].re_search(_PRODUCT_CODE) & fields["code"].notin(_SERVICE_CODES)
    return ibis.cases(
        (missing, MISSING_FIELD),
        (fields["customer"].isnull(), NO_CUSTOMER),
        (~product, NOT_A_PRODUCT),
        (~fields["invoice"].re_search(_INVOICE), UNKNOWN_INVOICE_KIND),
        (fields["price_in_range"] & (fields["price_units"] <= 0), PRICE_NOT_POSITIVE),
        (~cancelled & (fields["lines"] <= 0), QUANTITY_NOT_POSITIVE),
        (cancelled & (fields["lines"] >= 0), CANCELLATION_NOT_NEGATIVE),
        (~fields["price_in_range"] | ~fields["lines"].between(-MAX_QUANTITY, MAX_QUANTITY), AMOUNT_OUT_OF_RANGE),
        (~fields["year"].between(FIRST_YEAR, LAST_YEAR), TIME_OUT_OF_RANGE),
        else_=ibis.null("string"),
    )


def _digest(fields: ir.Table) -> ir.StringValue:
    price = fields["price_in_range"].ifelse(fields["price_units"].cast("string"), fields["price_text"])
    parts = [fields[name] for name in ("invoice", "code", "text", "lines", "ts_us")]
    texts = [part.cast("string").fill_null(_MISSING) for part in (*parts, price, fields["customer"], fields["country"])]
    joined = functools.reduce(lambda left, right: left + _SEPARATOR + right, texts)
    return md5_hex(joined)


def _as_events(judged: ir.Table) -> ir.Table:
    good = judged[c.REASON].isnull()
    quantity = good.ifelse(judged["lines"].abs(), 0)
    price_units = good.ifelse(judged["price_units"], 0)
    money = NORMALIZED_TYPES[c.PRICE]
    one_unit = ibis.literal("0.0001").cast(money)
    columns = {
        c.ROW_NUMBER: judged[c.ROW_NUMBER],
        c.REASON: judged[c.REASON],
        c.EVENT_ID: judged[c.EVENT_ID],
        c.USER_ID: judged["customer"],
        c.ITEM_ID: judged["code"],
        c.EVENT_TYPE: _is_cancellation(judged).ifelse(REFUND, PURCHASE),
        c.TS_US: judged["ts_us"],
        c.VALUE: price_units * quantity * one_unit,
        c.QUANTITY: quantity,
        c.CURRENCY: ibis.literal(CURRENCY),
        c.PROPERTIES: ibis.null("string"),
        c.BASKET_ID: judged["invoice"],
        c.PRICE: price_units * one_unit,
        c.TITLE: judged["text"].re_search(_TITLE).ifelse(judged["text"], ibis.null("string")),
        c.COUNTRY: judged["country"],
    }
    return judged.select(**{name: columns[name].cast(dtype) for name, dtype in NORMALIZED_TYPES.items()})
