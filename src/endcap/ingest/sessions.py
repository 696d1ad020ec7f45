"""Events in, the same events with `session_id` out: a session ends after a pause."""

from __future__ import annotations

import ibis
import ibis.expr.types as ir

from endcap.contracts import columns as c
from endcap.contracts.events import US_PER_MINUTE


def with_sessions(events: ir.Table, *, gap_minutes: int) -> ir.Table:
    """Add `session_id`: a user's events belong together while none comes more than `gap_minutes` after the one before.

    `event_id` must be unique: together with `ts_us` it orders events, so that ties don't tear sessions differently on
    each run. The id is a digest of the user and the session's first event.
    """
    order = [events[c.TS_US], events[c.EVENT_ID]]
    by_user = ibis.window(group_by=events[c.USER_ID], order_by=order)
    pause_us = events[c.TS_US] - events[c.TS_US].lag().over(by_user)
    starts = (pause_us > gap_minutes * US_PER_MINUTE).fill_null(True)
    marked = events.mutate(session_start=starts.ifelse(events[c.TS_US], ibis.null("int64")))
    so_far = ibis.window(
        group_by=marked[c.USER_ID], order_by=[marked[c.TS_US], marked[c.EVENT_ID]], preceding=None, following=0
    )
    # Starts only grow with time, so the largest so far is the latest: no running sum, whose type engines disagree on.
    start_us = marked["session_start"].max().over(so_far)
    session_id = (marked[c.USER_ID] + "\x1f" + start_us.cast("string")).hexdigest("md5")
    return marked.mutate(**{c.SESSION_ID: session_id}).drop("session_start")
