"""An unknown file in, a mapping of its columns out with how sure each choice is and why; sure enough, it needs nobody."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import ibis
import pyarrow as pa

from endcap.contracts.events import EVENT_TYPES, PURCHASE
from endcap.ingest import door, reader
from endcap.ingest.lines import encoding_of, text_lines
from endcap.ingest.sources import cells
from endcap.ingest.sources.event_words import folded_word, known_words
from endcap.ingest.sources.mapping import IGNORE, Cell, EventMapping
from endcap.ingest.sources.normalized import NOT_USED

NUM_SAMPLED: Final = 20_000
"""Rows from the head of the file that are looked at."""

SURE: Final = "sure"
LIKELY: Final = "likely"
DOUBTFUL: Final = "doubtful"

UTF_8: Final = "utf-8"

_MAX_LINES_OF_A_CELL: Final = 1_000
_ENOUGH: Final = 0.9
_MAX_EVENT_TYPES: Final = 60
_EXACT: Final = 1.0
# Short names that say what they are even at the end of another.
_SHORT_ENDINGS: Final = ("sku",)
_ENDING: Final = 0.6

# Names as columns bear them, folded to snake case, the most telling first.
NAMES: Final[Mapping[str, Sequence[str]]] = {
    "ts": (
        "event_time", "ts_us", "event_timestamp", "timestamp", "ts", "time_stamp", "datetime", "occurred_at", "event_date",
        "created_at", "invoice_date", "order_date", "purchase_date", "transaction_timestamp", "transaction_date",
        "order_time", "time", "unix_time", "unix_timestamp", "date", "day",
    ),
    "event_type": (
        "event_type", "event_name", "event", "action", "action_type", "behavior_type", "behaviour_type", "behavior",
        "behaviour", "interaction_type", "interaction", "activity", "type",
    ),
    "user_id": (
        "user_id", "customer_id", "visitor_id", "client_id", "household_id", "member_id", "shopper_id", "buyer_id",
        "account_id", "reviewer_id", "userid", "customerid", "visitorid", "user_key", "user", "customer", "visitor", "uid",
        "user_pseudo_id",
    ),
    "item_id": (
        "item_id", "product_id", "sku", "asin", "parent_asin", "article_id", "stock_code", "stockcode", "variant_id",
        "product_code", "goods_id", "itemid", "productid", "movie_id", "item", "product", "article",
    ),
    "event_id": ("event_id", "eventid", "message_id", "event_uuid", "insert_id"),
    "guest_id": ("guest_id", "anonymous_id", "device_id", "cookie_id", "user_pseudo_id", "visitor_id", "visitorid"),
    "price": ("price", "unit_price", "item_price", "product_price", "unitprice", "price_usd", "price_eur"),
    "quantity": ("quantity", "qty", "num_units", "units", "amount_of_items"),
    "value": ("value", "sales_value", "line_total", "total_price", "amount", "revenue", "total", "sales"),
    "currency": ("currency", "currency_code"),
    "basket_id": (
        "basket_id", "order_id", "invoice_no", "invoice", "invoice_id", "invoiceno", "transaction_id", "transactionid",
        "order_number", "cart_id",
    ),
    "session_id": ("session_id", "user_session", "session", "ga_session_id", "visit_id", "sessionid"),
    "title": ("title", "product_name", "item_name", "product_title", "name", "description"),
    "category": ("category_path", "category_code", "category_name", "category", "product_category", "categories"),
    "brand": ("brand", "brand_name", "manufacturer"),
    "country": ("country", "country_code", "country_name"),
}  # fmt: skip
_NEEDED: Final = ("user_id", "item_id", "event_type", "ts")
_ID_FIELDS: Final = ("user_id", "item_id", "event_id", "guest_id", "basket_id", "session_id")
_PATTERNS: Final = (
    "%Y/%m/%d %H:%M:%S", "%Y/%m/%d %H:%M", "%Y/%m/%d", "%d/%m/%Y %H:%M:%S", "%d/%m/%Y %H:%M", "%d/%m/%Y",
    "%m/%d/%Y %H:%M:%S", "%m/%d/%Y %H:%M", "%m/%d/%Y", "%m/%d/%y %H:%M", "%d/%m/%y %H:%M", "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M", "%d.%m.%Y", "%d-%m-%Y %H:%M:%S", "%d-%m-%Y %H:%M", "%d-%m-%Y", "%Y%m%d", "%Y%m%d%H%M%S",
    "%b %d, %Y", "%d %b %Y",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What one field of an event was taken to stand in."""

    field: str
    column: str
    sureness: str
    why: str


@dataclass
class Guess:
    """A proposed mapping, what speaks for it and what somebody has to decide."""

    mapping: EventMapping
    findings: list[Finding] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)
    """What keeps the mapping from being used unseen, each with what to do."""


@dataclass(frozen=True)
class Column:
    """A column of a file's head: its name, also in snake case, its values that aren't empty, and their type."""

    name: str
    folded: str
    values: list[Any]
    dtype: pa.DataType


@dataclass(frozen=True)
class Candidate:
    """A column that may hold a field, how sure that is, and how it would be read."""

    column: Column
    score: float
    why: str
    cell: Cell


def guess_mapping(path: Path) -> Guess:
    """Look at names, types and values of the head of a file. Raises InputError when it can't be read."""
    is_text = door.file_kind(path) is not door.FileKind.PARQUET
    door.check_present(path)
    encoding = encoding_of(path) if is_text else UTF_8
    door.check_has_rows(path, encoding=encoding)
    columns = columns_of(path, encoding)
    guess = _chosen({name: candidates(NAMES[name], columns, name) for name in NAMES})
    if encoding != UTF_8:
        guess.mapping = dataclasses.replace(guess.mapping, encoding=encoding)
        guess.findings.append(Finding("encoding", encoding, LIKELY, "its bytes are no UTF-8"))
        guess.doubts.append(
            f"the text is no UTF-8 and was read as {encoding}: keep it if words with accents look right"
        )
    return guess


def columns_of(path: Path, encoding: str = UTF_8) -> list[Column]:
    """The columns of a file with values that aren't empty, from its head."""
    return [Column(name, folded_name(name), *found) for name, found in sample(path, encoding).items()]


def sample(path: Path, encoding: str = UTF_8) -> dict[str, tuple[list[Any], pa.DataType]]:
    """Values that aren't empty of each column of the file's head, and its type."""
    with tempfile.TemporaryDirectory() as folder:
        connection = ibis.duckdb.connect(memory_limit="512MB", threads=2, temp_directory=folder)
        try:
            connection.raw_sql("SET TimeZone = 'UTC'")
            head = head_of(path, Path(folder), NUM_SAMPLED, encoding)
            rows = reader.read_rows(connection, [head], encoding=encoding).limit(NUM_SAMPLED)
            table = connection.to_pyarrow(rows.drop("row_number", reader.MALFORMED_LINE))
        finally:
            connection.disconnect()
    return {name: (_known(table.column(name)), table.schema.field(name).type) for name in table.column_names}


def head_of(path: Path, folder: Path, num_rows: int, encoding: str = UTF_8) -> Path:
    """A text file's first rows as a file of the same name below `folder`; a Parquet file as it is.

    Of a CSV a cell that goes over several lines isn't cut.
    """
    kind = door.file_kind(path)
    if kind is door.FileKind.PARQUET:
        return path
    head = folder / path.name.removesuffix(".gz")
    num_quotes = 0
    with head.open("w", encoding=encoding, errors="replace", newline="\n") as file:
        for place, line in enumerate(text_lines(path, encoding)):
            is_inside = kind is door.FileKind.CSV and num_quotes % 2 == 1
            if place > num_rows + (_MAX_LINES_OF_A_CELL if is_inside else 0):
                break
            num_quotes += line.count('"')
            file.write(f"{line}\n")
    return head


def _known(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_temporal(column.type) and not pa.types.is_date(column.type):
        column = column.cast(pa.string())
    values = column.to_pylist()
    return [value for value in values if value is not None and str(value).strip() not in cells.NOTHING]


def folded_name(column: str) -> str:
    """A column's name, of a nested one the last part, in snake case."""
    return folded_word(column.rsplit(".", 1)[-1])


def candidates(names: Sequence[str], columns: Sequence[Column], field_name: str) -> list[Candidate]:
    """Columns that may hold a field which bears one of the names, the best first."""
    found = []
    for column in columns:
        by_name = name_score(names, column.folded)
        check = _CHECKS.get(field_name, _any_value)
        if column.values and by_name and (cell := check(column)) is not None:
            why = "its name says so" if by_name > _ENDING else f"its name ends like {field_name}"
            found.append(Candidate(column, by_name, why, cell))
    return sorted(found, key=lambda candidate: -candidate.score)


def name_score(names: Sequence[str], folded: str) -> float:
    """How well a folded column's name fits the names, the first of which are the most telling; 0: not at all."""
    plain = folded.replace("_", "")
    for place, known in enumerate(names):
        if folded == known or plain == known.replace("_", ""):
            return _EXACT - 0.01 * place
    endings = [known for known in names if "_" in known or len(known) > 5 or known in _SHORT_ENDINGS]
    return _ENDING if any(folded.endswith(f"_{known}") for known in endings) else 0.0


def _any_value(column: Column) -> Cell | None:
    return Cell(columns=(column.name,))


def _id_value(column: Column) -> Cell | None:
    """Ids are texts or whole numbers, not moments or fractions."""
    if pa.types.is_temporal(column.dtype) or pa.types.is_nested(column.dtype) or pa.types.is_boolean(column.dtype):
        return None
    return Cell(columns=(column.name,))


def _amount(column: Column) -> Cell | None:
    if pa.types.is_temporal(column.dtype):
        return None
    texts = [str(value).strip() for value in column.values]
    for decimal, pattern in ((".", r"[+-]?\d*\.?\d+(e[+-]?\d+)?"), (",", r"[+-]?\d+,\d+|[+-]?\d+")):
        if _share(texts, lambda text, form: re.fullmatch(form, text, re.IGNORECASE), pattern) >= _ENOUGH:
            return Cell(columns=(column.name,), decimal=decimal)
    return None


def _category(column: Column) -> Cell | None:
    texts = [str(value) for value in column.values]
    signs = ((" > ", ""), (">", ">"), ("|", "|"), ("/", "/"))
    for sign, separator in signs:
        if _share(texts, lambda text, part: part in text, sign) > 0.3:
            return Cell(columns=(column.name,), separator=separator)
    if _share(texts, lambda text: re.fullmatch(r"[\w-]+(\.[\w-]+)*", text)) > _ENOUGH and any("." in t for t in texts):
        return Cell(columns=(column.name,), separator=".")
    if _share(texts, lambda text: re.search(r"\S,\S", text)) > 0.3:
        return Cell(columns=(column.name,), separator=",")
    return Cell(columns=(column.name,))


def _words(column: Column) -> Cell | None:
    """A few words, of which some are known."""
    words = {str(value).strip() for value in column.values}
    if len(words) > _MAX_EVENT_TYPES or not any(folded_word(word) in known_words() for word in words):
        return None
    return Cell(columns=(column.name,))


def _moments(column: Column) -> Cell | None:
    forms = time_forms(column.values, column.dtype)
    return Cell(columns=(column.name,), format=forms[0]) if forms else None


def time_forms(values: Sequence[Any], dtype: pa.DataType) -> list[str]:
    """Every form in which nine of ten values are moments between 1990 and today's next day, the plainest first."""
    if pa.types.is_timestamp(dtype) or pa.types.is_date(dtype):
        return [cells.ISO]
    texts = [str(value).strip() for value in values[:2_000]]
    if not texts:
        return []
    if _share(texts, lambda text: re.match(r"(19|20)\d\d-\d{1,2}-\d{1,2}($|[T ]\d)", text)) >= _ENOUGH:
        return [cells.ISO]
    forms = []
    end = datetime.now(UTC).timestamp() + 86_400
    for unit, per_second in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        low, high = cells.FIRST_US / 1e6 * per_second, end * per_second
        if _share(texts, _lies_between, low, high) >= _ENOUGH:
            forms.append(unit)
    forms += [form for form in _PATTERNS if _share(texts, _fits, form) >= _ENOUGH]
    return forms


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _fits(text: str, form: str) -> bool:
    try:
        year = datetime.strptime(text, form).year
    except ValueError:
        return False
    return 1990 <= year <= date.today().year + 1


def _share(values: Sequence[str], holds: Callable[..., object], *criterion: object) -> float:
    return sum(1 for value in values if holds(value, *criterion)) / len(values) if values else 0.0


def _lies_between(text: str, low: float, high: float) -> bool:
    found = _float(text)
    return found is not None and low <= found <= high


_CHECKS: Final[Mapping[str, Callable[[Column], Cell | None]]] = {
    **dict.fromkeys(_ID_FIELDS, _id_value),
    **dict.fromkeys(("price", "quantity", "value"), _amount),
    "category": _category,
    "event_type": _words,
    "ts": _moments,
}


def _chosen(candidates: Mapping[str, list[Candidate]]) -> Guess:
    """The best column for each field, no column twice; needed fields first."""
    guess = Guess(EventMapping({}))
    chosen: dict[str, Candidate] = {}
    taken: set[str] = set()
    for name in (*_NEEDED, *(name for name in NAMES if name not in _NEEDED)):
        open_ones = [candidate for candidate in candidates[name] if candidate.column.name not in taken]
        if not open_ones:
            continue
        best = open_ones[0]
        rivals = [other.column.name for other in open_ones[1:] if _is_rival(name, best, other)]
        sureness = DOUBTFUL if rivals else SURE if best.score > _ENDING else LIKELY
        guess.findings.append(Finding(name, best.column.name, sureness, best.why))
        if rivals and name in _NEEDED:
            guess.doubts.append(f"{name} may be {best.column.name} or {' or '.join(rivals)}: keep one")
        chosen[name] = best
        taken.add(best.column.name)
    if {"price", "quantity", "value"} <= chosen.keys():
        del chosen["value"]
        guess.findings = [finding for finding in guess.findings if finding.field != "value"]
    _judge_moments(guess, chosen)
    cells_found = {name: candidate.cell for name, candidate in chosen.items()}
    event_types = _event_types(guess, chosen, cells_found)
    doubts = {
        "user_id": "no column names a user",
        "item_id": "no column names a product",
        "ts": "no column holds moments",
    }
    for name, doubt in doubts.items():
        if name not in cells_found:
            guess.doubts.append(f"{doubt}: fill in columns.{name}")
            cells_found[name] = Cell(columns=("FILL_IN",))
    order = {name: place for place, name in enumerate((*_NEEDED, *(n for n in NAMES if n not in _NEEDED)))}
    ordered = dict(sorted(cells_found.items(), key=lambda entry: order[entry[0]]))
    guess.mapping = EventMapping(columns=ordered, event_types=event_types)
    return guess


def _is_rival(name: str, best: Candidate, other: Candidate) -> bool:
    """Whether the other column is as likely as the best: both names are known ones, or neither is."""
    if name == "user_id" and other.column.folded in NAMES["guest_id"]:
        return False
    return (best.score > _ENDING) == (other.score > _ENDING)


def _judge_moments(guess: Guess, chosen: Mapping[str, Candidate]) -> None:
    if "ts" not in chosen:
        return
    column = chosen["ts"].column
    forms = time_forms(column.values, column.dtype)
    if len(forms) > 1:
        guess.doubts.append(
            f"{column.name} may be written as {' or '.join(forms)}: keep the one that is meant as columns.ts.format"
        )


def _event_types(guess: Guess, chosen: Mapping[str, Candidate], found: dict[str, Cell]) -> dict[str, str]:
    if "event_type" not in chosen:
        # Rows of orders, as shops without a clickstream have them.
        found["event_type"] = Cell(constant=PURCHASE)
        guess.doubts.append(
            "no column says what happened: columns.event_type.constant is taken to be purchase, check it"
        )
        return {}
    words = sorted({str(value).strip() for value in chosen["event_type"].column.values})
    known = known_words()
    unknown = [word for word in words if folded_word(word) not in known]
    if unknown:
        guess.doubts.append(f"event_types lacks {', '.join(unknown)}: say what each means, or {IGNORE}")
    if all(word in EVENT_TYPES for word in words):
        return {}
    named = {word: known[folded_word(word)] for word in words if folded_word(word) in known}
    return {word: IGNORE if name == NOT_USED else name for word, name in named.items()}
