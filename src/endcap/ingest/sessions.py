"""Events in, the same events with `session_id` out: a session ends after a pause, and goes on across midnight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import ibis
import ibis.expr.datatypes as dt
import ibis.expr.types as ir

from endcap.contracts import columns as c
from endcap.contracts.events import US_PER_DAY, US_PER_MINUTE
from endcap.engines.portable import md5_hex

_IS_EVENT = "is_event"
_SESSION_START = "session_start"
_KEY = "key_{}"


def with_sessions(
    events: ir.Table,
    *,
    gap_minutes: int,
    open_sessions: ir.Table | None = None,
    key: Sequence[str] = (c.USER_ID, c.TS_US, c.EVENT_ID),
    chosen: ir.Table | None = None,
) -> ir.Table:
    """Add `session_id` and `start_us`: a user's events belong together while none comes more than `gap_minutes` later.

    The id is a digest of the user and of the session's first moment, `start_us`. `open_sessions` (`user_id, start_us,
    end_us`) are sessions of days that are not among `events` and may go on in them. `key` are columns that are unique
    in `events` and never null: the shorter they are, the faster it goes. `chosen` (key, `user_id`, `ts_us`) are the
    events that count, and whose; by default all.
    """
    # Only what sessions are made of goes through the windows; the wide rows join the outcome by their key.
    narrow = events if chosen is None else chosen
    rows = narrow.select(
        *dict.fromkeys((c.USER_ID, c.TS_US, *key)), **{_IS_EVENT: True, _SESSION_START: ibis.null("int64")}
    )
    if open_sessions is not None:
        # A union wants equal types, whether or not they promise that nothing is null.
        types = {name: dtype.copy(nullable=True) for name, dtype in rows.schema().items()}
        rows = rows.cast(types).union(_as_rows(open_sessions, types))
    # Events of one moment have no order here and need none: they are in one session, whichever is taken for the first.
    # An open session comes before any event of its last moment.
    order = [c.TS_US] if open_sessions is None else [c.TS_US, _IS_EVENT]
    pause_us = rows[c.TS_US] - rows[c.TS_US].lag().over(group_by=c.USER_ID, order_by=order)
    starts = (pause_us > gap_minutes * US_PER_MINUTE).fill_null(True)
    # An open session says itself when it began; of the events those say it that begin one.
    start_us = ibis.ifelse(rows[_IS_EVENT], starts.ifelse(rows[c.TS_US], ibis.null("int64")), rows[_SESSION_START])
    marked = rows.mutate(**{_SESSION_START: start_us})
    # By range, not by rows: so that it holds the events of the same moment too. Starts only grow with time, so the
    # largest so far is the latest: no running sum, whose type engines disagree on.
    so_far = ibis.range_window(group_by=c.USER_ID, order_by=order, preceding=None, following=0)
    started = marked.mutate(**{c.START_US: marked[_SESSION_START].max().over(so_far)})
    if open_sessions is not None:
        started = started.filter(started[_IS_EVENT])
    names = dict.fromkeys((c.USER_ID, *key))
    found = started.select(c.START_US, **{_KEY.format(name): started[name] for name in names})
    joined = events.inner_join(found, [events[name] == found[_KEY.format(name)] for name in key])
    user_id = joined[_KEY.format(c.USER_ID)]
    session_id = md5_hex(user_id + "\x1f" + joined[c.START_US].cast("string"))
    return joined.mutate(**{c.USER_ID: user_id, c.SESSION_ID: session_id}).drop(*map(_KEY.format, names))


def _as_rows(open_sessions: ir.Table, types: Mapping[str, dt.DataType]) -> ir.Table:
    """Open sessions as rows at their last moment."""
    known = {
        c.USER_ID: open_sessions[c.USER_ID],
        c.TS_US: open_sessions[c.END_US],
        _SESSION_START: open_sessions[c.START_US],
        _IS_EVENT: ibis.literal(False),
    }
    return open_sessions.select(
        **{name: known[name].cast(dtype) if name in known else ibis.null(dtype) for name, dtype in types.items()}
    )


def open_at_midnight(sessions: ir.Table, *, gap_minutes: int) -> ir.Table:
    """Each day's sessions that an event on the next day could continue: `user_id, session_id, start_us, end_us, event_date`.

    `sessions` are all events of their days, with `session_id` and `start_us`; the gap is a day at most.
    """
    last = sessions.group_by([c.EVENT_DATE, c.USER_ID]).aggregate(
        **{c.START_US: sessions[c.START_US].max(), c.END_US: sessions[c.TS_US].max()}
    )
    midnight_us = (last[c.END_US] // US_PER_DAY + 1) * US_PER_DAY
    still = last.filter(midnight_us - last[c.END_US] <= gap_minutes * US_PER_MINUTE)
    session_id = md5_hex(still[c.USER_ID] + "\x1f" + still[c.START_US].cast("string"))
    return still.mutate(**{c.SESSION_ID: session_id}).select(
        c.USER_ID, c.SESSION_ID, c.START_US, c.END_US, c.EVENT_DATE
    )
