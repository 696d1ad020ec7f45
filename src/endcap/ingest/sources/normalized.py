"""What a source found in each row in, normalized rows with a reason for each that can't be used out."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import ibis
import ibis.expr.types as ir

from endcap.contracts import columns as c
from endcap.contracts.events import EVENT_TYPES, ITEM_OPTIONAL, PURCHASE, REFUND
from endcap.ingest import nested
from endcap.ingest.lines import BROKEN
from endcap.ingest.sources import cells
from endcap.ingest.sources.protocol import NORMALIZED_TYPES, OPTIONAL_TYPES

MALFORMED_ROW: Final = "malformed_row"
NOT_USED: Final = "event_type_not_used"
BROKEN_TEXT: Final = "broken_text"
TEXT_TOO_LONG: Final = "text_too_long"
MISSING_EVENT_TYPE: Final = "missing_event_type"
UNKNOWN_EVENT_TYPE: Final = "unknown_event_type"
MISSING_USER: Final = "missing_user"
MISSING_ITEM: Final = "missing_item"
MISSING_TIME: Final = "missing_time"
UNREADABLE_TIME: Final = "unreadable_time"
TIME_OUT_OF_RANGE: Final = "time_out_of_range"
BAD_PRICE: Final = "bad_price"
BAD_QUANTITY: Final = "bad_quantity"
BAD_VALUE: Final = "bad_value"
AMOUNT_OUT_OF_RANGE: Final = "amount_out_of_range"

REASONS: Final = (
    MALFORMED_ROW,
    NOT_USED,
    BROKEN_TEXT,
    TEXT_TOO_LONG,
    MISSING_EVENT_TYPE,
    UNKNOWN_EVENT_TYPE,
    MISSING_USER,
    MISSING_ITEM,
    MISSING_TIME,
    UNREADABLE_TIME,
    TIME_OUT_OF_RANGE,
    BAD_PRICE,
    BAD_QUANTITY,
    BAD_VALUE,
    AMOUNT_OUT_OF_RANGE,
)

MAX_ID_LENGTH: Final = 1_000
MAX_TEXT_LENGTH: Final = 100_000
_SOLD: Final = (PURCHASE, REFUND)
_AMOUNTS: Final = ("price_units", "value_units", "quantity_whole")
_KEPT: Final = "kept_"
_APART: Final = "apart_"
_RAW: Final = "raw_"


def no_text() -> ir.StringValue:
    """A text that isn't there."""
    return ibis.null("string")


@dataclass
class Fields:
    """What a source found in a row of `rows`: expressions, null where the row says nothing."""

    rows: ir.Table
    user: ir.StringValue
    item: ir.StringValue
    type_given: ir.StringValue
    """The source's own word."""
    event_type: ir.StringValue
    """One of EVENT_TYPES, `NOT_USED` for what is left out on purpose, or null for what is unknown."""
    time_given: ir.Value
    ts_us: ir.IntegerValue
    is_malformed: ir.BooleanValue
    event_id: ir.StringValue = field(default_factory=no_text)
    guest: ir.StringValue = field(default_factory=no_text)
    price_given: ir.StringValue = field(default_factory=no_text)
    price: ir.FloatingValue = field(default_factory=lambda: ibis.null("float64"))
    value_given: ir.StringValue = field(default_factory=no_text)
    value: ir.FloatingValue = field(default_factory=lambda: ibis.null("float64"))
    quantity_given: ir.StringValue = field(default_factory=no_text)
    quantity: ir.FloatingValue = field(default_factory=lambda: ibis.null("float64"))
    currency: ir.StringValue = field(default_factory=no_text)
    basket: ir.StringValue = field(default_factory=no_text)
    properties: Mapping[str, ir.StringValue] = field(default_factory=dict)
    """What is kept with the event as JSON, by name."""
    apart: Mapping[str, ir.Value] = field(default_factory=dict)
    """What else tells two events apart whose fields are equal, such as the place of a product in its order."""
    title: ir.StringValue = field(default_factory=no_text)
    category: ir.StringValue = field(default_factory=no_text)
    brand: ir.StringValue = field(default_factory=no_text)
    country: ir.StringValue = field(default_factory=no_text)
    more_reasons: tuple[tuple[ir.BooleanValue, str], ...] = ()
    """Conditions of the source's own, tried before a missing user."""


def named_event_type(word: ir.StringValue, names: Mapping[str, str]) -> ir.StringValue:
    """The event type of a source's word by its names for them; null for a word that isn't among them."""
    # Few cases run fast: words that mean the same share one.
    by_type: dict[str, list[str]] = {}
    for name, event_type in names.items():
        by_type.setdefault(event_type, []).append(name)
    branches = [(cells.among(word, words), event_type) for event_type, words in by_type.items()]
    result: ir.StringValue = ibis.cases(*branches, else_=no_text())
    return result


def normalize(fields: Fields) -> ir.Table:
    """Judge the fields and give `NORMALIZED_TYPES` and `OPTIONAL_TYPES`, one row for each of `fields.rows`.

    The id of an event without one of the source's is a digest of what it means (`_meaning`), so that neither the form of
    its file nor further columns count. A row that means nothing has a digest of all its columns.
    """
    rows = fields.rows
    kept = {f"{_KEPT}{name}": value for name, value in fields.properties.items()}
    apart = {f"{_APART}{name}": value for name, value in fields.apart.items()}
    raw = {f"{_RAW}{name}": rows[name] for name in rows.columns if name not in (c.ROW_NUMBER, nested.EVENT_ROW)}
    found = rows.select(
        **{
            c.ROW_NUMBER: rows[c.ROW_NUMBER],
            c.EVENT_ID: fields.event_id,
            "is_malformed": fields.is_malformed,
            "source_reason": _source_reason(fields),
            c.USER_ID: ibis.coalesce(fields.user, fields.guest),
            c.GUEST_ID: (fields.user.notnull() & (fields.guest != fields.user)).ifelse(fields.guest, no_text()),
            c.ITEM_ID: fields.item,
            "type_given": fields.type_given,
            c.EVENT_TYPE: fields.event_type,
            "has_time": cells.text(fields.time_given).notnull(),
            c.TS_US: fields.ts_us,
            "price_given": fields.price_given.notnull(),
            "price_number": fields.price,
            "value_given": fields.value_given.notnull(),
            "value_number": fields.value,
            "quantity_given": fields.quantity_given.notnull(),
            "quantity_number": fields.quantity,
            c.CURRENCY: fields.currency.upper(),
            c.PROPERTIES: cells.json_object(fields.properties),
            c.BASKET_ID: fields.basket,
            c.TITLE: fields.title,
            c.CATEGORY: fields.category,
            c.BRAND: fields.brand,
            c.COUNTRY: fields.country,
            **kept,
            **apart,
            **raw,
        }
    )
    judged = found.mutate(**{c.REASON: _reason(found), **_amounts(found)})
    types = {**NORMALIZED_TYPES, **OPTIONAL_TYPES}
    price, value, quantity = judged["price_units"], judged["value_units"], judged["quantity_whole"]
    good = judged[c.REASON].isnull()
    made_id = good.ifelse(cells.digest(_meaning(judged)), cells.digest({name: judged[name] for name in raw}))
    made = {
        c.EVENT_ID: ibis.coalesce(judged[c.EVENT_ID], made_id),
        c.PRICE: cells.money(good.ifelse(price, ibis.null("int64"))),
        c.VALUE: cells.money(good.ifelse(value, ibis.null("int64"))),
        c.QUANTITY: good.ifelse(quantity, ibis.null("int64")),
    }
    return judged.select(**{
        name: (made[name] if name in made else judged[name]).cast(dtype) for name, dtype in types.items()
    })  # fmt: skip


def _meaning(judged: ir.Table) -> dict[str, ir.Value]:
    """What tells an event from others: who, what, when, how much, in which order and session, and what is kept of it."""
    names = (c.USER_ID, c.GUEST_ID, c.ITEM_ID, c.EVENT_TYPE, c.TS_US, c.CURRENCY, c.BASKET_ID, *_AMOUNTS)
    further = {name: judged[name] for name in judged.columns if name.startswith((_KEPT, _APART))}
    return {name: judged[name] for name in names} | {
        name: cells.plain_number(value) if value.type().is_string() else value for name, value in further.items()
    }


def _source_reason(fields: Fields) -> ir.StringValue:
    if not fields.more_reasons:
        return no_text()
    result: ir.StringValue = ibis.cases(*fields.more_reasons, else_=no_text())
    return result


def _amounts(found: ir.Table) -> dict[str, ir.IntegerValue]:
    """Price, quantity and value that belong together, in ten-thousandths and pieces.

    A value that the shop gives stands: discounts and taxes make it another than price x quantity, which fills in.
    Signs say which way goods and money went, which the event's type says already. A price of 0 beside anything but a
    sale means that it wasn't known, and so does such a value. A sale without a quantity is one piece.
    """
    sold = found[c.EVENT_TYPE].isin(_SOLD)
    zero_is_known = sold.fill_null(False)
    price = cells.money_units(found["price_number"]).abs()
    price = ((price == 0) & ~zero_is_known).ifelse(ibis.null("int64"), price)
    value = cells.money_units(found["value_number"]).abs()
    value = ((value == 0) & ~zero_is_known).ifelse(ibis.null("int64"), value)
    quantity = cells.whole(found["quantity_number"]).abs()
    counted = ibis.coalesce(quantity, sold.ifelse(1, ibis.null("int64"))).cast("int64")
    pieces = (counted > 0).ifelse(counted, ibis.null("int64"))
    each = ((value.cast("float64") / pieces.cast("float64")).round()).cast("int64")
    return {
        "price_units": ibis.coalesce(price, each).cast("int64"),
        "value_units": ibis.coalesce(value, price * pieces).cast("int64"),
        "quantity_whole": pieces,
    }


def _reason(found: ir.Table) -> ir.StringValue:
    price, value, quantity = found["price_number"], found["value_number"], found["quantity_number"]
    event_type = found[c.EVENT_TYPE]
    needs_item = event_type.notin(ITEM_OPTIONAL)
    names = [found[name] for name in (c.USER_ID, c.ITEM_ID, "type_given", c.GUEST_ID, c.BASKET_ID, c.EVENT_ID)]
    names += [found[c.CURRENCY], found[c.COUNTRY]]
    texts = [found[name] for name in (c.TITLE, c.CATEGORY, c.BRAND, c.PROPERTIES)]
    is_refund = (event_type == REFUND).fill_null(False)
    negative_price = (price < 0) & ~is_refund
    negative_quantity = (quantity < 0) & ~is_refund
    nothing_sold = event_type.isin(_SOLD) & (quantity == 0)
    too_much = (
        (price.abs() > cells.MAX_AMOUNT) | (value.abs() > cells.MAX_AMOUNT) | (quantity.abs() > cells.MAX_QUANTITY)
    )
    ts_us = found[c.TS_US]
    return ibis.cases(
        (found["is_malformed"], MALFORMED_ROW),
        (event_type == NOT_USED, NOT_USED),
        (_any(name.contains(BROKEN) for name in names[:4]), BROKEN_TEXT),
        (
            _any(
                [
                    *(name.length() > MAX_ID_LENGTH for name in names),
                    *(text.length() > MAX_TEXT_LENGTH for text in texts),
                ]
            ),
            TEXT_TOO_LONG,
        ),
        (found["type_given"].isnull(), MISSING_EVENT_TYPE),
        (event_type.isnull() | ~cells.among(event_type, EVENT_TYPES), UNKNOWN_EVENT_TYPE),
        (found["source_reason"].notnull(), found["source_reason"]),
        (found[c.USER_ID].isnull(), MISSING_USER),
        (found[c.ITEM_ID].isnull() & needs_item, MISSING_ITEM),
        (~found["has_time"], MISSING_TIME),
        (ts_us.isnull(), UNREADABLE_TIME),
        (~ts_us.between(cells.FIRST_US, cells.END_US - 1), TIME_OUT_OF_RANGE),
        ((found["price_given"] & price.isnull()) | negative_price, BAD_PRICE),
        (
            (found["quantity_given"] & quantity.isnull())
            | negative_quantity
            | nothing_sold
            | (cells.whole(quantity).isnull() & (quantity.abs() <= cells.MAX_QUANTITY)),
            BAD_QUANTITY,
        ),
        ((found["value_given"] & value.isnull()) | ((value < 0) & ~is_refund), BAD_VALUE),
        (too_much, AMOUNT_OUT_OF_RANGE),
        else_=no_text(),
    )


def _any(conditions: object) -> ir.BooleanValue:
    """Whether any holds; a null one doesn't."""
    known = [condition.fill_null(False) for condition in conditions]  # type: ignore[attr-defined]
    result: ir.BooleanValue = functools.reduce(operator.or_, known)
    return result
