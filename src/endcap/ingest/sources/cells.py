"""Raw cells of any type in, trimmed text, whole numbers, exact money, moments and digests out; never an error.

What can't be read is null, and so are the words by which exports say that there is nothing.
"""

from __future__ import annotations

import functools
import html
import operator
import re
from collections.abc import Mapping, Sequence
from html.entities import html5
from typing import Any, Final

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.compute as pc

from endcap.contracts.columns import CATEGORY_SEPARATOR
from endcap.contracts.events import MONEY_PRECISION, MONEY_SCALE
from endcap.engines.portable import md5_hex

NOTHING: Final = ("", "null", "NULL", "None", "nan", "NaN", "\\N", "undefined", "(not set)", "(none)")
"""Texts that mean that there is no value."""

MONEY_UNITS: Final = 10**MONEY_SCALE
MAX_AMOUNT: Final = 10_000_000
MAX_QUANTITY: Final = 1_000_000
FIRST_US: Final = 631_152_000_000_000
"""1990-01-01 UTC."""
END_US: Final = 4_102_444_800_000_000
"""2100-01-01 UTC."""

EPOCH_UNITS: Final[Mapping[str, int]] = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Microseconds in one of each unit in which a moment may be counted since 1970 (`ns` beside them)."""
ISO: Final = "iso"
NANOSECONDS: Final = "ns"

ANY_SEPARATOR: Final = "any"
"""Says that each category tells itself what parts it."""

_SEPARATOR: Final = "\x1f"
_WHOLE_SECONDS: Final = r"^[+-]?[0-9]{1,19}([.][0-9]*)?$"
_OFFSET: Final = r"(?i)(Z|UTC|GMT|[0-9][+-][0-9]{2}(:?[0-9]{2})?)$"
_MAX_WHOLE_FLOAT: Final = 2**53
_CODE: Final = r"^[A-Za-z0-9_-]+([.][A-Za-z0-9_-]+)+$"
# What a title may need cleaning for: an entity, or spaces that aren't single.
_UNCLEAN: Final = r"&|\s\s|[\t\n\r\f\v\x{A0}]"
_ENTITY: Final = re.compile(r"&(#[0-9]{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,31});")
_NO_SIGN: Final = ("", "\ufffd")


def among(value: ir.StringValue, words: Sequence[str]) -> ir.BooleanValue:
    """Whether a text is one of the words. DuckDB plans a join for each longer IN, which takes it 0.1 s apiece."""
    found: ir.BooleanValue = ibis.array(list(words)).contains(value)
    return found


@ibis.udf.scalar.builtin(name="trim", signature=(("string",), "string"))  # type: ignore[untyped-decorator]
def _trim(value: Any) -> Any:
    """A text without spaces around it. Ibis' own `strip` names the signs to strip, which is four times slower."""


def text(value: ir.Value) -> ir.StringValue:
    """The value as text without spaces around it; null for `NOTHING`."""
    trimmed: ir.StringValue = _trim(value.cast("string"))
    cleaned: ir.StringValue = among(trimmed, NOTHING).ifelse(ibis.null("string"), trimmed)
    return cleaned


def id_text(value: ir.Value) -> ir.StringValue:
    """An id as text; a whole floating number loses its fraction, as a table program adds one beside empty cells."""
    if not value.type().is_floating():
        return text(value)
    # Ibis' floor is a cast to an integer, which fails for what no integer holds.
    in_range = (value.abs() < _MAX_WHOLE_FLOAT).fill_null(False)
    floor = in_range.ifelse(value, 0.0).floor()
    return text((in_range & (value == floor)).ifelse(floor.cast("int64").cast("string"), value.cast("string")))


def number(value: ir.Value, *, decimal: str = ".") -> ir.FloatingValue:
    """A finite number; null for anything else. `decimal` is the mark before the fraction in a text."""
    if value.type().is_string():
        digits = text(value)
        if decimal != ".":
            digits = digits.replace(decimal, ".")
        # DuckDB reads 1_000 as a number, others don't.
        value = digits.contains("_").ifelse(ibis.null("string"), digits)
    elif not (value.type().is_numeric() or value.type().is_boolean()):
        value = ibis.null("string")
    parsed = value.try_cast("float64")
    is_finite = ~(parsed.isnan() | parsed.isinf())
    finite: ir.FloatingValue = is_finite.ifelse(parsed, ibis.null("float64"))
    return finite


def money_units(value: ir.FloatingValue) -> ir.IntegerValue:
    """An amount as whole ten-thousandths, the same on every engine; null when it is out of `MAX_AMOUNT`."""
    in_range = (value.abs() <= MAX_AMOUNT).fill_null(False)
    units = (in_range.ifelse(value, 0.0) * MONEY_UNITS).round(0).try_cast("int64")
    result: ir.IntegerValue = in_range.ifelse(units, ibis.null("int64"))
    return result


def money(units: ir.IntegerValue) -> ir.DecimalValue:
    """Ten-thousandths as decimal."""
    dtype = f"decimal({MONEY_PRECISION}, {MONEY_SCALE})"
    amount: ir.DecimalValue = units * ibis.literal("0.0001").cast(dtype)
    return amount.cast(dtype)


def whole(value: ir.FloatingValue) -> ir.IntegerValue:
    """A whole number up to `MAX_QUANTITY` on both sides; null for any other."""
    in_range = (value.abs() <= MAX_QUANTITY).fill_null(False)
    floor = in_range.ifelse(value, 0.0).floor()
    result: ir.IntegerValue = (in_range & (value == floor)).ifelse(floor.cast("int64"), ibis.null("int64"))
    return result


def moment_us(value: ir.Value, form: str = ISO, zone: str = "UTC") -> ir.IntegerValue:
    """Microseconds since 1970 UTC of a moment; null when it can't be read.

    Args:
        value: A timestamp or date (taken as it is, whatever `form` says), a number or a text.
        form: `iso`, a unit of `EPOCH_UNITS`, `ns`, or a pattern of strptime.
        zone: Where the clock hung that a moment without an offset was read from.
    """
    dtype = value.type()
    if dtype.is_timestamp() or dtype.is_date():
        is_instant = dtype.is_timestamp() and dtype.timezone is not None
        return _since_1970(_in_utc(value.cast("timestamp(6)"), "UTC" if is_instant else zone))
    if form in EPOCH_UNITS or form == NANOSECONDS:
        return _counted_us(value, form)
    if not dtype.is_string():
        value = value.cast("string")
    if form == ISO:
        return _iso_us(text(value), zone)
    return _since_1970(_in_utc(_try_strptime(text(value), ibis.literal(form)), zone))


def _iso_us(value: ir.StringValue, zone: str) -> ir.IntegerValue:
    # Go prints "+0000 UTC". DuckDB looks a zone up by its name for each row, thirty times slower than Z.
    value = value.replace(" +0000 UTC", "Z").replace(" UTC", "Z").replace(" GMT", "Z")
    # Engines know words such as "infinity" and "today".
    value = value.left(2).isin(("19", "20")).ifelse(value, ibis.null("string"))
    moment = value.try_cast(dt.Timestamp(timezone="UTC")).cast("timestamp(6)")
    if zone == "UTC":
        return _since_1970(moment)
    has_offset = value.re_search(_OFFSET)
    result: ir.IntegerValue = has_offset.ifelse(_since_1970(moment), _since_1970(_in_utc(moment, zone)))
    return result


def _counted_us(value: ir.Value, unit: str) -> ir.IntegerValue:
    """A count since 1970: exact for whole numbers and for decimal text, rounded to a microsecond for floats."""
    if value.type().is_integer():
        counted = value.try_cast("int64")
        us = _thousandth(counted) if unit == NANOSECONDS else _times(counted, EPOCH_UNITS[unit])
        return us.cast("int64")
    per_us = 0.001 if unit == NANOSECONDS else float(EPOCH_UNITS[unit])
    parsed = number(value)
    fits = (parsed.abs() * per_us < _MAX_WHOLE_FLOAT).fill_null(False)
    rounded = fits.ifelse((fits.ifelse(parsed, 0.0) * per_us).round(0).try_cast("int64"), ibis.null("int64"))
    if not value.type().is_string():
        return rounded
    digits = text(value)
    is_plain = digits.re_search(_WHOLE_SECONDS).fill_null(False)
    before = digits.re_extract(r"^([+-]?[0-9]+)", 1).try_cast("int64")
    if unit == NANOSECONDS:
        exact: ir.IntegerValue = _thousandth(before)
    else:
        num_digits = {"s": 6, "ms": 3, "us": 0}[unit]
        exact = _times(before, EPOCH_UNITS[unit])
        if num_digits:
            fraction = digits.re_extract(r"[.]([0-9]*)$", 1).fill_null("").rpad(num_digits, "0").left(num_digits)
            exact = exact + fraction.try_cast("int64") * (EPOCH_UNITS[unit] // 10**num_digits) * digits.startswith(
                "-"
            ).ifelse(-1, 1)
    result: ir.IntegerValue = is_plain.ifelse(exact, rounded)
    return result


def _thousandth(value: ir.IntegerValue) -> ir.IntegerValue:
    """The whole part of a thousandth. Ibis divides as floats, which don't hold 19 digits: the rest goes before."""
    thousandth: ir.IntegerValue = ((value - value % 1_000) / 1_000).round(0).try_cast("int64")
    return thousandth


def _times(value: ir.IntegerValue, factor: int) -> ir.IntegerValue:
    """The product; null where it would leave what an int64 holds."""
    limit = 2**62 // factor
    product: ir.IntegerValue = value.between(-limit, limit).ifelse(value, ibis.null("int64")) * factor
    return product.cast("int64")


def _in_utc(moment: ir.TimestampValue, zone: str) -> ir.TimestampValue:
    return moment if zone == "UTC" else _timezone(ibis.literal(zone), moment).cast("timestamp(6)")


def _since_1970(moment: ir.TimestampValue) -> ir.IntegerValue:
    """Whole seconds and microseconds apart: engines round a fraction differently.

    The cast to a float keeps Ibis from dropping the one to an integer, without which DuckDB goes on with a float.
    """
    seconds = moment.truncate("s").epoch_seconds().cast("float64").cast("int64")
    us: ir.IntegerValue = seconds * 1_000_000 + moment.microsecond().cast("int64")
    return us


@ibis.udf.scalar.builtin(name="try_strptime", signature=(("string", "string"), dt.Timestamp(scale=6)))  # type: ignore[untyped-decorator]
def _try_strptime(value: Any, form: Any) -> Any:
    """A text read by a pattern; null where it doesn't fit. As DuckDB has it."""


@ibis.udf.scalar.builtin(name="timezone", signature=(("string", dt.Timestamp(scale=6)), dt.Timestamp(timezone="UTC")))  # type: ignore[untyped-decorator]
def _timezone(zone: Any, moment: Any) -> Any:
    """The instant at which a clock in a zone showed a time, as DuckDB has it."""


def flag(value: ir.Value) -> ir.BooleanValue:
    """A truth by the words in use for it; null for other words."""
    if value.type().is_boolean():
        return value
    word = text(value).lower()
    return ibis.cases(
        (among(word, ("true", "t", "yes", "y", "1", "1.0", "in stock", "in_stock", "instock", "available")), True),
        (
            among(
                word, ("false", "f", "no", "n", "0", "0.0", "out of stock", "out_of_stock", "outofstock", "unavailable")
            ),
            False,
        ),
        else_=ibis.null("boolean"),
    )


def clean_title(value: ir.Value) -> ir.StringValue:
    """A text with HTML's entities as the signs they stand for, and single spaces."""
    raw = text(value)
    cleaned: ir.StringValue = raw.re_search(_UNCLEAN).ifelse(_cleaned(raw).nullif(""), raw)
    return cleaned


@ibis.udf.scalar.pyarrow(signature=(("string",), "string"))  # type: ignore[untyped-decorator]
def _cleaned(values: Any) -> Any:
    """What `clean_title` says, for the few texts that need it; each distinct one once."""
    coded = pc.dictionary_encode(values)
    coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
    plain = pa.array([_plain(known) for known in coded.dictionary.to_pylist()], pa.string())
    return plain.take(coded.indices)


def _plain(raw: str) -> str:
    return " ".join(_ENTITY.sub(_sign, raw).split())


def _sign(entity: re.Match[str]) -> str:
    """The sign of an entity; one that HTML doesn't know stays as it is. What `&amp;` uncovers is no entity."""
    name = f"{entity[1]};"
    sign = html.unescape(entity[0]) if name.startswith("#") else html5.get(name, "")
    return entity[0] if sign in _NO_SIGN else sign


def category_path(value: ir.Value, separator: str = "") -> ir.StringValue:
    """A category as a path, its parts joined by ` > `. A comma before a space belongs to a name, and separates nothing.

    Dotted codes also lose their underscores. `any` takes what the text has of commas, `>`, `|` and the dots of a code,
    in this order. Without a separator only the text is cleaned.
    """
    raw = clean_title(value)
    if not separator:
        return raw
    if separator == ".":
        return _of_code(raw)
    if separator != ANY_SEPARATOR:
        return _parted(raw, separator)
    result: ir.StringValue = ibis.cases(
        (raw.re_search(r",[^ ,]"), _parted(raw, ",")),
        (raw.contains(">"), _parted(raw, ">")),
        (raw.contains("|"), _parted(raw, "|")),
        (raw.re_search(_CODE), _of_code(raw)),
        else_=raw,
    )
    return result


def _of_code(raw: ir.StringValue) -> ir.StringValue:
    code: ir.StringValue = raw.replace("_", " ").replace(".", CATEGORY_SEPARATOR)
    return code


def _parted(raw: ir.StringValue, separator: str) -> ir.StringValue:
    if separator == ",":
        # A comma that parts names has no space behind it.
        raw = raw.re_replace(r",([^ ,])", "\x01\\1").re_replace(r",+$", "")
        separator = "\x01"
    escaped = "".join(f"[{sign}]" if sign not in "\\^" else f"\\{sign}" for sign in separator.strip())
    joined = raw.re_replace(rf"\s*{escaped}\s*", CATEGORY_SEPARATOR)
    joined = joined.re_replace(r"^( > )+|( > )+$", "").re_replace(r"( > ){2,}", CATEGORY_SEPARATOR)
    path: ir.StringValue = joined.nullif("")
    return path


def first_listed(value: ir.Value) -> ir.StringValue:
    """The first of a list in a text: a JSON list of texts, or parts between bars."""
    raw = text(value).re_replace(r'^\[\s*"?|"?\s*\]$', "")
    return text(raw.re_replace(r'("\s*,\s*"|[|]).*$', ""))


def joined_levels(levels: Sequence[ir.Value]) -> ir.StringValue:
    """A category path of its levels, the widest first; of a level that is a list the first counts."""
    parts = [(ibis.literal(CATEGORY_SEPARATOR) + first_listed(level)).fill_null("") for level in levels]
    joined: ir.StringValue = functools.reduce(operator.add, parts)
    return clean_title(joined.re_replace(r"^ > ", ""))


def canonical(value: ir.Value) -> ir.StringValue:
    """The value as text that is the same on every engine, for digests."""
    dtype = value.type()
    if dtype.is_timestamp() or dtype.is_date():
        return moment_us(value).cast("string")
    if dtype.is_floating():
        small = (value.abs() < 9e9).fill_null(False)
        units = (small.ifelse(value, 0.0).cast("float64") * 1e9).round(0).try_cast("int64").cast("string")
        result: ir.StringValue = small.ifelse(units, value.cast("string"))
        return result
    as_string: ir.StringValue = value.cast("string")
    return as_string


def plain_number(value: ir.StringValue) -> ir.StringValue:
    """A number's text without zeros that say nothing, `2.50` as `2.5`; any other text as it is."""
    shorter = value.re_replace(r"^([+-]?[0-9]+)[.]0*$", "\\1").re_replace(r"^([+-]?[0-9]+[.][0-9]*[1-9])0+$", "\\1")
    result: ir.StringValue = value.contains(".").ifelse(shorter, value)
    return result


def digest(values: Mapping[str, ir.Value]) -> ir.StringValue:
    """MD5 of the values that aren't null, with their names, in the order of the names."""
    parts = [ibis.literal(f"{name}=") + canonical(value) for name, value in sorted(values.items())]
    # Joining leaves out nulls.
    joined: ir.StringValue = ibis.literal(_SEPARATOR).join(parts)
    return md5_hex(joined)


def json_object(values: Mapping[str, ir.Value]) -> ir.StringValue:
    """The values as one JSON object of texts; null when all of them are."""
    if not values:
        return ibis.null("string")
    texts = {name: value.cast("string") for name, value in values.items()}
    has_any = functools.reduce(operator.or_, (value.notnull() for value in texts.values()))
    result: ir.StringValue = has_any.ifelse(json_text(ibis.struct(texts)), ibis.null("string"))
    return result


def json_text(value: ir.Value) -> ir.StringValue:
    """A struct or a list as the text of its JSON."""
    to_json = ibis.udf.scalar.builtin(_to_json, name="to_json", signature=((value.type(),), dt.string))
    result: ir.StringValue = to_json(value).cast("string")
    return result


def _to_json(value: Any) -> str:  # type: ignore[empty-body]
    """JSON text of a struct or a list, as DuckDB and Spark both have it."""


def first_of(values: Sequence[ir.Value]) -> ir.StringValue:
    """The first text that isn't null."""
    result: ir.StringValue = ibis.coalesce(*[text(value) for value in values])
    return result
