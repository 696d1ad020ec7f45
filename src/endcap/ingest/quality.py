"""Normalized rows of any source in, the same rows judged by rules that all sources share out: time, people, products."""

from __future__ import annotations

import functools
import operator
import time
from typing import Any, Final

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir
import msgspec

from endcap.contracts import columns as c
from endcap.contracts.errors import InputError
from endcap.contracts.events import EVENT_TYPES, ITEM_OPTIONAL, SESSION_GAP_MINUTES
from endcap.ingest.sources.protocol import NORMALIZED_TYPES, OPTIONAL_TYPES

MISSING_EVENT_ID: Final = "missing_event_id"
MISSING_USER: Final = "missing_user"
MISSING_ITEM: Final = "missing_item"
UNKNOWN_EVENT_TYPE: Final = "unknown_event_type"
MISSING_TIME: Final = "missing_time"
TIME_OUT_OF_RANGE: Final = "time_out_of_range"
FUTURE_EVENT: Final = "future_event"
TEXT_TOO_LONG: Final = "text_too_long"
BOT: Final = "bot"

COMMON_REASONS: Final = (
    MISSING_EVENT_ID,
    MISSING_USER,
    UNKNOWN_EVENT_TYPE,
    MISSING_ITEM,
    MISSING_TIME,
    TIME_OUT_OF_RANGE,
    FUTURE_EVENT,
    TEXT_TOO_LONG,
)
"""Why a row of any source may be quarantined, in the order in which they are tried, after the source's own reasons."""

EARLIEST_US: Final = 631_152_000_000_000
"""1990-01-01: clocks that were never set say 1970 or 1980."""
MAX_EVENTS_PER_USER_PER_DAY: Final = 2_000
MAX_ID_LENGTH: Final = 1_000
MAX_TEXT_LENGTH: Final = 100_000
MINUTES_PER_DAY: Final = 1_440
US_PER_SECOND: Final = 1_000_000

_IDS: Final = (c.EVENT_ID, c.USER_ID, c.GUEST_ID, c.ITEM_ID, c.BASKET_ID)
_TEXTS: Final = (c.PROPERTIES, c.TITLE, c.CATEGORY, c.BRAND, c.CURRENCY, c.COUNTRY)


class IngestSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an ingest is told beside its export. Raises InputError where a value makes no sense."""

    session_gap_minutes: int | None = None
    """A longer pause between a user's events begins a new session; a day at most. None: as in force, else 30."""
    max_events_per_user_per_day: int | None = None
    """Users with more on one day are taken for bots: that day's events of theirs go to quarantine. None: as in force,
    else 2,000."""
    future_days: int = 1
    """How far an event may lie ahead of the moment of the ingest: clocks and time zones err."""
    latest_us: int | None = None
    """The moment of the ingest, in microseconds since 1970; the clock's by default."""
    late_days: int = 3
    """Events more than so many days before the newest of their batch are counted as late, unless most of the batch is
    that old, which makes it history; they are accepted."""
    max_quarantined_share: float = 0.5
    """A batch with a larger share of bad rows is refused, and the whole ingest with it."""
    max_quarantined: dict[str, float] = {}
    """The same for single reasons, by their names."""
    catalog_as_of_us: int | None = None
    """Since when a catalog holds that doesn't tell it itself; the moment of the ingest by default."""

    def __post_init__(self) -> None:
        gap = self.session_gap_minutes
        if gap is not None and not 1 <= gap <= MINUTES_PER_DAY:
            raise InputError(f"session_gap_minutes is {gap}; expected a whole number from 1 to {MINUTES_PER_DAY}.")
        for name in ("max_events_per_user_per_day", "future_days", "late_days"):
            if (getattr(self, name) or 0) < 0:
                raise InputError(f"{name} is {getattr(self, name)}; expected 0 or more.")
        shares = {f"max_quarantined of {reason}": share for reason, share in self.max_quarantined.items()}
        for name, share in {"max_quarantined_share": self.max_quarantined_share, **shares}.items():
            if not 0 <= share <= 1:
                raise InputError(f"{name} is {share}; expected a share from 0 to 1.")

    @property
    def gap_minutes(self) -> int:
        """The session gap, or the default where none is given."""
        return SESSION_GAP_MINUTES if self.session_gap_minutes is None else self.session_gap_minutes

    @property
    def max_events(self) -> int:
        """The limit of events of a user and day, or the default where none is given."""
        given = self.max_events_per_user_per_day
        return MAX_EVENTS_PER_USER_PER_DAY if given is None else given

    @property
    def built_with(self) -> dict[str, int]:
        """The settings that decide what landed rows become, by their names: what a dataset keeps of them."""
        return {"session_gap_minutes": self.gap_minutes, "max_events_per_user_per_day": self.max_events}

    @property
    def now_us(self) -> int:
        """The moment of the ingest, in microseconds since 1970."""
        return int(time.time() * US_PER_SECOND) if self.latest_us is None else self.latest_us


def judged(rows: ir.Table, *, latest_us: int) -> ir.Table:
    """Complete a source's normalized rows: all optional columns, `event_date`, and `reason` by the common rules too.

    A reason of the source's own stays. `latest_us` is the last moment an event may have.
    """
    types = {**NORMALIZED_TYPES, **OPTIONAL_TYPES}
    whole = rows.select(
        **{name: (rows[name] if name in rows.columns else ibis.null()).cast(dtype) for name, dtype in types.items()}
    )
    texts = [(whole[name].length() > MAX_ID_LENGTH).fill_null(False) for name in _IDS]
    texts += [(whole[name].length() > MAX_TEXT_LENGTH).fill_null(False) for name in _TEXTS]
    common = ibis.cases(
        (_is_blank(whole[c.EVENT_ID]), MISSING_EVENT_ID),
        (_is_blank(whole[c.USER_ID]), MISSING_USER),
        (~whole[c.EVENT_TYPE].isin(EVENT_TYPES).fill_null(False), UNKNOWN_EVENT_TYPE),
        (_is_blank(whole[c.ITEM_ID]) & whole[c.EVENT_TYPE].notin(ITEM_OPTIONAL), MISSING_ITEM),
        (whole[c.TS_US].isnull(), MISSING_TIME),
        (whole[c.TS_US] < EARLIEST_US, TIME_OUT_OF_RANGE),
        (whole[c.TS_US] > latest_us, FUTURE_EVENT),
        (functools.reduce(operator.or_, texts), TEXT_TOO_LONG),
        else_=ibis.null("string"),
    )
    reason = ibis.coalesce(whole[c.REASON], common)
    # Bad rows may hold moments that no calendar has.
    moment_us = ibis.ifelse(reason.isnull(), whole[c.TS_US], 0)
    return whole.mutate(**{c.REASON: reason, c.EVENT_DATE: utc_date(moment_us)})


def _is_blank(text: ir.Value) -> ir.BooleanValue:
    blank: ir.BooleanValue = text.isnull() | (text == "")
    return blank


def utc_date(ts_us: ir.IntegerValue) -> ir.DateValue:
    """The day of a moment."""
    # By way of a timestamp: to Ibis a date and days are a date, to DuckDB a timestamp.
    date: ir.DateValue = (ts_us // US_PER_SECOND).as_timestamp("s").date()
    return date


def deduplicated(rows: ir.Table) -> ir.Table:
    """Of a day's rows with the same `event_id` the one of the lowest (`batch`, `row_number`), which are unique."""
    ids, places = [c.EVENT_DATE, c.EVENT_ID], [c.BATCH, c.ROW_NUMBER]
    # Few ids are repeated: those alone are put in order, and the wide rows only pass by.
    narrow = rows.select(*ids, *places)
    repeated = narrow.group_by(ids).having(narrow.count() > 1).aggregate()
    several = narrow.semi_join(repeated, ids)
    same = ibis.window(group_by=ids, order_by=places)
    surplus = several.mutate(place=ibis.row_number().over(same))
    return rows.anti_join(surplus.filter(surplus.place > 0), places)


def bots(rows: ir.Table, *, max_events_per_user_per_day: int) -> ir.Table:
    """`event_date, user_id` of users with more events on that day than anybody makes by hand."""
    counts = rows.group_by([c.EVENT_DATE, c.USER_ID]).aggregate(num_events=rows.count())
    return counts.filter(counts.num_events > max_events_per_user_per_day).select(c.EVENT_DATE, c.USER_ID)


def json_of(value: ir.Value) -> ir.StringValue:
    """JSON text of a value."""
    to_json = ibis.udf.scalar.builtin(_to_json, name="to_json", signature=((value.type(),), dt.string))
    text: ir.StringValue = to_json(value).cast("string")
    return text


def _to_json(value: Any) -> str:  # type: ignore[empty-body]
    """JSON text of a value, as DuckDB and Spark both have it."""
